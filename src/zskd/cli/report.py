"""The verb that turns records into tables and a picture."""

from __future__ import annotations

from pathlib import Path

from zskd.cli.app import app, examples
from zskd.cli.options import say
from zskd.config.data import Twin


@app.command(
    help_epilogue=examples(
        "zskd report mnist",
        "zskd report mnist --results results --out report/",
    )
)
def report(
    recipe: str,
    /,
    *,
    twin: Twin | None = None,
    results: Path = Path("results"),
    out: Path | None = None,
) -> None:
    """Print what an experiment found, or write it as a page with its picture.

    Args:
        recipe: digits, mnist, fashion-mnist, or a YAML file.
        twin: The experiment was done on this twin of its data.
        results: Folder of the records.
        out: Folder of README.md and the picture; absent: printed in Markdown.
    """
    from zskd.experiment.definition import load_experiment, on_twin
    from zskd.experiment.report.page import records_of, sections, write_page

    experiment = load_experiment(recipe)
    if twin:
        experiment = on_twin(experiment, twin)
    records = records_of(experiment, results)
    if out is not None:
        say(f"{len(records)} records: {write_page(records, experiment, out)}")
        return
    say("\n\n".join(f"## {title}\n\n{text}" for title, text in sections(records, experiment)))
