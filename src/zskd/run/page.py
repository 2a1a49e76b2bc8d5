"""What a finished run shows: pictures, a README that holds them, and a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from zskd.config.recipe import Recipe
from zskd.config.registry import CONTROLS
from zskd.core.errors import ZskdError
from zskd.core.files import write_text
from zskd.core.progress import readable_seconds
from zskd.evaluation.figures import (
    Bar,
    bars_figure,
    caption,
    filmstrip_figure,
    grid_figure,
    save_figure,
    similarity_figure,
)
from zskd.evaluation.statistics import Share
from zskd.models.classifier import Classifier
from zskd.run.metrics import ArmMetrics, RunMetrics
from zskd.synthesis.similarity import class_similarity, concentration
from zskd.synthesis.spec import SetSpec
from zskd.synthesis.trace import trace_impression
from zskd.transfer_set.dataset import TransferSet

_COLUMNS = 10
_KINDS = {
    "impressions": "held-out impressions",
    **{name: control.summary for name, control in CONTROLS.items() if control.method == "noise"},
}
"""What agreement is measured on, and how tables call it."""


def draw_run(
    recipe: Recipe,
    folder: Path,
    metrics: RunMetrics,
    teacher: Classifier,
    sets: dict[str, TransferSet],
    main: SetSpec | None,
) -> None:
    """Write figures/ and README.md of a run."""
    figures = folder / "figures"
    values = concentration(class_similarity(teacher.head_weight))
    save_figure(
        similarity_figure(values, teacher.class_names, "concentration (class similarity, row min-max)"),
        figures / "similarity.png",
    )
    for name, transfer_set in sets.items():
        save_figure(samples_figure(transfer_set, per_class=2), figures / f"samples-{name}.png")
    filmed = main is not None and main.optimises
    if main is not None and filmed:
        save_figure(film_figure(teacher, main), figures / "filmstrip.png")
    save_figure(_chart(metrics), figures / "arms.png")
    write_text(folder / "README.md", _page(recipe, metrics, list(sets), filmed))


def samples_figure(transfer_set: TransferSet, *, per_class: int, only: int | None = None) -> Figure:
    """Draw the first optimised images of each class, or of one class, with their two strongest classes.

    A set without optimised images shows what it has.
    """
    names = transfer_set.class_names
    found: dict[int, list[tuple[Tensor, Tensor]]] = {
        k: [] for k in (range(len(names)) if only is None else [only])
    }
    anything_optimised = any(bool((shard.steps > 0).any()) for shard in transfer_set)
    for shard in transfer_set:
        for row in range(len(shard)):
            of_class = found.get(int(shard.anchors[row]), [])
            fits = int(shard.steps[row]) > 0 or not anything_optimised
            if fits and len(of_class) < per_class:
                of_class.append((shard.images[row], shard.targets[row]))
        if all(len(of_class) == per_class for of_class in found.values()):
            break
    # one column per class, unless they are too many or one alone
    turns = [of_class[i] for i in range(per_class) for of_class in found.values() if i < len(of_class)]
    if not turns:
        raise ZskdError("the set holds no such image")
    every_class_full = all(len(of_class) == per_class for of_class in found.values())
    columns = len(found) if 1 < len(found) <= _COLUMNS and every_class_full else _COLUMNS
    return grid_figure(
        torch.stack([image for image, _ in turns]),
        [caption(target, names) for _, target in turns],
        f"{transfer_set.manifest.method}: images and the two strongest classes of their targets",
        columns,
    )


def film_figure(teacher: Classifier, spec: SetSpec, index: int = 0) -> Figure:
    """Draw one impression from its first image to its last."""
    frames = trace_impression(teacher, spec, index)
    images = torch.stack([frame.image for frame in frames])
    captions = [f"step {frame.step}, KL {frame.kl:.3f}" for frame in frames]
    return filmstrip_figure(images, captions, f"towards {caption(frames[0].target, teacher.class_names)}")


def summary_lines(metrics: RunMetrics) -> list[str]:
    """Return the run's table for a terminal, one line each."""
    heads, rows = _table(metrics)
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in (heads, *rows)
    ]
    return [line.rstrip() for line in (*lines, "", *_notes(metrics))]


