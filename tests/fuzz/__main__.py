"""`make fuzz`: damaged files for every reader, in processes of their own with a limit of memory and time.

A case that does not end in a value or in one line is written into the folder of failures; make a test of it.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import torch

from fuzz.damage import damaged
from fuzz.readers import Reader, make_readers
from zskd.core.errors import ZskdError, has_hidden

AT_ONCE = 250
"""Cases of one process."""
SECONDS, MEMORY = 20, 1 << 30
"""Of one case; bytes that one process may take beside what it has."""


def main() -> int:
    """Run all cases and return 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--failures", type=Path, default=Path("fuzz-failures"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    started, counts, number = time.monotonic(), Counter[str](), given.first
    with tempfile.TemporaryDirectory() as name:
        readers = make_readers(Path(name))
        while number < given.first + given.cases and time.monotonic() - started < given.seconds:
            reader = readers[number // AT_ONCE % len(readers)]
            counts += run_batch(reader, range(number, number + AT_ONCE), Path(name), given.failures)
            number += AT_ONCE
    total = sum(counts.values())
    print(
        f"{total:,} cases in {time.monotonic() - started:.0f} s: "
        + ", ".join(f"{n:,} {k}" for k, n in counts.items())
    )
    return int(counts["failed"] > 0)


def run_batch(reader: Reader, numbers: range, folder: Path, failures: Path) -> Counter[str]:
    """Run cases in a process of their own; go on behind one that ends it."""
    counts = Counter[str]()
    left = list(numbers)
    while left:
        end, own = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(end)
            _run_all(reader, left, folder, own)
        os.close(own)
        with os.fdopen(end, "r") as stream:
            told = [line.rstrip("\n") for line in stream]
        _, status = os.waitpid(child, 0)
        done = told[: len(left)]
        for one, how in zip(left, done, strict=False):
            counts["failed" if how.startswith("failed") else how] += 1
            if how.startswith("failed"):
                _keep(reader, one, failures, how)
        left = left[len(done) :]
        if left and status:
            counts["failed"] += 1
            _keep(reader, left.pop(0), failures, f"the process ended with {status}")
    return counts


def _run_all(reader: Reader, numbers: list[int], folder: Path, told: int) -> None:
    """In another process: tell of each case how it ended."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    path = folder / reader.name
    for number in numbers:
        path.write_bytes(damaged(reader.whole, number, is_text=reader.is_text))
        signal.alarm(SECONDS)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        how = ending(reader, path)
        signal.alarm(0)
        more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        how = f"failed: {more / 1024:.0f} MB" if more > 1 << 19 else how
        os.write(told, f"{how}\n".encode("ascii", "backslashreplace"))
    os._exit(0)


def ending(reader: Reader, path: Path) -> str:
    """Return how the reading of a file ends: read, refused or failed."""
    try:
        reader.read(path)
    except ZskdError as error:
        return "refused" if not has_hidden(str(error)) and len(str(error)) <= 2000 else f"failed: {error!r}"
    except BaseException:
        return "failed: " + " | ".join(traceback.format_exc().splitlines()[-3:])
    return "read"


def _keep(reader: Reader, number: int, failures: Path, why: str) -> None:
    failures.mkdir(exist_ok=True)
    name = f"{number}-{reader.name.replace('/', '-')}"
    (failures / name).write_bytes(damaged(reader.whole, number, is_text=reader.is_text))
    print(f"{failures / name}: {why[:400]}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
