"""Run one command: one-line errors and exit codes."""

from __future__ import annotations

import errno
import io
import shlex
from contextlib import nullcontext, redirect_stdout

from cyclopts import CycloptsError

from zskd.cli.app import app
from zskd.cli.help import HelpFormatter
from zskd.cli.telling import print_error, print_line
from zskd.config.checks import partial
from zskd.core.errors import ZskdError, one_line
from zskd.core.interrupt import Stopped, remembered
from zskd.core.stdio import lasting_streams
from zskd.core.torchrun import Launch

USER_ERROR, SIGNALLED = 2, 128
_NO_MEMORY = ("can't allocate memory", "out of memory", "bad_alloc")
_DIVIDED = ("distill",)
"""Verbs whose work the processes of `torchrun` divide among them."""


def main(arguments: list[str]) -> int:
    """Run one command and return its exit code: 0, 2 for a user error, 128 + n for signal n (Ctrl-C: 130).

    The command completes even when a reader of its output closes the pipe.
    """
    with lasting_streams() as output:
        try:
            launch = Launch.of_environment()
        except ZskdError as error:
            return _fail(str(error))
        with redirect_stdout(io.StringIO()) if launch.rank else nullcontext():
            code = _run(arguments, launch)
        output.flush()
        if code == 0 and output.lost:
            return _fail(f"standard output: {output.lost.strerror or one_line(output.lost)}")
        return code


def _run(arguments: list[str], launch: Launch) -> int:
    from zskd.cli import (  # noqa: F401  each registers its verb
        audit,
        check,
        distill,
        evaluate,
        export,
        golden,
        inspect,
        plan,
        predict,
        report,
        reproduce,
        run,
        show,
        synthesize,
        teacher,
        tune,
    )

    # cyclopts knows one page for all its flags of help
    app.help_formatter = page = HelpFormatter(everything="--help-all" in arguments)
    try:
        with remembered():
            if launch.several:
                _join(launch, arguments)
            with partial():  # an option stands for itself; with recipe and preset it is checked again
                command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
            command(*bound.args, **bound.kwargs)
            if launch.several:
                launch.leave()
        if page.shortened:
            print_line("\n--help-all lists all settings, and says more about these.")
    except ZskdError as error:
        return _fail(str(error), launch)
    except CycloptsError as error:
        return _fail(one_line(error), launch)
    except OSError as error:
        return _fail(
            f"{error.filename or 'input or output'}: {error.strerror or one_line(error)}{_advice(error)}",
            launch,
        )
    except (ImportError, MemoryError) as error:
        return _fail(f"{one_line(error)}: give zskd more memory, or install it again", launch)
    except RuntimeError as error:  # torch has no other kind for memory that it does not get
        if not any(words in str(error) for words in _NO_MEMORY):
            raise
        return _fail(
            "there is not enough memory: lower the batch size (--distill.batch-size, --synthesis.batch-size "
            f"or --teacher.batch-size), or --workers ({one_line(error)})",
            launch,
        )
    except KeyboardInterrupt as stop:
        how = "give the same command again" if launch.several else f"zskd {shlex.join(arguments)}"
        if launch.tells():
            print_error(f"stopped. Finished parts are kept; to resume: {how}")
        return SIGNALLED + (stop if isinstance(stop, Stopped) else Stopped()).number
    return 0


def _join(launch: Launch, arguments: list[str]) -> None:
    """Join the other processes of `torchrun`, if they are of use for the verb.

    Raises:
        ZskdError: they are not, or cannot be reached.
    """
    if arguments[:1] and arguments[0] not in _DIVIDED:
        raise ZskdError(
            f"torchrun starts {launch.world} processes, and only zskd {' and '.join(_DIVIDED)} divides its "
            f"work among them: start zskd {arguments[0]} without torchrun"
        )
    launch.join()


def _advice(error: OSError) -> str:
    many = error.errno in (errno.EMFILE, errno.ENFILE)
    return ": allow more open files (ulimit -n), or give --workers 1" if many else ""


def _fail(message: str, launch: Launch | None = None) -> int:
    if launch is None or launch.tells():
        print_error(f"zskd: error: {message}")
    return USER_ERROR