def _table(metrics: RunMetrics) -> tuple[list[str], list[list[str]]]:
    teacher = metrics.teacher
    # a run that was finished before there were random shapes lacks them
    kinds = [kind for kind in _KINDS if kind in metrics.arms[0].agreement]
    heads = ["arm", "parameters", "images", "steps"]
    heads += [] if teacher.test_accuracy is None else ["test accuracy"]
    heads += [f"agreement on {_KINDS[kind]}" for kind in kinds]
    rows = [["teacher", f"{teacher.parameters:,}", "", "", *_share(teacher.test_accuracy)]]
    rows[0] += [""] * len(kinds)
    for arm in metrics.arms:
        row = [arm.title, f"{arm.parameters:,}", f"{arm.count:,}", f"{metrics.student_steps:,}"]
        row += _share(arm.test_accuracy)
        rows.append(row + [text for kind in kinds for text in _share(arm.agreement[kind])])
    return heads, rows


def _notes(metrics: RunMetrics) -> list[str]:
    """What the numbers mean, in words."""
    seconds = readable_seconds(sum(metrics.seconds.values()))
    small, large = metrics.student.multiply_adds, metrics.teacher.multiply_adds
    lines = [
        f"The student makes {small:,} multiply-adds per image, the teacher {large:,}. {seconds} in all.",
        "Kept are the weights of the last step; nothing was chosen on test images.",
        "Brackets are 95 % Wilson intervals: they hold test sampling alone, not the spread over seeds.",
    ]
    lines += _estimated(metrics.arms[0])
    if metrics.teacher.test_accuracy is not None:
        return lines
    return [
        f"{metrics.accuracy}.",
        "Known instead: how often the student gives its teacher's class on images that it has not seen.",
        "High agreement there is needed for a good student and does not prove one; the teacher's own errors",
        "cannot be seen at all.",
        *lines,
    ]


def _estimated(arm: ArmMetrics) -> list[str]:
    """What is estimated for real images; runs of before it was told have none."""
    found = arm.estimated_agreement
    if found is None:
        return []
    first, *others = found.words
    return [f"{arm.title}: {first}.", *(line.rstrip(".") + "." for line in others)]


def _page(recipe: Recipe, metrics: RunMetrics, arms: Iterable[str], filmed: bool) -> str:
    heads, rows = _table(metrics)
    table = [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]
    parts = [
        f"# Run {recipe.name}",
        f"Preset `{recipe.preset}`, seed {recipe.seed}, data `{recipe.data.label}`. Everything is in "
        "[recipe.yaml](recipe.yaml) and [metrics.json](metrics.json).",
        "\n".join(table),
        "\n".join(_notes(metrics)),
        "![arms](figures/arms.png)",
        "## What the teacher's last layer says",
        "Row k shows how strongly a target of class k may mix with each other class.",
        "![concentration](figures/similarity.png)",
        "## What the student learned from",
        "Only the teacher's answer to these images was asked for; nothing asks them to look real, and the "
        "student needs the answers, not the looks.",
        *(f"![samples](figures/samples-{name}.png)" for name in arms),
    ]
    if filmed:
        parts += ["One impression from its first image to its last:", "![filmstrip](figures/filmstrip.png)"]
    return "\n\n".join(parts) + "\n"


def _chart(metrics: RunMetrics) -> Figure:
    ceiling = metrics.teacher.test_accuracy
    bars = [
        Bar(arm.title, arm.test_accuracy or arm.agreement["impressions"], arm is metrics.arms[0])
        for arm in metrics.arms
    ]
    if ceiling is None:
        return bars_figure(bars, None, "agreement with the teacher on held-out impressions")
    return bars_figure(bars, ("teacher", ceiling), f"test accuracy, {metrics.data}")


def _share(value: Share | None) -> list[str]:
    """The cell of a share; none where it was not measured."""
    return [] if value is None else [f"{value.percent:.2f} [{value.low:.2f}, {value.high:.2f}]"]
