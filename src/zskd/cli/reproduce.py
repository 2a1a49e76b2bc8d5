"""`zskd reproduce`: whole experiments."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zskd.cli.app import app
from zskd.cli.help import examples
from zskd.cli.options import Detail, ExperimentName, Flag, Trust
from zskd.cli.telling import Json, Teller
from zskd.cli.typed import note_no_folder
from zskd.config.checks import check_range
from zskd.config.data import Twin
from zskd.config.names import EngineName
from zskd.core.errors import ZskdError
from zskd.core.progress import readable_seconds

if TYPE_CHECKING:
    from zskd.core.engines.base import Engine
    from zskd.experiment.compare import Verdict
    from zskd.experiment.conduct import Outcome
    from zskd.experiment.definition import Experiment
    from zskd.experiment.plan import Cell


@app.command(
    help_epilogue=examples(
        "zskd reproduce digits",
        "zskd reproduce mnist --data-dir data --dry-run",
        "zskd reproduce mnist --data-dir data --only 'default-*' --seeds 1",
        "zskd reproduce mnist --status",
        "zskd reproduce mnist --only default-10-0 --again",
        "zskd reproduce mnist --twin permuted --status",
    )
)
def reproduce(
    recipe: ExperimentName,
    /,
    *,
    twin: Twin | None = None,
    only: tuple[str, ...] = (),
    seeds: int | None = None,
    dry_run: Flag = False,
    status: Flag = False,
    again: Flag = False,
    out: Path | None = None,
    results: Path = Path("results"),
    data_dir: Path | None = None,
    workers: int = 0,
    engine: EngineName = "local",
    tensorboard: Path | None = None,
    trust: Trust = Trust(),  # noqa: B008
    detail: Detail = Detail(),  # noqa: B008
    json: Json = False,
) -> None:
    """Run or resume an experiment: arms × rates × seeds, one record for each cell.

    Args:
        recipe: Name or file.
        twin: Run it on changed data: rows and columns exchanged, light and dark exchanged, or all pixels
            permuted. The name of the experiment is then NAME-TWIN.
        only: Names or patterns of the cells to run.
        seeds: Largest number of seeds of each arm.
        dry_run: Only print the plan and its expected cost, without the training of teachers.
        status: Only print the progress, and the time left without the training of teachers.
        again: Run cells again that have a record, and compare the results with it.
        out: Folder of teachers, sets and students; absent: runs/NAME-experiment. Cells that are run again
            use this name with -again.
        results: Folder of records and ledger.
        data_dir: Folder with the data; absent: a cache filled by download.
        workers: Number of parallel processes; 0 for one per core.
        engine: Where they run: local, ray, ray:HOST:PORT; the last two are a Ray cluster.
        tensorboard: Folder for TensorBoard event files.
        trust: Code that the experiment and its recipe may run.
        detail: What is printed.
        json: Print the outcome, the plan or the progress as JSON.
    """
    from zskd.config.engines import open_engine
    from zskd.config.loading import load_recipe
    from zskd.experiment.definition import load_experiment, on_twin
    from zskd.experiment.plan import plan_cells

    if seeds is not None:
        check_range("--seeds", seeds, 1)
    if workers < 0:
        raise ZskdError(f"--workers is {workers}: it must be at least 0, one per core")
    if again and (dry_run or status):
        raise ZskdError("--again runs cells, and --dry-run and --status only tell of them: give one of them")
    settings: dict[str, Any] = {"data": {"dir": data_dir}} if data_dir else {}
    if tensorboard:
        settings["tensorboard"] = str(tensorboard)
    experiment = load_experiment(recipe, settings, trust=trust.trust)
    note_no_folder(load_recipe(experiment.recipe, experiment.settings).data)
    if twin:
        experiment = on_twin(experiment, twin)
    cells = plan_cells(experiment, only, seeds)
    folder = out or Path("runs") / f"{experiment.name}-experiment"

    def command(cell: Cell) -> str:
        which = [recipe, "--twin", twin] if twin else [recipe]
        place = [] if results == Path("results") else ["--results", str(results)]
        trusted = [word for name in trust.trust for word in ("--trust", name)]
        return shlex.join(["zskd", "reproduce", *which, "--only", cell.name, *place, *trusted, "--again"])

    tell, where = Teller(json), open_engine(engine)
    if dry_run or status:
        _print_status(tell, experiment, cells, folder, results, workers, where, plan=dry_run)
        return
    from zskd.experiment.conduct import conduct

    own, records = folder, results
    if again:
        cells = _recorded(experiment, cells, results)
        own = Path(f"{folder}-again")  # not the first folder, whose files would be reused
        records = own / "records"
    outcome = conduct(
        experiment,
        cells,
        own,
        records,
        workers=workers,
        engine=where,
        command=command,
        compared=results if again else None,
        progress=detail.progress(),
    )
    document = _print_outcome(tell, outcome, records)
    complete = not document["failed"]
    if again:
        verdicts = _compare(tell, outcome, results, own)
        document["compared"] = [asdict(one) for one in verdicts]
        complete = complete and all(one.expected for one in verdicts)
    tell.document(document)
    if not complete:
        raise SystemExit(1)


def _print_outcome(tell: Teller, outcome: Outcome, records: Path) -> dict[str, Any]:
    """Print the number of finished cells and the failed ones; return them."""
    from zskd.experiment.layout import State

    done, states = outcome.count(State.DONE), zip(outcome.layout, outcome.states, strict=True)
    failed = [place for place, state in states if state is State.FAILED]
    tell.line(f"{done} cells have their record in {records}; {len(failed)} failed")
    for place in failed:
        tell.line(f"  {place.cell.name}: {place.log}")
    return {
        "records": records,
        "done": done,
        "failed": [{"cell": place.cell.name, "log": place.log} for place in failed],
    }


def _recorded(experiment: Experiment, cells: list[Cell], results: Path) -> list[Cell]:
    """Return the cells that have a record to compare with.

    Raises:
        ZskdError: there is none.
    """
    from zskd.experiment.record import record_path

    found = [one for one in cells if record_path(results, experiment.name, one.name).is_file()]
    if not found:
        raise ZskdError(f"none of these cells has a record in {results}: run them without --again")
    return found


def _compare(tell: Teller, outcome: Outcome, results: Path, folder: Path) -> list[Verdict]:
    """Compare cells that were run again with their records."""
    from zskd.experiment.compare import compare

    verdicts = [compare(place, results) for place in outcome.layout if place.record.is_file()]
    for verdict in verdicts:
        tell.line(verdict.text)
    tell.line(f"To run them again, delete {folder}")
    return verdicts


def _print_status(
    tell: Teller,
    experiment: Experiment,
    cells: list[Cell],
    folder: Path,
    results: Path,
    workers: int,
    engine: Engine,
    *,
    plan: bool,
) -> None:
    """Print the plan, or the progress."""
    from zskd.experiment.cost import estimate, read_known, seconds_left
    from zskd.experiment.layout import State, lay_out, states
    from zskd.synthesis.room import possible_workers

    places, sources = lay_out(experiment, cells, folder, results)
    workers = possible_workers(sources.model, workers, engine)
    found_states = states(places, folder)
    left = [place for place, state in zip(places, found_states, strict=True) if state is not State.DONE]
    estimated = estimate(left, sources.model, read_known(folder))
    costs = {place.cell.name: cost for place, cost in zip(left, estimated, strict=True)}
    if plan:
        rows: dict[tuple[str, str, int], list[int]] = {}
        for place in places:
            cell = place.cell
            rate = "" if cell.rate is None else f"{cell.rate:g} %"
            rows.setdefault((cell.arm_name, rate, place.count), []).append(cell.recipe.seed)
        tell.line(f"{'arm':<24}{'rate':>6}{'images':>9}  seeds")
        for (arm, rate, count), seeds in rows.items():
            tell.line(f"{arm:<24}{rate:>6}{count:>9,}  {', '.join(map(str, seeds))}")
    counts = Counter(found_states)
    tell.line(f"{len(places)} cells: " + ", ".join(f"{counts[state]} {state.value}" for state in State))
    for place, state in zip(places, found_states, strict=True):
        if state in (State.RUNNING, State.FAILED):
            log = f": {place.log}" if state is State.FAILED else ""
            tell.line(f"  {place.cell.name} {state.value}{log}")
    seconds = seconds_left(left, costs, workers)
    about = f"about {readable_seconds(seconds)} with {workers} workers"
    tell.line(f"{'cost' if plan else 'time left'}: {about}")
    tell.document(
        {
            "experiment": experiment.name,
            "cells": {
                place.cell.name: state.value for place, state in zip(places, found_states, strict=True)
            },
            "seconds_left": round(seconds, 1),
            "workers": workers,
        }
    )
