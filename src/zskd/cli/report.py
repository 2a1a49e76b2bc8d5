"""`zskd report`: tables and a picture from records."""

from __future__ import annotations

from pathlib import Path

from zskd.cli.app import app
from zskd.cli.help import examples
from zskd.cli.options import ExperimentName
from zskd.cli.telling import Json, Teller
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
    json: Json = False,
) -> None:
    """Print the results of an experiment, or write them as a page with a picture.

    Args:
        recipe: Name or file.
        twin: Report the experiment on this twin of its data.
        results: Folder of the records.
        out: Folder of README.md and the picture; absent: print Markdown.
        json: Print the results as JSON.
    """
    from zskd.experiment.definition import load_experiment, on_twin
    from zskd.experiment.report.document import document_of
    from zskd.experiment.report.page import records_of, sections, write_page

    experiment = load_experiment(recipe)
    if twin:
        experiment = on_twin(experiment, twin)
    records = records_of(experiment, results)
    tell = Teller(json)
    if out is not None:
        tell.line(f"{len(records)} records: {write_page(records, experiment, out)}")
    else:
        tell.line("\n\n".join(f"## {title}\n\n{text}" for title, text in sections(records, experiment)))
    tell.document(document_of(records, experiment))
