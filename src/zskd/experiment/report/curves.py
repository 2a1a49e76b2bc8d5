"""The figure of an experiment: test error over the number of images."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from zskd.evaluation.figures import plain
from zskd.evaluation.statistics import summarise
from zskd.experiment.definition import TEACHER
from zskd.experiment.report.tables import Records, accuracies

_COLOURS = 10
"""Number of different line colours."""


def curves_figure(records: Records, arms: Sequence[str], title: str) -> Figure:
    """Draw the mean test error over the number of images, one line per arm with the deviation over seeds.

    Both axes are logarithmic. Published values are open circles in the colour of their arm; the mean of the
    teachers is a dashed line.

    Args:
        records: of one experiment.
        arms: names, at most ten; an arm with one rate is left out where others have more.
        title: of the figure.
    """
    figure = Figure(figsize=(9, 4.4))
    axes = figure.add_subplot()
    counts: set[int] = set()
    known = [arm for arm in arms if arm in records.arms and records.rates(arm)]
    most = min(2, max((len(records.rates(arm)) for arm in known), default=0))
    for number, arm in enumerate(arm for arm in known if len(records.rates(arm)) >= most):
        groups = [records.at(arm, rate) for rate in records.rates(arm)]
        images = [next(iter(group.values())).count for group in groups]
        found = [summarise(accuracies(group).values()) for group in groups]
        colour = f"C{number % _COLOURS}"
        axes.errorbar(
            images,
            [100 - one.mean for one in found],
            yerr=[one.deviation or 0.0 for one in found],
            label=plain(records.title(arm)),
            color=colour,
            marker="o",
            markersize=4,
            capsize=3,
            linewidth=1.5,
        )
        for count, group in zip(images, groups, strict=True):
            reported = next(iter(group.values())).reported
            if reported is not None:
                axes.plot([count], [100 - reported.value], "o", mfc="none", color=colour, markersize=9)
        counts.update(images)
    teachers = accuracies(records.at(TEACHER, None))
    if teachers:
        mean = 100 - summarise(teachers.values()).mean
        axes.axhline(mean, color="black", linestyle="--", linewidth=1, label="teacher")
    axes.set_xscale("log")
    axes.set_yscale("log")
    _label(axes.xaxis, FixedLocator(sorted(counts)))
    _label(axes.yaxis, LogLocator(subs=(1, 2, 5)))
    axes.set_xlabel("images")
    axes.set_ylabel("test error, %")
    axes.set_title(plain(title))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


def _label(axis: Axis, ticks: FixedLocator | LogLocator) -> None:
    axis.set_major_locator(ticks)
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
