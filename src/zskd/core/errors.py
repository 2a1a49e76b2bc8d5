"""The exception for the user."""


class ZskdError(Exception):
    """A wrong input or an unusable environment. The message is one line and says what to do.

    The command line prints the message without a traceback and exits with code 2.
    """


def one_line(error: BaseException) -> str:
    """Return the message of an exception in one line, for use inside another message."""
    return " ".join(str(error).split()) or type(error).__name__
