"""`zskd tune`: a search for settings on validation images."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from zskd.cli.app import app
from zskd.cli.help import examples
from zskd.cli.options import Detail, RecipeName, Settings, Trust
from zskd.cli.telling import Json, Teller
from zskd.cli.typed import option
from zskd.config.groups import OUTPUT, RUN
from zskd.config.recipe import Recipe
from zskd.core.errors import ZskdError

if TYPE_CHECKING:
    from zskd.core.tables import Table
    from zskd.tuning.study import Found

_SHOWN = 5
"""Trials of the table, the best ones."""


@app.command(
    group_parameters=RUN,
    help_epilogue=examples(
        "zskd tune digits --over distill.learning_rate=0.001..0.1:log --trials 24",
        "zskd tune digits --over distill.tau=1..20 --over synthesis.start=shapes,procedural --trials 24",
        "zskd tune mine.yaml --search space.yaml --sampler qmc --trials 33 --out runs/mine-tuning",
    ),
)
def tune(
    recipe: RecipeName,
    /,
    *,
    trials: int,
    search: Path | None = None,
    over: tuple[str, ...] = (),
    sampler: Literal["tpe", "random", "qmc", "grid"] = "tpe",
    together: int = 4,
    value: Literal["agreement", "accuracy"] = "agreement",
    out: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    results: Annotated[Path, Parameter(group=OUTPUT)] = Path("results"),
    trust: Trust = Trust(),  # noqa: B008
    detail: Detail = Detail(),  # noqa: B008
    json: Annotated[Json, Parameter(group=OUTPUT)] = False,
    settings: Annotated[Recipe, Parameter(name="*")] = Recipe(),  # noqa: B008
) -> None:
    """Search for settings of a recipe on validation images, or resume a search.

    Validation images are held out of the training set. No test image is read.

    Args:
        recipe: Name or file.
        trials: Number of students; those of an interrupted search count.
        search: YAML file with settings and their ranges, `distill.tau: {low: 1, high: 20}`.
        over: A setting and its range, KEY=LOW..HIGH, with :log or :STEP behind it, or KEY=A,B,C.
        sampler: Optuna's sampler that proposes the trials; `tpe` does so at random until a round begins with
            ten values.
        together: Trials of a round. They are proposed before any of them has a value.
        value: What is maximised on the validation images.
        out: Folder of the search; absent: runs/NAME-tuning.
        results: Folder of the ledger.
        trust: Code that the recipe and the search may run.
        detail: What is printed.
        json: Print all trials as JSON.
        settings: The recipe.
    """

    from zskd.teacher.sources import open_sources
    from zskd.tuning.space import read_space
    from zskd.tuning.study import tune as run_search

    given = Settings.of_recipe(recipe, settings, trust)
    full, progress, space = given.alone(), detail.progress(), read_space(search, over, trust=trust.trust)
    for key in space:
        if given.has(key):
            raise ZskdError(f"{option(key)} is given, and {key} is searched: leave one of them out")
    folder = out or Path("runs") / f"{full.name}-tuning"
    sources = open_sources(full, test=False)
    given.of(sources.model, progress, searched=space)  # tells what is chosen
    found = run_search(
        lambda more: given.over(more).of(sources.model, None, searched=space),
        space,
        folder,
        trials=trials,
        sampler=sampler,
        together=together,
        value=value,
        results=results,
        sources=sources,
        progress=progress,
    )
    tell = Teller(json)
    tell.table(_table(found, value))
    tell.line("")
    for line in _sentences(found, value, trust.trust):
        tell.line(line)
    tell.document(
        {
            "folder": folder,
            "recipe": found.recipe,
            "best": found.best.number,
            "test_images": 0,
            "trials": [trial.to_json() for trial in found.trials],
        }
    )


def _table(found: Found, value: str) -> Table:
    """Return the table of the best trials."""
    from zskd.core.progress import readable_seconds
    from zskd.core.tables import Table

    measured = [(trial, trial.measured) for trial in found.trials if trial.measured is not None]
    measured.sort(key=lambda one: (-getattr(one[1], value), one[0].number))
    rows = [
        [
            " ".join(f"{key}={setting}" for key, setting in trial.settings.items()),
            str(trial.number),
            f"{of.agreement:.2f}",
            f"{of.accuracy:.2f}",
            readable_seconds(of.seconds),
        ]
        for trial, of in measured[:_SHOWN]
    ]
    return Table(["settings", "trial", "agreement, %", "accuracy, %", "time"], rows, bold=(0,))


def _sentences(found: Found, value: str, trusted: tuple[str, ...]) -> list[str]:
    """Return what the table means, and the command that uses it."""
    from zskd.config.presets import RECIPES
    from zskd.config.trust import not_trusted
    from zskd.config.yaml import read_yaml
    from zskd.evaluation.statistics import share_of

    best, of = found.best, found.best.measured
    assert of is not None
    share = share_of(round(getattr(of, value) * of.images / 100), of.images)
    values, named = read_yaml(str(found.recipe), RECIPES, "recipe"), list(trusted)
    while (code := not_trusted(values, named)) is not None:  # typed as a setting, and not remembered
        named.append(code)
    trust = [word for code in named for word in ("--trust", code)]
    failed = sum(trial.measured is None for trial in found.trials)
    lines = [f"{failed} of {len(found.trials)} trials failed"] if failed else []
    return [
        *lines,
        f"best: trial {best.number} of {len(found.trials)}, {value} {share} validation images; no test image "
        "was read",
        "It was chosen on these images, so that its value there is too high. To train and test it once:",
        f"  {shlex.join(['zskd', 'run', str(found.recipe), *trust])}",
    ]
