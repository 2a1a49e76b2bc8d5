"""Figures drawn from arrays, and how one is saved as PNG, SVG or PDF."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from torch import Tensor

from zskd.core.errors import ZskdError
from zskd.core.files import whole_file
from zskd.core.types import Images, Similarity
from zskd.evaluation.statistics import Share

_ENDINGS = (".png", ".svg", ".pdf")
_LABELLED_CELLS = 20
"""Up to this many classes every cell of a heat map shows its number."""
_NAMED_ROWS = 60
"""Up to this many classes its rows have names."""
_MAIN, _CONTROL = "#1b6ca8", "#b8c4cc"
_LONG_CAPTION = 20
"""Letters of a caption that stand in one line below an image."""
_MARKERS = "osD^vP"
"""Of the students in a chart."""
TICKS, FEW_TICKS = (1, 1.5, 2, 3, 5, 7), (1, 2, 5)
"""Numbers on a logarithmic axis, times a power of ten: of a short one, and of a long one."""


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure and return its path. The same figure gives the same bytes.

    Args:
        figure: to be drawn.
        path: ends with .png, .svg or .pdf; replaced as a whole.

    Raises:
        ZskdError: another ending, or the folder cannot be written.
    """
    check_ending(path)
    # no date and no random names inside, so that the same figure gives the same bytes
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix.lower(), {})
    with whole_file(path) as temporary, rc_context({"svg.hashsalt": "zskd"}):
        figure.savefig(temporary, dpi=120, bbox_inches="tight", metadata=metadata)
    return path


def check_ending(path: Path) -> None:
    """Check that a picture can be written to a path; before long work for it.

    Raises:
        ZskdError: another ending than those of `save_figure`.
    """
    if path.suffix.lower() not in _ENDINGS:
        raise ZskdError(f"{path}: pictures are written as {', '.join(_ENDINGS)}; give such an ending")


def plain(text: str) -> str:
    """Return a text in which matplotlib reads nothing as mathematics."""
    return text.replace("$", r"\$")


def similarity_figure(values: Similarity, class_names: Sequence[str], title: str) -> Figure:
    """Draw a (K, K) matrix as a labelled heat map.

    Args:
        values: (K, K); row k is class k.
        class_names: of the K classes.
        title: of the figure.
    """
    k = len(class_names)
    names = [plain(name) for name in class_names]
    side = max(4.5, min(12.0, 0.55 * k + 1.5))
    figure = Figure(figsize=(side * 1.15, side))
    axes = figure.add_subplot()
    image = axes.imshow(values, cmap="viridis")
    if k <= _NAMED_ROWS:
        axes.set_xticks(range(k), names, rotation=45 if max(map(len, names)) > 3 else 0, ha="center")
        axes.set_yticks(range(k), names)
    axes.set_xlabel("class j")
    axes.set_ylabel("class k")
    axes.set_title(plain(title))
    figure.colorbar(image, fraction=0.045)
    if k <= _LABELLED_CELLS:
        middle = (float(values.min()) + float(values.max())) / 2
        for row in range(k):
            for column in range(k):
                value = float(values[row, column])
                axes.text(
                    column,
                    row,
                    f"{value:.2f}",
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="white" if value < middle else "black",
                )
    return figure


