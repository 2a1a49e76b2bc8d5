"""The picture of an experiment: accuracy over the number of images."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from zskd.report.statistics import summarise
from zskd.report.tables import Records, accuracies

_COLOURS = ("#1b6ca8", "#c8553d", "#5b8c5a", "#8d6a9f", "#b8860b", "#4d4d4d")


def curves_figure(records: Records, arms: Sequence[str], title: str) -> Figure:
    """Draw mean test accuracy over the number of images, one line per arm with the deviation over seeds.

    Reported values are open circles in the colour of their arm; the teachers are a dashed line.

    Args:
        records: of one experiment.
        arms: which ones; those without a rate are left out.
        title: of the picture.
    """
    figure = Figure(figsize=(7, 4.2))
    axes = figure.add_subplot()
    ticks: set[int] = set()
    drawn = [arm for arm in arms if arm in records.arms and records.rates(arm)]
    for arm, colour in zip(drawn, _COLOURS, strict=False):
        groups = [records.at(arm, rate) for rate in records.rates(arm)]
        counts = [next(iter(group.values())).count for group in groups]
        found = [summarise(accuracies(group).values()) for group in groups]
        axes.errorbar(
            counts,
            [one.mean for one in found],
            yerr=[one.deviation or 0.0 for one in found],
            label=records.any_of(arm).title,
            color=colour,
            marker="o",
            markersize=4,
            capsize=3,
        )
        for count, group in zip(counts, groups, strict=True):
            told = next(iter(group.values())).reported
            if told is not None:
                axes.plot([count], [told.value], "o", mfc="none", color=colour, markersize=8)
        ticks.update(counts)
    teachers = accuracies(records.at("teacher", None))
    if teachers:
        mean = summarise(teachers.values()).mean
        axes.axhline(mean, color="black", linestyle="--", linewidth=1, label=f"teacher {mean:.2f}")
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(sorted(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("images")
    axes.set_ylabel("test accuracy, %")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    return figure
