"""The application object of the command `zskd`; every verb registers here."""

from __future__ import annotations

from cyclopts import App, Parameter

from zskd.cli.options import note_given
from zskd.core.versions import __version__


def examples(*commands: str) -> str:
    """Return the epilogue of a help page: examples."""
    return "Examples:\n\n" + "\n\n".join(f"`{command}`" for command in commands)


app = App(
    name="zskd",
    help=(
        "Zero-shot knowledge distillation: train a small student from a classifier, without its data.\n\n"
        "Start with `zskd run digits`, then `zskd run mnist`, then your own network with "
        "`zskd run my-teacher`. `zskd COMMAND --help` lists the settings of a command."
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
