"""The results of an experiment as one page with its figure."""

from __future__ import annotations

from pathlib import Path

from zskd.config.identity import identity
from zskd.core.errors import ZskdError
from zskd.core.files import sha256_json, write_text
from zskd.core.reading import read_bytes
from zskd.evaluation.figures import save_figure
from zskd.evaluation.statistics import sampling_error
from zskd.experiment.definition import TEACHER, Experiment
from zskd.experiment.plan import plan_cells
from zskd.experiment.record import read_records
from zskd.experiment.report.curves import curves_figure
from zskd.experiment.report.tables import (
    Comparison,
    Records,
    accuracy_table,
    contrast_table,
    cost_table,
    provenance,
)

PICTURE = "error.png"


def records_of(experiment: Experiment, results: Path) -> Records:
    """Return the records of an experiment.

    Raises:
        ZskdError: there are none, or one is damaged.
    """
    titles = {TEACHER: TEACHER} | {name: arm.title for name, arm in experiment.arms.items()}
    return Records(read_records(results, experiment.name), titles)


def tell_of_others(records: Records, experiment: Experiment) -> str | None:
    """Return a line about records whose settings are not those of the experiment now; None if there are none.

    Hashes of data, teachers and code are not compared, which `zskd reproduce` does: they need the data.
    """
    planned = {cell.name: sha256_json(identity(cell.recipe)) for cell in plan_cells(experiment)}
    others = sorted(one.cell for one in records if planned.get(one.cell) != one.recipe_sha256)
    if not others:
        return None
    named = ", ".join((*others[:3], "…") if len(others) > 3 else others)
    return (
        f"warning: {len(others)} of {len(records)} records were made with other settings than "
        f"{experiment.name} has now, or by an older version: {named}"
    )


def comparisons_of(experiment: Experiment) -> list[Comparison]:
    """Return the planned comparisons of an experiment."""
    return [Comparison(*sides) for sides in experiment.compared()]


def main_rate(records: Records) -> float | None:
    """Return the rate that most arms have, in percent; the largest of several; None without rates."""
    shared = {rate: sum(bool(records.at(arm, rate)) for arm in records.arms) for rate in records.rates()}
    return max(shared, key=lambda rate: (shared[rate], rate)) if shared else None


def sections(records: Records, experiment: Experiment) -> list[tuple[str, str]]:
    """Return title and Markdown text of each section of the page."""
    teacher = next(iter(records.at(TEACHER, None).values()), None)
    noise = ""
    if teacher is not None:
        error = sampling_error(teacher.test_accuracy, teacher.test_images)
        noise = (
            f" The {teacher.test_images:,} test images alone leave ±{error:.2f} points "
            f"at {teacher.test_accuracy:.1f} %."
        )
    seeded, shared = "teacher, images and student", ""
    teachers = len({record.teacher_sha256 for record in records})
    several = len({record.seed for record in records}) > 1
    if experiment.teachers or (teachers == 1 and several):
        seeded = "images and student"
        if several:
            shared = f" Seeds share teachers: there {'is' if teachers == 1 else 'are'} {teachers}."
    parts = [
        (
            "Test accuracy",
            accuracy_table(records)
            + f"\n\nMean ± standard deviation over seeds of {seeded} (n), in percent.{shared}"
            + noise,
        )
    ]
    if experiment.contrasts:
        parts.append(("Planned comparisons", contrast_table(records, comparisons_of(experiment))))
    rate = main_rate(records)
    if rate is not None:
        parts.append((f"Cost at {rate:g} %", cost_table(records, rate)))
    return [*parts, ("Provenance", provenance(records))]


def write_page(records: Records, experiment: Experiment, folder: Path) -> Path:
    """Write README.md and the figure of an experiment; return the path of the page.

    Raises:
        ZskdError: the folder cannot be written, or has a README.md that is no page about the experiment,
            or its picture without one.
    """
    title, page = f"# Experiment {experiment.name}", folder / "README.md"
    if page.exists() and not read_bytes(page, "a page").startswith(f"{title}\n".encode()):
        raise ZskdError(
            f"{page} is no page about experiment {experiment.name} and would be written over: name another "
            f"folder, such as --out {folder / 'report'}"
        )
    if not page.exists() and (folder / PICTURE).exists():
        raise ZskdError(
            f"{folder / PICTURE} is of no page about experiment {experiment.name} and would be written over: "
            f"name another folder, such as --out {folder / 'report'}"
        )
    figure = curves_figure(records, records.arms, f"test error, {experiment.name}")
    save_figure(figure, folder / PICTURE)
    parts = [title, f"![test error over the number of images]({PICTURE})"]
    parts += [f"## {title}\n\n{text}" for title, text in sections(records, experiment)]
    write_text(page, "\n\n".join(parts) + "\n")
    return page
