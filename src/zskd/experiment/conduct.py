"""Run an experiment, or what is left of it: all teachers, then the sets and students of its cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from zskd.core.engines.base import Engine
from zskd.core.engines.local import LocalEngine
from zskd.core.files import folder_lock, make_folder
from zskd.core.progress import Progress, readable_seconds
from zskd.experiment.cell import end_last_line, run_cell
from zskd.experiment.conductor import Conductor
from zskd.experiment.definition import Experiment
from zskd.experiment.layout import CellPaths, State, check_record, lay_out, states
from zskd.experiment.plan import Cell
from zskd.experiment.record import LEDGER, Record, record_path


@dataclass(frozen=True)
class Outcome:
    """The cells of a run and their states, in the same order."""

    layout: list[CellPaths]
    states: list[State]

    def count(self, state: State) -> int:
        """Return the number of cells in a state."""
        return self.states.count(state)


def conduct(
    experiment: Experiment,
    cells: Sequence[Cell],
    out: Path,
    results: Path,
    *,
    workers: int = 0,
    engine: Engine | None = None,
    command: Callable[[Cell], str],
    compared: Path | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Run the cells that have no record yet.

    Args:
        experiment: with all its arms.
        cells: to be run, at least one.
        out: folder of teachers, sets and students; complete ones are kept and used.
        results: folder of records and ledger.
        workers: number of processes; 0 for one per core. A GPU of this machine gets one.
        engine: where they are; None: this machine.
        command: returns the command line that runs a cell again, for its record.
        compared: folder of records that the new ones are to be compared with; its ledger gets their uses of
            the test set.
        progress: receives log lines and steps.

    Returns:
        All cells with their states. A cell that fails raises no error here; its log has it.

    Raises:
        ZskdError: the folder is in use, there are records of other settings, here or in `compared`, or there
            is no test set.
    """
    progress, engine = progress or Progress(), engine or LocalEngine()

    def told(_: CellPaths, record: Record, left: str) -> None:
        seconds = readable_seconds(record.wall_seconds)
        progress.log(f"{record.cell}: {record.test_accuracy:.2f} % in {seconds}; {left}")

    layout, sources = lay_out(experiment, cells, out, results)
    if compared is not None:
        for paths in layout:
            check_record(record_path(compared, experiment.name, paths.cell.name), paths.key)
    ledger = (compared or results) / LEDGER
    todo = _todo(layout, out)
    progress.log(f"experiment {experiment.name}: {len(layout)} cells, {len(layout) - len(todo)} done before")
    if todo:
        make_folder(results)  # first: results that cannot be written would be lost
        with folder_lock(out):
            todo = _todo(layout, out)  # the process that had the lock may have run some
            end_last_line(ledger)
            Conductor(
                experiment.name,
                todo,
                sources,
                out,
                ledger,
                run_cell,
                told,
                workers=workers,
                engine=engine,
                command=command,
                progress=progress,
            ).run()
    return Outcome(layout, states(layout, out))


def _todo(layout: list[CellPaths], out: Path) -> list[CellPaths]:
    found = zip(layout, states(layout, out), strict=True)
    return [paths for paths, state in found if state is not State.DONE]
