"""`zskd report`: tables and a picture from records."""

from __future__ import annotations

from pathlib import Path

from zskd.cli.app import app
from zskd.cli.help import examples
from zskd.cli.options import ExperimentName, print_line
from zskd.config.data import Twin


@app.command(
    help_epilogue=examples(
        "zskd report mnist",
        "zskd report mnist --results results --out report/",
    )
)
def report(
    recipe: ExperimentName,
    /,
    *,
    twin: Twin | None = None,
    results: Path = Path("results"),
    out: Path | None = None,
) -> None:
    """Print the results of an experiment, or write them as a page with a picture.

    Args:
        recipe: Name or file.
        twin: Report the experiment on this twin of its data.
        results: Folder of the records.
        out: Folder of README.md and the picture; absent: print Markdown.
    """
    from zskd.experiment.definition import load_experiment, on_twin
    from zskd.experiment.report.page import records_of, sections, write_page

    experiment = load_experiment(recipe)
    if twin:
        experiment = on_twin(experiment, twin)
    records = records_of(experiment, results)
    if out is not None:
        print_line(f"{len(records)} records: {write_page(records, experiment, out)}")
        return
    print_line("\n\n".join(f"## {title}\n\n{text}" for title, text in sections(records, experiment)))
