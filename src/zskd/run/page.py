"""The page of a finished run: figures, a README that shows them and its tables."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import torch
from matplotlib.figure import Figure

from zskd.config.recipe import Recipe
from zskd.core.errors import ZskdError
from zskd.core.files import write_text
from zskd.core.progress import Progress
from zskd.evaluation.figures import (
    Bar,
    Point,
    bars_figure,
    caption,
    filmstrip_figure,
    grid_figure,
    save_figure,
    similarity_figure,
    sizes_figure,
)
from zskd.models.classifier import Classifier
from zskd.run.metrics import RunMetrics
from zskd.run.similarity import shows_similarity
from zskd.run.summary import notes
from zskd.run.tables import KINDS, agreement_table, passes_table, results_table, students_table
from zskd.synthesis.similarity import class_similarity, concentration
from zskd.synthesis.sizes import as_made
from zskd.synthesis.spec import SetSpec
from zskd.synthesis.trace import trace_impression
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.first import first_of_classes

_COLUMNS = 10
MOST_SAMPLES = 200
"""Images in a figure of samples, those of the first classes: a larger one takes minutes."""
_AGREEMENT = (
    "How often each student predicts its teacher's class, in %, on images that no student was trained on:"
)
_GENERATED = "A generator made the images of the first student while it learned; they were not kept."
_IMAGES = (
    "A student is trained to match the teacher's outputs on these images. The images are not made to look "
    "real, and need not: only the outputs matter."
)
_SIMILARITY = (
    "## Class similarity in the teacher's last layer",
    "Row k is the concentration of the targets of class k: the larger an entry, the larger the share of that "
    "class in these targets.",
    "![concentration](figures/similarity.png)",
)


def draw_run(
    folder: Path,
    metrics: RunMetrics,
    teacher: Classifier,
    sets: dict[str, TransferSet],
    main: SetSpec | None,
    progress: Progress | None = None,
) -> None:
    """Write figures/ of a run.

    Args:
        folder: of the run.
        metrics: of the run.
        teacher: run in evaluation mode; not changed.
        sets: training sets by the names of the arms.
        main: settings of the main arm's set, the first of `sets`, whose first impression is traced; None
            without a set.
        progress: reports the images that are made for its filmstrip.

    Raises:
        ZskdError: the folder cannot be written.
    """
    figures = folder / "figures"
    if shows_similarity(teacher):
        values = concentration(class_similarity(teacher.head_weight))
        save_figure(
            similarity_figure(values, teacher.class_names, "concentration (class similarity, row min-max)"),
            figures / "similarity.png",
        )
    for name, transfer_set in sets.items():
        save_figure(samples_figure(transfer_set, per_class=2), figures / f"samples-{name}.png")
    if main is not None and main.has_traces:
        made = as_made(main, next(iter(sets.values())).manifest.resolved)
        save_figure(trace_figure(teacher, made, progress=progress), figures / "filmstrip.png")
    save_figure(_chart(metrics), figures / "arms.png")
    if metrics.sizes:
        save_figure(sizes_chart(metrics), figures / "sizes.png")


def write_page(
    recipe: Recipe,
    folder: Path,
    metrics: RunMetrics,
    teacher: Classifier,
    arms: Iterable[str],
    main: SetSpec | None,
) -> None:
    """Write README.md of a run, which shows the figures of `draw_run`.

    Args:
        recipe: of the run.
        folder: of the run.
        metrics: of the run.
        teacher: not changed.
        arms: names of the arms that have a set.
        main: as for `draw_run`.

    Raises:
        ZskdError: the folder cannot be written.
    """
    traced = main is not None and main.has_traces
    write_text(folder / "README.md", _page(recipe, metrics, list(arms), shows_similarity(teacher), traced))


def samples_figure(transfer_set: TransferSet, *, per_class: int, only: int | None = None) -> Figure:
    """Draw the first optimised images of each class with the two largest entries of their targets.

    Of a set without optimised images it draws the first images.

    Args:
        transfer_set: a complete set.
        per_class: number of images per class.
        only: index of the only class to draw; None: all classes.

    Raises:
        ZskdError: the set has no image of the class.
    """
    names = transfer_set.class_names
    rows = first_of_classes(transfer_set, per_class, most=MOST_SAMPLES, only=only)
    if not len(rows):
        raise ZskdError("the set has no image of this class: choose another --class")
    # one column per class, unless there are too many classes or only one
    in_columns = only is None and len(names) <= _COLUMNS and len(rows) == per_class * len(names)
    return grid_figure(
        transfer_set.images(rows),
        [caption(target, names) for target in transfer_set.column("targets")[rows]],
        f"{transfer_set.manifest.method}: images and the two largest entries of their targets",
        len(names) if in_columns else _COLUMNS,
    )


def trace_figure(
    teacher: Classifier, spec: SetSpec, index: int = 0, progress: Progress | None = None
) -> Figure:
    """Draw the trace of one impression, from its first image to its last.

    Args:
        teacher: run in evaluation mode; not changed.
        spec: of the set that the impression belongs to.
        index: of the image, dropped ones counted.
        progress: reports the images that are made.

    Raises:
        ZskdError: the method optimises no images.
    """
    frames = trace_impression(teacher, spec, index, progress=progress)
    images = torch.stack([frame.image for frame in frames])
    captions = [f"step {frame.step}, KL {frame.kl:.3f}" for frame in frames]
    return filmstrip_figure(images, captions, f"target {caption(frames[0].target, teacher.class_names)}")


def _page(recipe: Recipe, metrics: RunMetrics, arms: Collection[str], similar: bool, traced: bool) -> str:
    parts = [
        f"# Run {recipe.name}",
        f"Preset `{recipe.preset}`, seed {recipe.seed}, data `{recipe.data.label}`. All settings are in "
        "[recipe.yaml](recipe.yaml), all results in [metrics.json](metrics.json).",
        results_table(metrics).markdown(),
        _AGREEMENT,
        agreement_table(metrics).markdown(),
        "\n".join(notes(metrics)),
        "![arms](figures/arms.png)",
        *_gained(metrics),
        *_passes(metrics),
        *(_SIMILARITY if similar else ()),
        "## Training images of the students",
        *([_GENERATED] if metrics.arms[0].arm not in arms else []),
        *([_IMAGES] if arms else []),
        *(f"![samples](figures/samples-{name}.png)" for name in arms),
    ]
    if traced:
        parts += [
            "Trace of one impression, from its first image to its last:",
            "![filmstrip](figures/filmstrip.png)",
        ]
    return "\n\n".join(parts) + "\n"


def _gained(metrics: RunMetrics) -> list[str]:
    """The part of the page about what the students cost."""
    table = students_table(metrics)
    if table is None:
        return []
    curve = ["![agreement against time](figures/sizes.png)"] if metrics.sizes else []
    return ["## What is gained", table.markdown(), *curve]


def _passes(metrics: RunMetrics) -> list[str]:
    """The part of the page about the passes of the whole run."""
    table = passes_table(metrics)
    if table is None:
        return []
    what = (
        "An image through a network once is one pass, its gradient another: of all arms together, and of the "
        "measurements. Timing is not counted."
    )
    return ["## Passes through the networks", what, table.markdown()]


def sizes_chart(metrics: RunMetrics) -> Figure:
    """Draw agreement against time for the students of a run that has several."""
    assert metrics.gain is not None
    of_teacher = metrics.gain.teacher.latency
    points = [
        Point(one.student, tuple(time.median for time in one.cost.latency), one.main_agreement)
        for one in metrics.sizes
    ]
    batches = [time.batch for time in of_teacher]
    return sizes_figure(batches, tuple(time.median for time in of_teacher), points)


def _chart(metrics: RunMetrics) -> Figure:
    ceiling = metrics.teacher.test_accuracy
    bars = [Bar(arm.title, arm.main_result, arm is metrics.arms[0]) for arm in metrics.arms]
    if ceiling is None:
        return bars_figure(bars, None, f"agreement with the teacher on {KINDS[metrics.arms[0].main_kind]}")
    return bars_figure(bars, ("teacher", ceiling), f"test accuracy, {metrics.data}")
