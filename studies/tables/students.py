"""The table and the picture of docs/students.md: several students of one run, from its metrics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from records import RESULTS
from zskd.evaluation.figures import save_figure
from zskd.run.metrics import RunMetrics, read_metrics
from zskd.run.page import sizes_chart
from zskd.run.tables import students_table


def students() -> str:
    """What each student of the run costs, and how well it agrees."""
    table = students_table(_metrics())
    assert table is not None
    return table.markdown()


def provenance() -> str:
    """How the run was made."""
    of = _metrics()
    commit = (of.commit or "unknown")[:8]
    return (
        f"`{of.command}`; one seed; n = {of.arms[0].agreement['impressions'].n} held-out impressions and "
        f"{of.teacher.test_accuracy.n if of.teacher.test_accuracy else 0} test images; "
        f"{of.processor['name']}; "
        f"torch {of.versions['torch']}; commit {commit}."
    )


def draw_students(folder: Path) -> None:
    """Draw agreement against time."""
    save_figure(sizes_chart(_metrics()), folder / "sizes.png")


def _metrics() -> RunMetrics:
    return read_metrics(RESULTS / "students.json")


STUDENTS_TABLES: dict[str, Callable[[], str]] = {"students": students, "students-provenance": provenance}
