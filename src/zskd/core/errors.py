"""The one exception that the user is meant to read."""


class ZskdError(Exception):
    """A wrong input or an unusable environment, told in one line that says what to do.

    The command line prints the message without a traceback and exits with code 2.
    """


def one_line(error: BaseException) -> str:
    """Return an exception's message folded onto one line, for use inside another message."""
    return " ".join(str(error).split()) or type(error).__name__
