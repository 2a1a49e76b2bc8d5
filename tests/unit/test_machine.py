"""What is found out about the machine, by changing it: limits, affinity and allocations of real processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from limits import LIMIT
from zskd.core.device import available_memory, choose_device, processor, usable_cores, use_threads
from zskd.core.errors import ZskdError

MB = 1_000_000


def elsewhere(code: str, **environment: str) -> Any:
    """Run code in a process of its own and return what it prints as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=True,
        env={**os.environ, **environment},
    )
    return json.loads(done.stdout)


LIMITED = """
import json, resource, sys
from pathlib import Path
from zskd.core.device import available_memory
def field(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))
found = [available_memory()]
for limit, name, room in ((resource.RLIMIT_AS, "VmSize", 900), (resource.RLIMIT_DATA, "VmData", 500)):
    hard = resource.getrlimit(limit)[1]
    resource.setrlimit(limit, (field(name) + room * 1_000_000, hard))
    found.append(available_memory())
taken = bytearray(200_000_000)
found.append(available_memory())
resource.setrlimit(resource.RLIMIT_DATA, (1_000_000, resource.getrlimit(resource.RLIMIT_DATA)[1]))
found.append(available_memory())
print(json.dumps(found))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="limits are read from /proc")
def test_the_memory_that_is_free_falls_with_the_limits_of_the_process_and_with_what_it_takes() -> None:
    free, in_addresses, in_data, behind_taking, beyond = elsewhere(LIMITED)
    assert free > 900 * MB
    assert in_addresses == pytest.approx(900 * MB, abs=20 * MB)
    assert in_data == pytest.approx(500 * MB, abs=20 * MB)
    assert behind_taking == pytest.approx(300 * MB, abs=20 * MB)
    assert beyond == 0


def test_the_memory_that_is_free_is_no_more_than_the_machine_has() -> None:
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    assert 0 < available_memory() <= pages * size


@pytest.mark.parametrize("wanted", ["nonsense", "", "cuda:99", "cpu:first", "CPU", "xla", "hpu"])
@pytest.mark.filterwarnings("ignore")
def test_a_device_that_is_not_there_is_refused_in_one_line(wanted: str) -> None:
    with pytest.raises(ZskdError, match=f"^--device {wanted}: this machine has no such device") as told:
        choose_device(wanted)
    assert "give auto or cpu" in str(told.value)
    assert "\n" not in str(told.value)


def test_auto_is_the_gpu_where_there_is_one() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("wanted", [1, 2, 3, 0])
def test_threads_are_put_back_as_they_were(wanted: int) -> None:
    before = torch.get_num_threads()
    with use_threads(wanted):
        assert torch.get_num_threads() == (wanted or usable_cores())
        with use_threads(4):
            assert torch.get_num_threads() == 4
        assert torch.get_num_threads() == (wanted or usable_cores())
    assert torch.get_num_threads() == before


def test_threads_are_put_back_behind_an_error_as_well() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt), use_threads(before + 1):
        raise KeyboardInterrupt
    assert torch.get_num_threads() == before


def test_cores_are_those_that_this_process_may_use() -> None:
    assert processor()["cores"] == usable_cores() >= 1
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system binds no process to a core")
    first = min(os.sched_getaffinity(0))
    code = (
        f"import json, os; os.sched_setaffinity(0, [{first}])\n"
        "from zskd.core.device import processor, usable_cores\n"
        "print(json.dumps([usable_cores(), processor()]))"
    )
    cores, told = elsewhere(code)
    assert cores == told["cores"] == 1
    assert told["name"] == processor()["name"] != ""


FAULTS = """
import json, resource, torch
from zskd.core.device import keep_freed_memory
torch.set_num_threads(1)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        torch.ones(4, 1_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
plain = faults()
keep_freed_memory()
keep_freed_memory()
faults()
print(json.dumps([plain, faults()]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_freed_memory_is_kept_for_the_next_request() -> None:
    """Seen in the page faults of asking for the same 16 MB again and again."""
    if os.confstr("CS_GNU_LIBC_VERSION") is None:
        pytest.skip("another C library")
    plain, kept = elsewhere(FAULTS, MALLOC_TRIM_THRESHOLD_="131072", MALLOC_MMAP_THRESHOLD_="131072")
    assert plain > 100
    assert kept < plain / 20
