"""The table and the picture of the README: what a student without data reaches, for several teachers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from records import RESULTS
from tables.common import in_words, shown_picture
from zskd.core.tables import markdown_table
from zskd.evaluation.figures import save_figure
from zskd.evaluation.statistics import Summary, summarise
from zskd.experiment.definition import load_experiment
from zskd.experiment.report.page import records_of
from zskd.experiment.report.tables import Group, Records, accuracies
from zskd.models.factory import build, describe

PICTURE = "front.png"


@dataclass(frozen=True)
class _Task:
    """One teacher, and the arms of its students."""

    experiment: str
    data: str
    network: str
    rate: float
    """Of the sets that are made."""
    controls: tuple[str, ...]
    """Arms of pictures that are not made for the teacher; the best of them is shown."""
    smaller: tuple[str, str] | None = None
    """Arm and control of a second, smaller student."""


_TASKS = (
    _Task("better-mnist", "MNIST", "LeNet-5", 40, ("noise_shapes",), ("small", "small_noise_shapes")),
    _Task("better-fashion-mnist", "Fashion-MNIST", "LeNet-5", 40, ("noise_shapes",)),
    _Task(
        "bench-colour-resnet8",
        "digits in colour",
        "ResNet-8",
        40,
        ("noise_white", "noise_shapes", "noise_procedural"),
    ),
    _Task("bench-cifar-resnet20", "CIFAR-10 as JPEG", "ResNet-20", 32, ("noise_procedural",)),
    _Task("bench-cifar-hour", "CIFAR-10 as JPEG", "ResNet-20, public", 32, ("noise_procedural",)),
)
_BUILT = {
    "LeNet-5": "lenet5",
    "ResNet-8": "resnet8",
    "ResNet-20": "resnet20",
    "ResNet-20, public": "resnet20",
}
_SHAPES = {
    "LeNet-5": (1, 32, 32),
    "ResNet-8": (3, 16, 16),
    "ResNet-20": (3, 32, 32),
    "ResNet-20, public": (3, 32, 32),
}


@dataclass(frozen=True)
class _Student:
    """Students of one size: without data, of the best control, and of all real images."""

    parameters: int
    made: Summary
    control: Summary
    real: Summary | None


@dataclass(frozen=True)
class _Found:
    """What the records say of one task."""

    task: _Task
    teacher: float
    teacher_parameters: int
    students: tuple[_Student, ...]
    test_images: int


def _tasks() -> Iterator[_Found]:
    for task in _TASKS:
        records = records_of(load_experiment(task.experiment), RESULTS)
        first = records.at("default", task.rate)
        of = partial(_of_teacher, records, first[0].teacher_sha256)
        controls = [group for arm in task.controls if (group := of(arm, task.rate))]
        best = max(controls, key=lambda group: summarise(accuracies(group).values()).mean)
        students = [_student(of("default", task.rate), best, of("real_kd_all", None))]
        if task.smaller is not None:
            small, control = (of(arm, task.rate) for arm in task.smaller)
            students.append(_student(small, control, {}))
        yield _Found(
            task,
            first[0].teacher_accuracy,
            _parameters(task.network),
            tuple(students),
            first[0].test_images,
        )


def _of_teacher(records: Records, teacher: str, arm: str, rate: float | None) -> Group:
    """Return the records of one arm and one teacher, by seed."""
    return {seed: one for seed, one in records.at(arm, rate).items() if one.teacher_sha256 == teacher}


def _student(made: Group, control: Group, real: Group) -> _Student:
    of_made, of_control, *of_real = (
        summarise(accuracies(group).values()) for group in (made, control, real) if group
    )
    return _Student(
        next(iter(made.values())).student_parameters, of_made, of_control, of_real[0] if of_real else None
    )


def _parameters(network: str) -> int:
    architecture = describe(_BUILT[network], shape=_SHAPES[network], classes=10)
    built = build(architecture, run_code=False)
    return sum(parameter.numel() for parameter in built.parameters())


def front() -> str:
    """Accuracy of teachers and of their students."""
    rows = []
    for found in _tasks():
        for student in found.students:
            rows.append(
                (
                    f"{found.task.network}, {found.task.data}",
                    f"{found.teacher:.1f}",
                    f"{student.parameters / found.teacher_parameters:.0%}".replace("%", " %"),
                    "–" if student.real is None else in_words(student.real, count=False),
                    in_words(student.control, count=False),
                    in_words(student.made, count=False),
                )
            )
    head = ("teacher", "its accuracy", "size of the student", "of real images", "best control", "**no data**")
    return markdown_table(head, rows)


def about() -> str:
    """What the numbers are of."""
    counts = {found.task.data: found.students[0].made.n for found in _tasks()}
    seeds = ", ".join(f"{count} of {data}" for data, count in counts.items())
    return (
        "Test accuracy in percent, weights of the last step; ± is the standard deviation over seeds "
        f"({seeds}). Equal steps in each row."
    )


def picture() -> str:
    """The Markdown of the picture."""
    shown = [[found.task.experiment, found.teacher, *map(str, found.students)] for found in _tasks()]
    return shown_picture("accuracy over size, for five teachers and their students", PICTURE, shown).replace(
        "(images/", "(docs/images/"
    )


def draw_front(folder: Path) -> None:
    """Draw accuracy over parameters; each task has axes of its own, from its control to its teacher."""
    found = list(_tasks())
    figure = Figure(figsize=(13, 3.0), layout="constrained")
    for axes, one in zip(figure.subplots(1, len(found)), found, strict=True):
        axes.plot(one.teacher_parameters, one.teacher, "D", color="black", ms=7, label="teacher")
        for number, student in enumerate(one.students):
            for summary, style, color, label in (
                (student.real, "o", "grey", "student of all real images"),
                (student.made, "o", "C0", "student without data"),
                (student.control, "X", "C3", "student of the best noise (control)"),
            ):
                if summary is not None:
                    axes.errorbar(
                        student.parameters,
                        summary.mean,
                        summary.deviation or 0,
                        fmt=style,
                        color=color,
                        ms=7,
                        mfc="white" if color == "grey" else color,
                        label=None if number else label,
                    )
        axes.set(xscale="log", title=f"{one.task.network}\n{one.task.data}", xlabel="parameters")
        sizes = sorted({one.teacher_parameters, *(student.parameters for student in one.students)})
        axes.set_xticks(sizes, [f"{size / 1000:,.0f}k" for size in sizes])
        axes.set_xlim(sizes[0] / 1.5, sizes[-1] * 1.5)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.margins(y=0.15)
        axes.grid(alpha=0.3)
        axes.title.set_fontsize(9)
    figure.axes[0].set_ylabel("test accuracy, %")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    save_figure(figure, folder / PICTURE)


FRONT_TABLES: dict[str, Callable[[], str]] = {
    "front": front,
    "front-about": about,
    "front-picture": picture,
}
