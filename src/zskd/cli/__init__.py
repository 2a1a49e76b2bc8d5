"""The command line: parsing, one-line errors, exit codes."""

from __future__ import annotations

import os
import shlex
import sys

from cyclopts import App, CycloptsError, Parameter

from zskd.cli.settings import note_given
from zskd.errors import ZskdError, one_line
from zskd.interruption import remembered
from zskd.versions import __version__

USER_ERROR, INTERRUPTED = 2, 130


def examples(*commands: str) -> str:
    """Return the end of a help page."""
    return "Examples:\n\n" + "\n\n".join(f"`{command}`" for command in commands)


app = App(
    name="zskd",
    help=(
        "Zero-shot knowledge distillation: a small student from a trained classifier, without its data.\n\n"
        "Start with `zskd run digits`, then `zskd run mnist`, then a network of your own with "
        "`zskd run my-teacher`. `zskd COMMAND --help` tells the settings of each step."
    ),
    help_epilogue=examples(
        "zskd run digits",
        "zskd run my-teacher --teacher.path net.pt --model my_net.py:MyNet --count 20000",
        "zskd teacher import teacher.mat --out teacher/",
    ),
    version=__version__,
    config=note_given,
    suppress_keyboard_interrupt=False,
    # `--mean 0.5 0.4 0.3`, as well as `--mean 0.5 --mean 0.4 --mean 0.3`
    default_parameter=Parameter(consume_multiple=True),
)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code: 0, 2 for a mistake of the user's, 130 for Ctrl-C."""
    import zskd.cli.experimenting
    import zskd.cli.looking
    import zskd.cli.making
    import zskd.cli.reporting
    import zskd.cli.using  # noqa: F401  each registers its verbs

    try:
        with remembered():
            app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except ZskdError as error:
        return _complain(str(error))
    except CycloptsError as error:
        return _complain(one_line(error))
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
        return 0
    except OSError as error:
        return _complain(f"{error.filename or 'input or output'}: {error.strerror or one_line(error)}")
    except KeyboardInterrupt:
        _say(f"stopped. What is whole was kept; go on with: zskd {shlex.join(arguments)}")
        return INTERRUPTED
    return 0


def _complain(message: str) -> int:
    _say(f"zskd: error: {message}")
    return USER_ERROR


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
