"""`zskd plan`: what a recipe takes, before it is run."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from zskd.cli.app import app
from zskd.cli.help import examples
from zskd.cli.options import Detail, RecipeName, Settings, Trust
from zskd.cli.telling import Json, Teller
from zskd.config.checks import check_range
from zskd.config.groups import OUTPUT, RUN
from zskd.config.recipe import Recipe


@app.command(
    group_parameters=RUN,
    help_epilogue=examples(
        "zskd plan digits",
        "zskd plan mnist --data-dir data --rate 40 --price 0.04 --for-workers 1 8 64",
        "zskd plan my-teacher --teacher.path net.pt --model my_net.py:MyNet --shape 3 32 32 --count 20000",
        "zskd reproduce mnist --data-dir data --dry-run",
    ),
)
def plan(
    recipe: RecipeName,
    /,
    *,
    for_workers: tuple[int, ...] = (1, 8, 64),
    price: float | None = None,
    seconds: float = 10.0,
    gpu_tflops: float = 19.5,
    gpu_utilisation: float = 0.2,
    trust: Trust = Trust(),  # noqa: B008
    detail: Detail = Detail(),  # noqa: B008
    json: Annotated[Json, Parameter(group=OUTPUT)] = False,
    settings: Annotated[Recipe, Parameter(name="*")] = Recipe(),  # noqa: B008
) -> None:
    """Tell what a run takes: time, core-hours, money, memory and disk, for several numbers of workers.

    A shard of each set and some steps of each student are made, and all is measured once, in a folder that is
    deleted. `zskd reproduce NAME --dry-run` tells the cost of an experiment, without the training of its
    teachers.

    Args:
        recipe: Name or file.
        for_workers: Numbers of workers to tell the time for.
        price: Money for an hour of a core.
        seconds: Longest time of a measurement, about. A shard that takes longer is estimated from a few
            steps.
        gpu_tflops: Peak of a GPU, for GPU-hours by a model; 19.5 is an A100 in float32.
        gpu_utilisation: Share of this peak that is reached. It is assumed: no GPU is measured.
        trust: Code that the recipe file may run.
        detail: What is printed.
        json: Print the plan as JSON.
        settings: The recipe.
    """
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from zskd.config.engines import open_engine
    from zskd.run.plan.parts import Parts
    from zskd.run.plan.tables import Gpu, Plan
    from zskd.run.plan.trial import measure_parts
    from zskd.teacher.sources import open_sources

    # wrong numbers are told before minutes are spent
    check_range("--seconds", seconds, 0, above=True)
    gpu = Gpu(tflops=gpu_tflops, utilisation=gpu_utilisation)
    Plan(parts=Parts(parts=()), workers=for_workers, price=price, gpu=gpu)
    given = Settings.of_recipe(recipe, settings, trust)
    full, progress = given.alone(), detail.progress()
    sources = open_sources(full)
    full = given.of(sources.model, progress)
    shared = None if open_engine(full.engine).here else Path.cwd()  # a folder that all nodes have
    with TemporaryDirectory(prefix=".zskd-plan-", dir=shared) as folder:
        parts = measure_parts(full, sources, Path(folder), seconds=seconds, progress=progress)
    told, tell = Plan(parts=parts, workers=for_workers, price=price, gpu=gpu), Teller(json)
    tell.table(told.stage_table())
    tell.line("")
    tell.table(told.workers_table())
    tell.line("")
    for line in told.notes():
        tell.line(line)
    tell.document({"recipe": full.name, **told.to_json()})
