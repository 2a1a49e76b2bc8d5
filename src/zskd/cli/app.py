"""The command `zskd`: its application object, to which every verb is added."""

from __future__ import annotations

from cyclopts import App, Parameter

from zskd.cli.options import note_given
from zskd.core.versions import __version__


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
