"""Memory that does not grow with the set: synthesis shard by shard, distillation from mapped files."""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from limits import LIMIT
from zskd.core.errors import ZskdError
from zskd.core.tensors import map_tensors, read_tensors
from zskd.transfer_set.dataset import TransferSet

needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc/self/status")

COMMON = """
import json, resource, sys, threading, time
from pathlib import Path
import torch
from torch import nn
from zskd.models.classifier import Classifier, InputSpec
from zskd.config.transforms import AugmentConfig
from zskd.config.distillation import DistillConfig
from zskd.config.synthesis import SynthesisConfig
from zskd.models.factory import fresh_weights
from zskd.core.progress import Progress

torch.set_num_threads(1)
SHAPE = (3, 64, 64)

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))

def network(filters):
    def build():
        first = nn.Conv2d(3, filters, 5, stride=4)
        return nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(49 * filters, 5))
    return fresh_weights(build, filters)

teacher = Classifier(network(6), spec=InputSpec(shape=SHAPE)).freeze()
"""


def elsewhere(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", COMMON + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


def printed(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


SET = """
from zskd.transfer_set.manifest import Provenance
from zskd.transfer_set.shard import Shard, write_shard
from zskd.transfer_set.writer import Writer
folder, shards, size = Path(sys.argv[1]), int(sys.argv[2]), 250
provenance = Provenance(spec={"method": "noise"}, teacher_sha256=teacher.fingerprint())
writer = Writer(folder, provenance, class_names=teacher.class_names, shape=SHAPE)
for number in range(shards):
    numbers = torch.Generator().manual_seed(number)
    images, steps = torch.rand(size, *SHAPE, generator=numbers), torch.zeros(size, dtype=torch.int32)
    targets, logits = torch.full((size, 5), 0.2), torch.zeros(size, 5)
    shard = Shard(images, targets, logits, steps.long(), steps, steps.float())
    writer.add(number, write_shard(folder, number, shard))
writer.finish()
print(json.dumps(size * shards * images[0].nbytes))
"""

DISTILL = """
from contextlib import contextmanager
from zskd.distillation.distill import distill
from zskd.transfer_set.dataset import TransferSet
class Told(Progress):
    lines, most = [], 0
    def log(self, text):
        self.lines.append(text)
    @contextmanager
    def task(self, *_, **__):
        yield self
    def advance(self, *_):
        self.most = max(self.most, status("RssAnon"))
images, where, room = TransferSet(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])
if room:
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (status("VmData") + room, hard))
config = DistillConfig(steps=12, batch_size=32, images=where, augment=AugmentConfig(rotation=20.0, mixup=0.5))
told = Told()
student = distill(teacher, network(3), images, config, progress=told)
print(json.dumps({"student": student.fingerprint(), "said": told.lines, "anonymous": told.most}))
"""


@pytest.fixture(scope="module")
def large_set(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """197 MB of images in 16 shards, and how many bytes that is.

    So much that torch's own 90 MB, whatever the set, leave room below the limits."""
    folder = tmp_path_factory.mktemp("large")
    return folder, int(printed(elsewhere(SET, folder, 16)))


@pytest.mark.slow
@needs_proc
def test_a_set_larger_than_the_memory_allowed_is_distilled_from_its_files_to_the_same_student(
    large_set: tuple[Path, int],
) -> None:
    folder, size = large_set
    room = size * 2 // 3
    free = printed(elsewhere(DISTILL, folder, "memory", 0))
    limited = printed(elsewhere(DISTILL, folder, "auto", room))
    assert any("are read from mapped files" in line for line in limited["said"]), limited["said"]
    assert limited["student"] == free["student"]
    assert free["anonymous"] - limited["anonymous"] > 0.9 * size
    # and the limit is one: the copy does not fit
    refused = elsewhere(DISTILL, folder, "memory", room)
    assert refused.returncode != 0
    assert "memory" in refused.stderr


@needs_proc
def test_images_are_copied_into_memory_only_where_they_fit_well(large_set: tuple[Path, int]) -> None:
    folder, size = large_set
    said = printed(elsewhere(DISTILL, folder, "auto", 5 * size // 2))["said"]
    assert any("are copied into memory" in line for line in said), said


BY_SHARD = """
from zskd.distillation.distill import distill
from zskd.transfer_set.dataset import TransferSet
before = status("VmRSS")
images = TransferSet(Path(sys.argv[1]))
config = DistillConfig(
    steps=80, batch_size=50, start="random", images="mapped", order="by_shard", window_mb=30,
    optimiser="adam", augment=AugmentConfig(),
)
distill(teacher, network(3), images, config)
print(json.dumps(status("VmHWM") - before))
"""


@needs_proc
def test_an_order_by_shard_holds_a_window_of_the_set(large_set: tuple[Path, int]) -> None:
    folder, size = large_set
    grown = printed(elsewhere(BY_SHARD, folder))
    assert grown < 0.8 * size, "torch's own 90 MB, and 30 MB of images"


SYNTHESIS = """
from zskd.synthesis.spec import SetSpec
from zskd.synthesis.build import build_transfer_set
count, folder = int(sys.argv[1]), Path(sys.argv[2])
synthesis = SynthesisConfig(start="uniform", steps=2, shard_size=200, batch_size=50, tolerance=0.0)
most, done = [0], threading.Event()
def watch():
    while not done.is_set():
        most[0] = max(most[0], status("RssAnon"))
        time.sleep(0.002)
watcher = threading.Thread(target=watch)
watcher.start()
made = build_transfer_set(teacher, SetSpec(count=count, synthesis=synthesis), folder)
done.set()
watcher.join()
print(json.dumps([len(made), made.image_bytes, most[0]]))
"""


@pytest.mark.slow
@needs_proc
def test_making_a_larger_set_takes_no_more_memory(tmp_path: Path) -> None:
    # ten shards: what torch holds for a moment while it writes one is not seen in each
    small = printed(elsewhere(SYNTHESIS, 2000, tmp_path / "small"))
    large = printed(elsewhere(SYNTHESIS, 8000, tmp_path / "large"))
    assert (small[0], large[0]) == (2000, 8000)
    assert large[1] - small[1] > 0.3 * small[2], "the sets are too small to be noticed"
    assert large[2] <= 1.1 * small[2]


TENSORS = {
    "images": torch.rand(5, 1, 4, 4),
    "anchors": torch.arange(5),
    "steps": torch.arange(5, dtype=torch.int32),
    "single": torch.tensor(2.5),
    "none": torch.empty(0, 3),
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tensors") / "some.safetensors"
    save_file(TENSORS, path, metadata={"key": "value"})
    return path


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[name]) and value.dtype == other[name].dtype for name, value in one.items()
    )


def test_mapped_tensors_are_those_that_reading_gives(file: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mapped = map_tensors(file)
    assert same(mapped, read_tensors(file))
    assert same(mapped, TENSORS)


def test_a_set_gives_the_images_of_its_files_however_they_are_read(small_set: TransferSet) -> None:
    together = torch.cat([read_tensors(path)["images"] for path in sorted(small_set.folder.glob("shard-*"))])
    assert torch.equal(small_set.all_images(), together)
    assert torch.equal(small_set.images(torch.arange(len(small_set))), together)
    assert small_set.image_bytes == together.nbytes


@needs_proc
def test_mapped_tensors_are_no_memory_of_this_process(tmp_path: Path) -> None:
    def anonymous() -> int:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))

    path = tmp_path / "large.safetensors"
    save_file({"x": torch.ones(16_000_000)}, path)
    before = anonymous()
    mapped = map_tensors(path)["x"]
    assert float(mapped.max()) == 1
    assert anonymous() - before < 8_000_000
    read = read_tensors(path)["x"]
    assert torch.equal(read, mapped)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere.safetensors"
    for path, words in ((tmp_path, f"{tmp_path} is a folder"), (missing, f"there is no file {missing}")):
        with pytest.raises(ZskdError, match=words):
            map_tensors(path)


def refused(path: Path) -> None:
    with pytest.raises(ZskdError, match=rf"{path.name} is not a complete safetensors file") as told:
        map_tensors(path)
    assert "\n" not in str(told.value)


def test_a_file_cut_off_anywhere_is_refused(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    path = tmp_path / "cut.safetensors"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refused(path)


def with_header(header: object) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(64)


WHOLE = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
GARBAGE: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "zeros": lambda: bytes(100),
    "text": lambda: b"this is no safetensors file at all, whatever its name says\n" * 9,
    "noise": lambda: os.urandom(1000),
    "a header beyond the end": lambda: b"\xff" * 8 + b"{}",
    "a header of a list": lambda: with_header([WHOLE]),
    "a header of a number": lambda: with_header(3),
    "an entry of a number": lambda: with_header({"x": 3}),
    "no dtype": lambda: with_header({"x": {"shape": [4], "data_offsets": [0, 16]}}),
    "another dtype": lambda: with_header({"x": WHOLE | {"dtype": "BF16"}}),
    "half as many bytes": lambda: with_header({"x": WHOLE | {"dtype": "F16"}}),
    "a dtype of a list": lambda: with_header({"x": WHOLE | {"dtype": ["F32"]}}),
    "another shape": lambda: with_header({"x": WHOLE | {"shape": [5]}}),
    "a shape of text": lambda: with_header({"x": WHOLE | {"shape": "four"}}),
    "data beyond the end": lambda: with_header({"x": WHOLE | {"data_offsets": [60, 76]}}),
    "three offsets": lambda: with_header({"x": WHOLE | {"data_offsets": [0, 8, 16]}}),
    "offsets of text": lambda: with_header({"x": WHOLE | {"data_offsets": ["a", "b"]}}),
    "half a number": lambda: with_header({"x": WHOLE | {"data_offsets": [0, 15]}}),
    "a deep header": lambda: (200_000).to_bytes(8, "little") + b"[" * 200_000,
}


@pytest.mark.parametrize("kind", list(GARBAGE))
def test_garbage_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "garbage.safetensors"
    path.write_bytes(GARBAGE[kind]())
    refused(path)


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    database=None,
)
@given(changes=st.dictionaries(st.integers(0, 500), st.integers(0, 255), min_size=1, max_size=4))
def test_changed_bytes_give_tensors_or_an_error_of_one_line(
    file: Path, tmp_path: Path, changes: dict[int, int]
) -> None:
    raw = bytearray(file.read_bytes())
    for place, value in changes.items():
        raw[place % len(raw)] = value
    path = tmp_path / "changed.safetensors"
    path.unlink(missing_ok=True)  # another file: the one before may still be mapped
    path.write_bytes(raw)
    found: dict[str, Tensor] = {}
    with suppress(ZskdError):
        found = map_tensors(path)
    assert all(isinstance(value, Tensor) for value in found.values())