def caption(target: Tensor, class_names: Sequence[str]) -> str:
    """Return the two largest entries of a target (K,): `'3' 0.71  '8' 0.20`."""
    best = target.topk(min(2, len(target)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return "  ".join(f"'{class_names[k]}' {value:.2f}" for k, value in pairs)


def grid_figure(images: Images, captions: Sequence[str], title: str, columns: int) -> Figure:
    """Draw images in rows, each with its caption below; long captions get one line for each of their parts.

    Args:
        images: (N, C, H, W) in [0, 1], with 1 or 3 channels.
        captions: N of them.
        title: of the figure.
        columns: at most so many.
    """
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    if max(map(len, captions), default=0) > _LONG_CAPTION:
        captions = [text.replace("  ", "\n") for text in captions]
    lines = [line for text in captions for line in text.split("\n")]
    longest, more = max(map(len, lines), default=0), max(text.count("\n") for text in captions)
    figure = Figure(figsize=(columns * max(1.3, 0.082 * longest), rows * (1.6 + 0.15 * more) + 0.5))
    figure.suptitle(plain(title))
    for i, (image, text) in enumerate(zip(images, captions, strict=True)):
        axes = figure.add_subplot(rows, columns, i + 1)
        _show(axes, image)
        axes.set_title(plain(text), fontsize=7, y=-0.18 - 0.1 * more)
    figure.tight_layout()
    return figure


def filmstrip_figure(images: Images, captions: Sequence[str], title: str) -> Figure:
    """Draw the trace of one impression in one row, from its first image to its last.

    Args:
        images: (N, C, H, W) in [0, 1], with 1 or 3 channels.
        captions: N of them.
        title: of the figure.
    """
    return grid_figure(images, captions, title, columns=len(images))


@dataclass(frozen=True)
class Bar:
    """One arm in a chart of shares."""

    title: str
    value: Share
    main: bool
    """Whether it is the method and not a control."""


def bars_figure(bars: Sequence[Bar], ceiling: tuple[str, Share] | None, title: str) -> Figure:
    """Draw percentages as horizontal bars with 95 % intervals.

    Args:
        bars: from top to bottom.
        ceiling: name and value of a dashed line, the teacher's accuracy; None: no line.
        title: of the figure.
    """
    figure = Figure(figsize=(7, 0.6 * len(bars) + 1.6))
    axes = figure.add_subplot()
    values = [bar.value for bar in bars]
    error = np.array([[v.percent - v.low for v in values], [v.high - v.percent for v in values]])
    axes.barh(
        [f"{plain(bar.title)}  {bar.value.percent:.2f}" for bar in bars],
        [v.percent for v in values],
        xerr=error,
        color=[_MAIN if bar.main else _CONTROL for bar in bars],
        capsize=3,
    )
    if ceiling is not None:
        axes.axvline(ceiling[1].percent, color="black", linestyle="--", linewidth=1)
        title = f"{title} (dashed: {ceiling[0]}, {ceiling[1].percent:.2f})"
    axes.set_xlim(0, 100)
    axes.set_xlabel("%")
    axes.set_title(plain(title))
    axes.invert_yaxis()
    return figure


@dataclass(frozen=True)
class Point:
    """A network in a chart of agreement against time."""

    title: str
    microseconds: tuple[float, ...]
    """Per image, by batch."""
    agreement: Share


def sizes_figure(batches: Sequence[int], teacher: tuple[float, ...], points: Sequence[Point]) -> Figure:
    """Draw the agreement of several students against their time per image, with 95 % intervals.

    Args:
        batches: images in a timed pass; one chart each.
        teacher: its microseconds per image, by batch.
        points: a student each.
    """
    figure = Figure(figsize=(3.5 + 4 * len(batches), 4.2), layout="constrained")
    grid = figure.subplots(1, len(batches), squeeze=False, sharey=True)[0]
    for i, (axes, batch) in enumerate(zip(grid, batches, strict=True)):
        axes.axhline(100, color=_CONTROL, linewidth=1)
        axes.plot(teacher[i], 100, "*", color="black", markersize=12, label="teacher")
        for number, one in enumerate(points):
            share = one.agreement
            axes.errorbar(
                one.microseconds[i],
                share.percent,
                yerr=[[share.percent - share.low], [share.high - share.percent]],
                fmt=_MARKERS[number % len(_MARKERS)],
                color=f"C{number % 10}",
                capsize=3,
                label=f"{plain(one.title)}  {share.percent:.2f}",
            )
        axes.set_xscale("log")
        times = [teacher[i], *(one.microseconds[i] for one in points)]
        axes.xaxis.set_major_locator(LogLocator(subs=FEW_TICKS if max(times) > 8 * min(times) else TICKS))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.margins(x=0.2)
        axes.set_xlabel(f"µs per image, batch of {batch}")
    grid[0].set_ylabel("agreement with the teacher, %")
    figure.suptitle("agreement with the teacher on held-out images against time on one thread")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure


def _show(axes: Axes, image: Tensor) -> None:
    # other numbers of channels are no colours: their mean is shown
    pixels = image.permute(1, 2, 0) if len(image) == 3 else image.mean(0)
    axes.imshow(pixels.numpy(), cmap="gray", vmin=0, vmax=1)
    axes.set_xticks([])
    axes.set_yticks([])
