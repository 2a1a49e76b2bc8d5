"""`make kills`: commands that are killed at moments spread over their length, and run again to the end.

It kills the command, one of its workers, all its processes, the command just before a change of a file, and
the power: then only what was flushed is left. At the end it prints how many kills there were and how many
bytes differ from those of an undisturbed command, and ends with exit code 1 if any does.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from random import Random

from kills.processes import import_all
from kills.scenarios import SCENARIOS, TARGETS, Scenario, make_given
from kills.sessions import Outcome, Undisturbed, run_alone, session, undisturbed
from zskd.core.device import processor
from zskd.core.files import write_json
from zskd.core.tables import Table
from zskd.core.versions import source_commit, versions

_AT_ONCE = 2
"""Kills of one session."""
_SOONER, _ATTEMPTS = 0.7, 8
"""Where a command ends before it is killed: the share of the next moment, and how many more sessions."""


@dataclass(frozen=True)
class Count:
    """What happened to a command."""

    command: str
    target: str
    found: Outcome

    @property
    def different(self) -> int:
        """Bytes that differ."""
        return sum(self.found.different.values())


def main() -> int:
    """Kill what was asked for, print the table, and return 1 if a byte differs."""
    parser = argparse.ArgumentParser(prog="python -m kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of moments and workers")
    names = [one.name for one in SCENARIOS]
    parser.add_argument("--only", nargs="*", choices=names, default=names, help="commands; absent: all")
    parser.add_argument("--keep", type=Path, help="new folder to work in; absent: one that is deleted")
    parser.add_argument("--out", type=Path, help="file for a record")
    given = parser.parse_args()
    import_all()
    started = time.monotonic()
    chosen = [one for one in SCENARIOS if one.name in given.only]
    # not a TemporaryDirectory, which each fork of this process would delete at its end
    folder = Path(tempfile.mkdtemp(prefix="zskd-kills-")) if given.keep is None else given.keep.absolute()
    folder.mkdir(exist_ok=given.keep is None)
    counts = []
    try:
        for one in count_all(chosen, given.kills, given.seed, folder):
            counts.append(one)
            tell(one)
    finally:
        if given.keep is None:
            shutil.rmtree(folder)
    seconds = time.monotonic() - started
    kills = sum(one.found.kills for one in counts)
    wrong = sum(one.different for one in counts), sum(len(one.found.wrong) for one in counts)
    print(table(counts))
    print(f"{kills} kills, {wrong[0]} bytes different, {wrong[1]} commands failed, in {seconds:.0f} s")
    if given.out is not None:
        write_record(given.out, counts, seconds)
    return int(any(wrong) or kills < given.kills)


def tell(one: Count) -> None:
    """Print what happened to a command."""
    print(f"{one.command}, {one.target}: {one.found.kills} kills, {one.different} bytes differ", flush=True)
    for line in [*one.found.wrong, *(f"{n} bytes of {file}" for file, n in one.found.different.items())]:
        print(f"  {line}", file=sys.stderr, flush=True)


def count_all(scenarios: Sequence[Scenario], kills: int, seed: int, folder: Path) -> Iterator[Count]:
    """Kill each command in each way, so many times in all, and yield the counts."""
    (folder / "given").mkdir()
    make_given(folder / "given", lambda arguments: run_alone(arguments, folder / "given"))
    targets = sum(len(scenario.targets) for scenario in scenarios)
    number = 0
    for scenario in scenarios:
        fitted, whole = undisturbed(scenario, folder / f"whole-{number}")
        for target in scenario.targets:
            share = kills // targets + (number < kills % targets)
            random, sessions = Random(f"{seed} {scenario.name} {target}"), folder / f"session-{number}"
            if share:
                yield Count(scenario.name, target, count(fitted, target, share, whole, sessions, random))
            number += 1


def count(
    scenario: Scenario, target: str, kills: int, whole: Undisturbed, folder: Path, random: Random
) -> Outcome:
    """Kill one command in one way, in sessions whose folders are named after `folder`."""
    found, share, early = Outcome(), 1.0, 0
    for number in range(kills + _ATTEMPTS):
        left = kills - found.kills
        if not left:
            break
        moments = [share * (found.kills + k + random.random()) / kills for k in range(min(left, _AT_ONCE))]
        one = session(scenario, target, moments, whole, folder.with_name(f"{folder.name}-{number}"), random)
        early = early + 1 if one.kills < len(moments) else early
        share = _SOONER**early
        found.add(one)
    return found


def table(counts: Sequence[Count]) -> str:
    """Return the kills of each command by what was killed, with the bytes that differ."""
    cells = {(one.command, one.target): f"{one.found.kills}, {one.different} differ" for one in counts}
    names = dict.fromkeys(one.command for one in counts)
    return Table(
        ("command", *TARGETS), [(name, *(cells.get((name, one), "") for one in TARGETS)) for name in names]
    ).markdown()


def write_record(path: Path, counts: Sequence[Count], seconds: float) -> None:
    """Write the counts with what they were made by."""
    rows = [
        {
            "command": one.command,
            "target": one.target,
            "kills": one.found.kills,
            "files": one.found.files,
            "different_bytes": one.different,
            "failed": len(one.found.wrong),
        }
        for one in counts
    ]
    origin = {
        "date": date.today().isoformat(),
        "command": shlex.join(["python", "-m", "kills", *sys.argv[1:]]),
    }
    made_by = {"commit": source_commit(), "versions": versions(), "processor": processor()}
    n = {"kills": sum(one.found.kills for one in counts), "seconds": round(seconds)}
    write_json(path, {**origin, **made_by, **n, "targets": TARGETS, "counts": rows})


if __name__ == "__main__":
    sys.exit(main())
