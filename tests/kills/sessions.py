"""One session: a command in a fresh folder, killed several times, run to its end, and compared."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

from kills.compare import differences
from kills.disk import NAMES
from kills.processes import Command
from kills.scenarios import CHANGE, COMMAND, POWER, WORKER, Scenario, command

_SHARE = 0.95
"""Of the length of an undisturbed command, in which it is killed: others can be faster."""
_REFUSED = 2
_WHOLE = ("out",)
_BY_CLOCK = ("out/model.safetensors", "out/card.json", "out/curve.json")
"""What is compared, and what of a command with a budget."""


@dataclass(frozen=True)
class Undisturbed:
    """A command that nothing disturbed."""

    folder: Path
    seconds: float
    changes: int
    """Of files, by the command itself."""


@dataclass
class Outcome:
    """What happened in some sessions."""

    kills: int = 0
    files: int = 0
    """That were compared."""
    different: dict[str, int] = field(default_factory=dict)
    """Bytes of each file that differs."""
    wrong: list[str] = field(default_factory=list)
    """Commands that failed, and processes that outlived theirs."""

    def add(self, other: Outcome) -> None:
        """Add the counts of another session."""
        self.kills += other.kills
        self.files += other.files
        self.different = {
            name: self.different.get(name, 0) + other.different.get(name, 0)
            for name in self.different | other.different
        }
        self.wrong += other.wrong


@contextmanager
def started(arguments: tuple[str, ...], folder: Path) -> Iterator[Command]:
    """Start a command, and leave nothing of it behind."""
    running = Command(arguments, folder)
    try:
        yield running
    finally:
        running.stop()


def run_alone(arguments: tuple[str, ...], folder: Path) -> Undisturbed:
    """Run a command to its end.

    Raises:
        RuntimeError: it failed.
    """
    folder.mkdir(exist_ok=True)
    with started(arguments, folder) as running:
        if running.wait() != 0:
            raise RuntimeError(
                f"zskd {' '.join(arguments)} ended with {running.code()}:\n{running.log.read_text()}"
            )
        return Undisturbed(folder, running.seconds, running.changes)


def undisturbed(scenario: Scenario, folder: Path) -> tuple[Scenario, Undisturbed]:
    """Run a scenario undisturbed; return it, with a budget of which half is enough on this machine now."""
    if scenario.minutes is None:
        return scenario, run_alone(command(scenario, CHANGE), folder)
    minutes = scenario.minutes
    while True:
        try:
            whole = run_alone(command(replace(scenario, minutes=minutes), CHANGE), folder)
        except RuntimeError as error:
            if "give --budget" not in str(error):
                raise
            minutes *= 2
            continue
        return replace(scenario, minutes=2 * minutes), replace(whole, seconds=2 * whole.seconds)


def session(
    scenario: Scenario, target: str, moments: list[float], whole: Undisturbed, folder: Path, random: Random
) -> Outcome:
    """Kill a command at some moments, each a share of its length, end it, and compare.

    Args:
        scenario: what is run.
        target: what is killed.
        moments: each from 0 to 1; those behind its end are left out.
        whole: the same command, undisturbed.
        folder: to run in; deleted at the end where nothing differs.
        random: chooses workers and names.
    """
    folder.mkdir()
    arguments, found, killed = command(scenario, target), Outcome(), list[Command]()
    code: int | None = None
    try:
        for moment in moments:
            was_killed, one = _disturbed(arguments, target, moment, whole, folder, random)
            killed.append(one)
            found.kills += was_killed
            code = one.code()
            if not was_killed or code == 0:
                break
        if code != 0:
            with started(arguments, folder) as last:
                code = last.wait()
        found.wrong += [
            f"{one.outlived()} processes outlive {arguments[0]}" for one in killed if one.outlived()
        ]
    finally:
        for one in killed:
            one.stop()
    if code != 0 and not (scenario.once and code == _REFUSED):
        found.wrong.append(f"zskd {' '.join(arguments)} ended with {code}: see {folder}.log")
        return found
    parts, reference = _WHOLE, whole.folder
    if scenario.minutes is not None:
        parts, reference = _BY_CLOCK, _by_hand(scenario, target, folder)
    found.files, found.different = differences(folder, reference, parts)
    if not found.different and not found.wrong:
        shutil.rmtree(folder)
    return found


def _disturbed(
    arguments: tuple[str, ...],
    target: str,
    moment: float,
    whole: Undisturbed,
    folder: Path,
    random: Random,
) -> tuple[bool, Command]:
    """Run a command and kill it; return whether that was before its end, and the command.

    A command that outlives its worker is waited for. What a killed command has started is not: the next one
    begins at once.
    """
    cut = None
    if target in (CHANGE, POWER):
        names = random.choice(NAMES) if target == POWER else None
        cut = (1 + int(moment * whole.changes), names)
    running = Command(arguments, folder, cut)
    if cut is not None:
        killed = running.wait() == -signal.SIGKILL
    elif running.wait(_SHARE * moment * whole.seconds) is not None:
        killed = False
    elif target == WORKER:
        killed = running.kill_worker(random.randrange(100))
        running.wait()
    else:
        killed = True
        running.kill() if target == COMMAND else running.kill_group()
    if target == POWER and killed:
        shutil.rmtree(folder)
        folder.with_name("left").rename(folder)
    return killed, running


def _by_hand(scenario: Scenario, target: str, folder: Path) -> Path:
    """Return the folder of the same command with the number of steps that fitted into its minutes."""
    steps = json.loads((folder / "out/budget.json").read_text("utf-8"))["steps"]
    arguments = command(replace(scenario, minutes=None), target)
    by_hand = folder.with_name(f"{folder.name}-by-hand")
    run_alone((*arguments, "--distill.steps", str(steps)), by_hand)
    return by_hand
