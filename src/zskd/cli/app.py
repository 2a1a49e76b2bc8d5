"""The application object of the command `zskd`; every verb registers here."""

from __future__ import annotations

from cyclopts import App, Group, Parameter

from zskd.cli.help import FLAGS, default_in_help, examples
from zskd.cli.typed import note_given
from zskd.core.versions import __version__

app = App(
    name="zskd",
    help=(
        "Zero-shot knowledge distillation: train a small student from a classifier, without its data.\n\n"
        "Start with `zskd run digits`, then `zskd run mnist`, then your own network with "
        "`zskd run my-teacher`. `zskd COMMAND --help` lists the settings most used of a "
        "command, `--help-all` all of them."
    ),
    help_epilogue=examples(
        "zskd run digits",
        "zskd run my-teacher --teacher.path net.pt --model my_net.py:MyNet --shape 3 32 32 --count 20000",
        "zskd teacher import teacher.mat --out teacher/",
    ),
    version=__version__,
    config=note_given,
    suppress_keyboard_interrupt=False,
    help_flags=FLAGS,
    group_parameters=Group.create_default_parameters("Options"),
    default_parameter=Parameter(
        consume_multiple=True,  # `--mean 0.5 0.4 0.3`, as well as `--mean 0.5 --mean 0.4 --mean 0.3`
        negative_iterable=(),
        show_default=default_in_help,
    ),
)
