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
from zskd.core.device import choose_device, processor, usable_cores, use_threads
from zskd.core.errors import ZskdError
from zskd.core.memory import at_once, available_memory, bytes_per_image, free_of_groups

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
from zskd.core.memory import available_memory
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
from zskd.core.memory import keep_freed_memory
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


def group(folder: Path, limit: str, used: int, cached: int, version: int) -> None:
    """Write the files of a control group as the kernel shows them."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("max", "current") if version == 2 else ("limit_in_bytes", "usage_in_bytes")
    for name, value in zip(names, (limit, used), strict=True):
        (folder / f"memory.{name}").write_text(f"{value}\n")
    entry = "inactive_file" if version == 2 else "total_inactive_file"
    (folder / "memory.stat").write_text(f"anon 5\n{entry} {cached}\n")


def test_limits_of_control_groups_of_both_versions_and_of_their_parents_are_found(tmp_path: Path) -> None:
    two, one = tmp_path / "two", tmp_path / "one"
    group(two / "user" / "job", "max", 7, 0, 2)
    group(two / "user", str(1000 * MB), 300 * MB, 100 * MB, 2)
    assert free_of_groups(two, "0::/user/job\n") == [800 * MB]
    assert free_of_groups(two, "0::/elsewhere\n") == []
    group(two, str(500 * MB), 100 * MB, 0, 2)  # a container sees its own group at the root
    assert free_of_groups(two, "0::/host/path/that/is/not/here\n") == [400 * MB]
    group(one / "memory" / "job", str(600 * MB), 200 * MB, 50 * MB, 1)
    group(one / "memory", "9223372036854771712", 0, 0, 1)
    assert free_of_groups(one, "4:memory:/job\n3:cpuset:/job\n0::/\n") == [450 * MB]


def test_the_bytes_of_an_image_are_what_is_kept_for_it_and_the_largest_twice() -> None:
    weight = torch.ones(1000, requires_grad=True)

    def forward(count: int) -> torch.Tensor:
        """Each exponential keeps its result, 4,000 bytes an image; weights do not grow."""
        return (torch.ones(count, 1000) * weight).exp().exp().exp()

    kept = 4 * 4000  # the factor of the weight, and three results
    assert bytes_per_image(forward) == kept + 2 * 4000
    assert bytes_per_image(lambda count: torch.ones(count, 1000)) == 0


@pytest.mark.parametrize(
    ("shape", "expected"), [((1, 64, 64), 100), ((3, 32, 128), 100), ((9, 3, 224, 224), 8)]
)
def test_fewer_large_images_are_handled_at_once(shape: tuple[int, ...], expected: int) -> None:
    assert at_once(100, shape) == expected
    assert at_once(1, (3, 5000, 5000)) == 1
