"""`zskd run`: all stages of a recipe."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from zskd.cli.app import app
from zskd.cli.help import examples
from zskd.cli.options import Detail, Flag, RecipeName, print_line, resolve
from zskd.config.groups import OUTPUT, RUN
from zskd.config.recipe import Recipe


@app.command(
    group_parameters=RUN,
    help_epilogue=examples(
        "zskd run digits",
        "zskd run mnist --data-dir data --rate 10 --seed 1 --out runs/mnist-10",
        "zskd run mnist --budget 3 --controls none --out runs/mnist-3-minutes",
        "zskd run my-teacher --print-config > mine.yaml",
    ),
)
def run(
    recipe: RecipeName,
    /,
    *,
    out: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    print_config: Annotated[Flag, Parameter(group=OUTPUT)] = False,
    detail: Detail = Detail(),  # noqa: B008
    settings: Annotated[Recipe, Parameter(name="*")] = Recipe(),  # noqa: B008
) -> None:
    """Run or resume all stages of a recipe: teacher, sets, students, table, pictures.

    Args:
        recipe: Name or file.
        out: Folder of the run; absent: runs/NAME.
        print_config: Only print the resolved recipe.
        detail: What is printed.
        settings: The recipe.
    """
    from dataclasses import fields

    full = resolve(recipe, **{field.name: getattr(settings, field.name) for field in fields(Recipe)})
    if print_config:
        from zskd.config.loading import to_yaml

        print_line(to_yaml(full).rstrip())
        return
    from zskd.run.pipeline import run_recipe
    from zskd.run.summary import summary_lines

    folder = out or Path("runs") / full.name
    command = shlex.join(["zskd", *sys.argv[1:]])
    metrics = run_recipe(full, folder, progress=detail.progress(), command=command)
    for line in summary_lines(metrics):
        print_line(line)
    print_line(f"\nPictures and tables: {folder / 'README.md'}")
