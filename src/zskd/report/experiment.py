"""The page about an experiment."""

from __future__ import annotations

from pathlib import Path

from markdown_it import MarkdownIt
from markupsafe import Markup

from zskd.experiment.definition import Experiment
from zskd.experiment.report.curves import curves_figure
from zskd.experiment.report.page import sections
from zskd.experiment.report.tables import Records
from zskd.report.page import write_page
from zskd.report.pictures import svg_of

_SHOWN_ARMS = 10
"""Arms of the curves: as many as there are colours."""


def report_experiment(records: Records, experiment: Experiment, out: Path) -> Path:
    """Write the page about an experiment and return its path.

    Args:
        records: of the experiment.
        experiment: that they belong to.
        out: the page; replaced as a whole.

    Raises:
        ZskdError: the file cannot be written.
    """
    # HTML of titles is escaped, because it is not asked for
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    parts = [(title, Markup(markdown.render(text))) for title, text in sections(records, experiment)]
    figure = curves_figure(records, records.arms[:_SHOWN_ARMS], f"test error, {experiment.name}")
    curves = svg_of(figure, f"Test error over the number of images, {experiment.name}.")
    return write_page(
        "experiment.html",
        out,
        name=experiment.name,
        records=len(records),
        sections=parts,
        curves=curves if records.rates() else "",
    )
