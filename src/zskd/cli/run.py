"""`zskd run`: all stages of a recipe."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from zskd.cli.app import app, examples
from zskd.cli.options import Flag, Verbose, print_line, resolve
from zskd.config.recipe import Recipe
from zskd.core.progress import default_progress


@app.command(
    help_epilogue=examples(
        "zskd run digits",
        "zskd run mnist --data-dir data --rate 10 --seed 1 --out runs/mnist-10",
        "zskd run mnist --data-dir data --budget 3 --empty-controls --out runs/mnist-3-minutes",
        "zskd run mnist --preset reproduction --distill.steps 6000 --out runs/mnist-reproduction",
        "zskd run my-teacher --print-config > mine.yaml",
    )
)
def run(
    recipe: str,
    /,
    *,
    out: Path | None = None,
    print_config: Flag = False,
    quiet: Flag = False,
    verbose: Verbose = False,
    settings: Annotated[Recipe, Parameter(name="*")] = Recipe(),  # noqa: B008
) -> None:
    """Run or resume all stages of a recipe: teacher, sets, students, table, pictures.

    Args:
        recipe: digits, mnist, fashion-mnist, my-teacher, or a YAML file.
        out: Folder of the run; absent: runs/NAME.
        print_config: Only print the resolved recipe.
        quiet: Print only the result.
        verbose: Also print the choices for this machine.
    """
    from dataclasses import fields

    full = resolve(recipe, **{field.name: getattr(settings, field.name) for field in fields(Recipe)})
    if print_config:
        from zskd.config.loading import to_yaml

        print_line(to_yaml(full).rstrip())
        return
    from zskd.run.page import summary_lines
    from zskd.run.pipeline import run_recipe

    folder = out or Path("runs") / full.name
    command = shlex.join(["zskd", *sys.argv[1:]])
    metrics = run_recipe(full, folder, progress=default_progress(quiet, verbose), command=command)
    for line in summary_lines(metrics):
        print_line(line)
    print_line(f"\nPictures and tables: {folder / 'README.md'}")
