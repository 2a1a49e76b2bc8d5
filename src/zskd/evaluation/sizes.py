"""Students by size, told to the user before they are trained: which network each is, and what it costs."""

from __future__ import annotations

from collections.abc import Iterable

from zskd.config.sizes import Auto, read_size
from zskd.core.errors import ZskdError
from zskd.core.progress import Progress
from zskd.distillation.architecture import describe_student, fresh_student, why_no_copy
from zskd.distillation.sizes import AUTO, is_size
from zskd.evaluation.gain import Cost, gain_table, measure_costs
from zskd.models.classifier import Classifier


def log_sizes(students: Iterable[str], teacher: Classifier, progress: Progress) -> None:
    """Log which network each student by size is; for `auto`, the three that it offers with what they cost.

    Args:
        students: names of students.
        teacher: not changed.
        progress: receives the lines.
    """
    sized = [name for name in students if is_size(name)]
    if any(isinstance(read_size(name), Auto) for name in sized):
        costs = sizes_costs(teacher, [f"auto:{choice}" for choice in AUTO])
        for line in gain_table(list(costs), list(costs.values())).lines():
            progress.log(line)
    for name in sized:
        network = describe_student(name, teacher)
        count = fresh_student(network, teacher, seed=0).parameters_count
        why = why_no_copy(name, teacher)
        progress.log(f"student {name}: {network.title}, {count:,} parameters{f' ({why})' if why else ''}")


def sizes_costs(teacher: Classifier, students: Iterable[str]) -> dict[str, Cost]:
    """Return what a teacher and untrained students cost, by name; the teacher comes first.

    Args:
        teacher: not changed; it is timed in turns with the students.
        students: names; one that cannot be made for this teacher is left out.
    """
    networks = {"teacher": teacher}
    for name in students:
        try:
            network = describe_student(name, teacher)
            networks[f"{name}: {network.title}"] = fresh_student(network, teacher, seed=0)
        except ZskdError:
            continue
    return dict(zip(networks, measure_costs(list(networks.values())), strict=True))
