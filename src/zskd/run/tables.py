"""The tables of a finished run, for its page and for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from zskd.config.registry import CONTROLS
from zskd.core.passes import StagePasses
from zskd.core.tables import Table
from zskd.distillation.sizes import is_size
from zskd.evaluation.gain import gain_table
from zskd.run.metrics import ArmMetrics, RunMetrics, SizeMetrics

KINDS = {
    "impressions": "held-out impressions",
    **{name: control.summary for name, control in CONTROLS.items() if control.method == "noise"},
}
"""Kinds of images that agreement is measured on, and their names in tables."""
_Results = TypeVar("_Results", bound=ArmMetrics)


def results_table(metrics: RunMetrics) -> Table:
    """Return the table of the arms, the best first, below the teacher.

    They are sorted by accuracy; without data by agreement, and there is no row of the teacher.
    """
    arms = _sorted(metrics.arms)
    controls = {id(arm) for arm in metrics.arms[1:] if arm.arm in CONTROLS}
    head = ["arm", "images", _measured_name(metrics), ""]
    best, rows = _best(arms), list[list[str]]()
    if metrics.teacher.test_accuracy is not None:
        rows = [["teacher", "", metrics.teacher.test_accuracy.cell, ""]]
    above = len(rows)
    for number, arm in enumerate(arms):
        marks = ["control"] * (id(arm) in controls) + ["best"] * (number in best)
        rows.append([arm.title, f"{arm.count:,}", arm.main_result.cell, ", ".join(marks)])
    return Table(head, rows, f"results of run {metrics.run}", [above + number for number in best])


def sizes_table(metrics: RunMetrics) -> Table | None:
    """Return the table of several students of the main arm, the best first; None where there is only one."""
    if not metrics.sizes:
        return None
    students = _sorted(metrics.sizes)
    best = _best(students)
    head = ["student", _measured_name(metrics)]
    rows = [[_named(one), one.main_result.cell] for one in students]
    if metrics.teacher.test_accuracy is not None:
        head.append(f"agreement on {_main_name(metrics)}, %")
        rows = [[*row, one.main_agreement.cell] for row, one in zip(rows, students, strict=True)]
    rows = [[*row, "best" * (number in best)] for number, row in enumerate(rows)]
    return Table([*head, ""], rows, f"students of {metrics.arms[0].title}", best)


def agreement_table(metrics: RunMetrics) -> Table:
    """Return the table of the agreement with the teacher, an arm each, in the order of the results."""
    # metrics of older versions have no random shapes
    kinds = [kind for kind in KINDS if kind in metrics.arms[0].agreement]
    rows = [
        [arm.title, *(arm.agreement[kind].cell.replace(" ", "\n", 1) for kind in kinds)]
        for arm in _sorted(metrics.arms)
    ]
    title = "agreement with the teacher, in %, on images that no student was trained on"
    return Table(["arm", *(KINDS[kind] for kind in kinds)], rows, title)


def students_table(metrics: RunMetrics) -> Table | None:
    """Return the table of what the students of the main arm cost beside their teacher, and how good they are.

    It is for pages, and too wide for a terminal. None for metrics of older versions, which have no costs.
    """
    costs = costs_table(metrics)
    if costs is None:
        return None
    results: Sequence[ArmMetrics] = metrics.sizes or metrics.arms[:1]
    columns = {f"agreement on {_main_name(metrics)}": ["", *(one.main_agreement.cell for one in results)]}
    of_teacher = metrics.teacher.test_accuracy
    if of_teacher is not None:
        columns["test accuracy"] = [one.cell for one in (of_teacher, *(one.main_result for one in results))]
    rows = [[*row, *more] for row, *more in zip(costs.rows, *columns.values(), strict=True)]
    return Table([*costs.head, *columns], rows)


def costs_table(metrics: RunMetrics) -> Table | None:
    """Return the table of what the students of the main arm cost beside their teacher.

    None for metrics of older versions, which have no costs.
    """
    if metrics.gain is None:
        return None
    names, costs = ["student"], [metrics.gain.student]
    if metrics.sizes:
        names, costs = [_named(one) for one in metrics.sizes], [one.cost for one in metrics.sizes]
    table = gain_table(["teacher", *names], [metrics.gain.teacher, *costs])
    return replace(table, title="cost")


def _named(size: SizeMetrics) -> str:
    """Return the student's name, with that of its network where the teacher determined it."""
    return f"{size.student}: {size.network}" if is_size(size.student) else size.student


def _main_name(metrics: RunMetrics) -> str:
    """Return the name of the images that the main agreement is measured on."""
    return KINDS[metrics.arms[0].main_kind]


def _measured_name(metrics: RunMetrics) -> str:
    measured = metrics.teacher.test_accuracy is not None
    return "test accuracy, %" if measured else f"agreement on {_main_name(metrics)}, %"


def _sorted(arms: Sequence[_Results]) -> list[_Results]:
    return sorted(arms, key=lambda arm: -arm.main_result.percent)


def _best(arms: Sequence[ArmMetrics]) -> list[int]:
    """Return the places of the best of several sorted arms; equal ones are all best."""
    most = arms[0].main_result.percent
    return [number for number, arm in enumerate(arms) if len(arms) > 1 and arm.main_result.percent == most]


def passes_table(metrics: RunMetrics) -> Table | None:
    """Return the table of all passes of a run by stage; None for metrics that do not have them."""
    if metrics.passes is None:
        return None
    head = ["stage", *(name.replace("_", ", ") for name in StagePasses.model_fields)]
    rows = [
        [stage.replace("_", " "), *(f"{getattr(counts, name):,}" for name in StagePasses.model_fields)]
        for stage, counts in metrics.passes.items()
    ]
    return Table(head, rows)
