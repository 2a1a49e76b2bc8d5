"""`zskd report`: a page, tables and a picture from a run or from records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from zskd.cli.app import app
from zskd.cli.help import examples
from zskd.cli.telling import Json, Teller, print_line
from zskd.config.data import Twin
from zskd.core.errors import ZskdError

if TYPE_CHECKING:
    from zskd.core.artefact import JsonObject
    from zskd.experiment.definition import Experiment
    from zskd.experiment.report.tables import Records

Form = Literal["html", "md", "csv"]
_HEAD = 2000
"""Bytes in which a page has its title."""


@app.command(
    help_epilogue=examples(
        "zskd report runs/digits",
        "zskd report mnist",
        "zskd report mnist --format html --out mnist.html",
        "zskd report mnist --results results --out report/",
    )
)
def report(
    subject: str,
    /,
    *,
    format: Form | None = None,
    out: Path | None = None,
    results: Path | None = None,
    twin: Twin | None = None,
    data_dir: Path | None = None,
    teacher_model: Annotated[str | None, Parameter(name=("--teacher-model", "--model"))] = None,
    student_model: str | None = None,
    trust: tuple[str, ...] = (),
    json: Json = False,
) -> None:
    """Write a page about a finished run, or about the records of an experiment.

    Args:
        subject: Folder of a run; or name or file of an experiment.
        format: One HTML page with everything inside; Markdown; or comma-separated values. A run's is html,
            an experiment's md.
        out: File; for the Markdown of an experiment a folder of README.md and the picture. Absent: a page is
            report.html in the run's folder, or EXPERIMENT.html here; a text is printed.
        results: Folder of the records of an experiment; absent: results.
        twin: Report the experiment on this twin of its data.
        data_dir: Folder of the run's data, where it has moved, for its page.
        teacher_model: Factory to run for the page of a run, for a teacher in your own code.
        student_model: Likewise, for a student that is no copy of its teacher.
        trust: Names of your own code (method, start image) in the settings of the set that may run.
        json: Print the results as JSON, and write no page.
    """
    of_run = _is_run(subject)
    page = of_run and format in (None, "html") and not json
    for_page: dict[str, object] = {
        "--data-dir": data_dir,
        "--teacher-model": teacher_model,
        "--student-model": student_model,
    }
    if of_run:  # an experiment's file may name such code, too
        for_page["--trust"] = trust or None
    _check_options({"--results": results, "--twin": twin} if of_run else {}, {} if page else for_page)
    results = results or Path("results")
    if json:
        if format is not None or out is not None:
            raise ZskdError("--json prints the results and writes no page: leave out --format and --out")
        Teller(json).document(_values(subject, twin, results, trust))
    elif not of_run:
        _experiment(subject, twin, results, format or "md", out, trust)
    elif page:
        from zskd.core.progress import default_progress
        from zskd.report.run import report_run

        written = report_run(
            Path(subject),
            out,
            teacher_model=teacher_model,
            student_model=student_model,
            trust=trust,
            data_dir=data_dir,
            progress=default_progress(),
        )
        print_line(f"page in {written}")
    else:
        _of_run(Path(subject), format == "csv", out)


def _is_run(subject: str) -> bool:
    """Return whether a folder with results is meant, and no experiment of the same name."""
    from zskd.experiment.definition import experiment_names
    from zskd.run.metrics import METRICS

    folder = Path(subject)
    return (folder / METRICS).is_file() or (folder.is_dir() and subject not in experiment_names())


def _check_options(of_experiment: dict[str, object], of_page: dict[str, object]) -> None:
    """Refuse options that would change nothing."""
    kinds = {"an experiment": of_experiment, "the page of a run": of_page}
    for kind, options in kinds.items():
        for name, value in options.items():
            if value is not None:
                raise ZskdError(f"{name} is for {kind}: leave it out")


def _of_run(folder: Path, as_csv: bool, out: Path | None) -> None:
    """Print or write the tables of a run."""
    from zskd.report.tables import run_csv
    from zskd.run.metrics import METRICS, read_metrics
    from zskd.run.summary import energy_words, notes
    from zskd.run.tables import agreement_table, results_table, students_table

    metrics = read_metrics(folder / METRICS)
    tables = [results_table(metrics), agreement_table(metrics), students_table(metrics)]
    lines = [*notes(metrics), *([] if metrics.energy_known else [energy_words(metrics)])]
    texts = [table.markdown() for table in tables if table is not None]
    _give(run_csv(metrics) if as_csv else "\n\n".join((*texts, "\n".join(lines))), out)


def _experiment(
    name: str,
    twin: Twin | None,
    results: Path,
    form: Form,
    out: Path | None,
    trust: tuple[str, ...],
) -> None:
    """Print or write what the records of an experiment say."""
    from zskd.experiment.report.page import sections, write_page
    from zskd.report.experiment import report_experiment
    from zskd.report.tables import records_csv

    experiment, records = _records(name, twin, results, trust)
    if form == "html":
        if out is None:
            out = Path(f"{experiment.name}.html")
            _check_own(out)
        page = report_experiment(records, experiment, out)
        print_line(f"{len(records)} records: {page}")
    elif form == "csv":
        _give(records_csv(records), out)
    elif out is not None:
        print_line(f"{len(records)} records: {write_page(records, experiment, out)}")
    else:
        print_line("\n\n".join(f"## {title}\n\n{text}" for title, text in sections(records, experiment)))


def _check_own(page: Path) -> None:
    """Refuse to write over a file that nobody named, and that is no page about an experiment."""
    from zskd.core.reading import opened

    if not page.exists():
        return
    with opened(page) as stream:
        if b"<title>zskd: experiment " not in stream.read(_HEAD):
            raise ZskdError(
                f"{page} is no page about an experiment and would be written over: give --out FILE"
            )


def _records(
    name: str, twin: Twin | None, results: Path, trust: tuple[str, ...]
) -> tuple[Experiment, Records]:
    from zskd.core.progress import default_progress
    from zskd.experiment.definition import load_experiment, on_twin
    from zskd.experiment.report.page import records_of, tell_of_others

    experiment = load_experiment(name, trust=trust)
    if twin:
        experiment = on_twin(experiment, twin)
    records = records_of(experiment, results)
    if (line := tell_of_others(records, experiment)) is not None:
        default_progress().log(line)
    return experiment, records


def _values(subject: str, twin: Twin | None, results: Path, trust: tuple[str, ...]) -> JsonObject:
    """Return the results of a run or of an experiment as JSON."""
    from zskd.experiment.report.document import document_of
    from zskd.run.metrics import METRICS, read_metrics

    if _is_run(subject):
        return read_metrics(Path(subject) / METRICS).to_json()
    experiment, records = _records(subject, twin, results, trust)
    return document_of(records, experiment)


def _give(text: str, out: Path | None) -> None:
    """Print a text, or write it to a file."""
    from zskd.core.files import write_text

    if out is None:
        print_line(text.rstrip("\n"))
        return
    if out.is_dir():
        raise ZskdError(f"{out} is a folder: give a file")
    write_text(out, text.rstrip("\n") + "\n")
    print_line(f"written to {out}")
