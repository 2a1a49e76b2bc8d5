"""The tables and pictures of the experiments, from the committed records in results/."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from records import RESULTS
from tables.common import TITLES, shown_picture
from zskd.core.tables import markdown_table
from zskd.evaluation.figures import save_figure
from zskd.evaluation.statistics import ENOUGH_TO_PREDICT, prediction_interval, sampling_error, summarise
from zskd.experiment.definition import TEACHER, Experiment, load_experiment
from zskd.experiment.report.curves import curves_figure
from zskd.experiment.report.page import comparisons_of, records_of
from zskd.experiment.report.tables import (
    Records,
    accuracies,
    accuracy_table,
    contrast_table,
    cost_table,
    provenance,
)

_DRAWN = ("mnist", "fashion-mnist")
_SHORT = {"digits": 40.0, "mnist": 10.0, "fashion-mnist": 10.0}
"""Rate of the table in short, in percent."""
_SHORT_ARMS = (
    *(TEACHER, "student_labels_all_plain", "real_kd"),
    *("noise_white", "noise_smooth", "class_impressions", "default", "paper", "release", "reproduction"),
)


@cache
def _found(name: str) -> tuple[Experiment, Records]:
    experiment = load_experiment(name)
    return experiment, records_of(experiment, RESULTS)


def _accuracy(name: str) -> str:
    return accuracy_table(_found(name)[1])


def _contrasts(name: str) -> str:
    experiment, records = _found(name)
    return contrast_table(records, comparisons_of(experiment))


def _cost(name: str) -> str:
    return cost_table(_found(name)[1], 10.0)


def _provenance(name: str) -> str:
    return provenance(_found(name)[1])


def _picture(name: str) -> str:
    shown = [[r.arm, r.rate, r.seed, r.count, r.test_accuracy] for r in _found(name)[1]]
    return shown_picture(f"test error over images, {TITLES[name]}", f"error-{name}.png", shown)


def short() -> str:
    """The table of few arms, at one rate for each data set."""
    rows = []
    for name, title in TITLES.items():
        records = _found(name)[1]
        for arm in _SHORT_ARMS:
            for rate in (None, _SHORT[name]):
                group = records.at(arm, rate)
                if not group:
                    continue
                one = next(iter(group.values()))
                printed = "–" if one.reported is None else f"{one.reported.value:.2f}"
                measured = str(summarise(accuracies(group).values()))
                rows.append((title, records.title(arm), f"{one.count:,}", measured, printed))
    return markdown_table(("data", "arm", "images", "test accuracy, measured", "published"), rows)


def published() -> str:
    """All published accuracies, with the measured ones of the same arm and rate."""
    rows = []
    for name, title in TITLES.items():
        records = _found(name)[1]
        for arm in records.arms:
            for rate in [*records.rates(arm), None]:
                group = records.at(arm, rate)
                reported = next((one.reported for one in group.values()), None)
                if reported is None:
                    continue
                values = accuracies(group).values()
                summary = summarise(values)
                interval = prediction_interval(values) if summary.n >= ENOUGH_TO_PREDICT else None
                rows.append(
                    (
                        title,
                        records.title(arm) + ("" if rate is None else f", {rate:g} %"),
                        f"{reported.value:.2f}",
                        str(summary),
                        f"{summary.mean - reported.value:+.2f}",
                        "–" if interval is None else f"[{interval[0]:.2f}, {interval[1]:.2f}]",
                        reported.source,
                    )
                )
    head = ("data", "arm", "published", "measured", "difference", "95 % interval for one more run", "source")
    return markdown_table(head, rows)


def _readings() -> dict[str, Any]:
    record: dict[str, Any] = json.loads((RESULTS / "readings.json").read_text(encoding="utf-8"))
    return record


def readings_targets() -> str:
    """What each β does to the targets of each reading."""
    rows = [
        (
            name,
            beta,
            f"{facts['entropy']:.3f} ± {facts['entropy_error']:.3f}",
            f"{100 * facts['argmax_is_class']:.1f} %",
        )
        for name, by_beta in _readings()["targets"].items()
        for beta, facts in by_beta.items()
    ]
    return markdown_table(("reading", "β", "mean entropy, nats", "largest entry is the class"), rows)


def readings_sets() -> str:
    """How well the sets of 10 % with seed 0 fit their targets, and how correlated their images are."""
    rows = [
        (
            load_experiment("mnist").arms[arm].title,
            f"{facts['mean_kl']:.3f} at {facts['tau']:g}",
            f"{100 * facts['argmax_match']:.1f} %",
            f"{facts['correlation_with_previous_batch']:.2f}",
        )
        for arm, facts in _readings()["sets"].items()
    ]
    head = ("images", "KL(y‖T) of the stored image, nats at τ", "classified as its target")
    return markdown_table((*head, "correlation with the image one batch before"), rows)


def sampling() -> str:
    """Uncertainty due to the sample of test images alone."""
    errors = " and ".join(f"±{sampling_error(p, 10_000):.2f} points at {p:g} %" for p in (99.0, 87.0))
    return (
        f"The sample of 10,000 test images alone gives an uncertainty of {errors}, with any number of seeds."
    )


def write_pictures(folder: Path) -> None:
    """Draw the figure of each experiment that a page shows."""
    for name in _DRAWN:
        records = _found(name)[1]
        figure = curves_figure(records, records.arms, f"{TITLES[name]}: test error over the number of images")
        save_figure(figure, folder / f"error-{name}.png")


RESULTS_TABLES: dict[str, Callable[[], str]] = {
    "short": short,
    "published": published,
    "sampling": sampling,
    "readings-targets": readings_targets,
    "readings-sets": readings_sets,
}
"""By the names of their blocks."""
for _name in TITLES:
    RESULTS_TABLES |= {
        f"{_name}-accuracy": partial(_accuracy, _name),
        f"{_name}-contrasts": partial(_contrasts, _name),
        f"{_name}-cost": partial(_cost, _name),
        f"{_name}-provenance": partial(_provenance, _name),
    }
RESULTS_TABLES |= {f"{_name}-picture": partial(_picture, _name) for _name in _DRAWN}
