"""`zskd run`: all stages of a recipe."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from zskd.cli.app import app
from zskd.cli.help import examples
from zskd.cli.options import Detail, Flag, RecipeName, Settings, Trust
from zskd.cli.telling import Json, Teller, print_line
from zskd.config.groups import OUTPUT, RUN
from zskd.config.recipe import Recipe
from zskd.core.errors import ZskdError, escaped
from zskd.core.progress import Progress

_NOTHING_CHOSEN = """\
# No teacher could be opened, so nothing was chosen for it, and what this file names counts as your choice.
# Print it again with --teacher.path, or delete preset, method, count, student and the groups of settings."""


@app.command(
    group_parameters=RUN,
    help_epilogue=examples(
        "zskd run digits",
        "zskd run mnist --data-dir data --budget 3 --controls none --out runs/mnist-3",
        "zskd run my-teacher --teacher.path teacher --print-config > mine.yaml",
    ),
)
def run(
    recipe: RecipeName,
    /,
    *,
    out: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    print_config: Annotated[Flag, Parameter(group=OUTPUT)] = False,
    trust: Trust = Trust(),  # noqa: B008
    detail: Detail = Detail(),  # noqa: B008
    json: Annotated[Json, Parameter(group=OUTPUT)] = False,
    settings: Annotated[Recipe, Parameter(name="*")] = Recipe(),  # noqa: B008
) -> None:
    """Run or resume all stages of a recipe: teacher, sets, students, table, pictures.

    Args:
        recipe: Name or file.
        out: Folder of the run; absent: runs/NAME.
        print_config: Only print the resolved recipe.
        detail: What is printed.
        trust: Code that the recipe file may run.
        json: Print the results as JSON.
        settings: The recipe.
    """
    given = Settings.of_recipe(recipe, settings, trust)
    if print_config:
        if json:
            raise ZskdError("--print-config prints YAML, and --json the results of a run: give one of them")
        _print_config(given, detail.progress())
        return
    from zskd.run.pipeline import run_recipe
    from zskd.run.summary import summary_lines
    from zskd.teacher.sources import open_sources

    full, progress = given.alone(), detail.progress()
    sources = open_sources(full)
    full = given.of(sources.model, progress)
    folder = out or Path("runs") / full.name
    command = escaped(shlex.join(["zskd", *sys.argv[1:]]))
    metrics = run_recipe(full, folder, sources=sources, progress=progress, command=command)
    tell = Teller(json)
    for line in summary_lines(metrics, styled=sys.stdout.isatty()):
        tell.line(line)
    tell.line(f"\nPictures and tables: {folder / 'README.md'}")
    tell.line(f"One page to click through: zskd report {shlex.quote(str(folder))}")
    tell.document(metrics.to_json())


def _print_config(given: Settings, progress: Progress) -> None:
    """Print the recipe, with what is chosen for its teacher where that can be opened."""
    from zskd.config.loading import to_yaml
    from zskd.teacher.sources import open_network

    full = given.alone()
    try:
        network = open_network(full)
    except ZskdError as error:
        progress.log(f"preset, student and count are chosen when the teacher can be opened: {error}")
        print_line(_NOTHING_CHOSEN)
    else:
        full = given.of(network, progress)
    print_line(to_yaml(full).rstrip())
