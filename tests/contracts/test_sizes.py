"""Large images and many classes: the batch, the workers, the stored pixels and what is measured scale."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_memory import elsewhere, needs_proc, printed
from torch import Tensor, nn

from limits import LIMIT
from zskd.config.distillation import DistillConfig
from zskd.config.loading import load_recipe
from zskd.config.synthesis import SynthesisConfig
from zskd.config.transforms import WarpConfig
from zskd.core.errors import ZskdError
from zskd.core.passes import counting
from zskd.core.progress import Progress
from zskd.distillation.distill import distill
from zskd.distillation.room import training_bytes
from zskd.evaluation.agreement import estimate_agreement
from zskd.evaluation.inspection import count_multiply_adds
from zskd.evaluation.metrics import agreement
from zskd.evaluation.probes import _share, make_probes
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import fresh_weights
from zskd.synthesis.build import build_transfer_set, seconds_per_image
from zskd.synthesis.room import fit_workers, worker_bytes
from zskd.synthesis.shard import entry_of, make_shard
from zskd.synthesis.sizes import fit_spec
from zskd.synthesis.spec import SetSpec, read_spec, spec_values
from zskd.synthesis.trace import trace_impression
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.manifest import read_manifest
from zskd.transfer_set.storage import decode, encode, round_to

LARGE = (3, 80, 80)
BOX = (0.1003, 0.9017)


def network() -> nn.Module:
    first = nn.Conv2d(3, 4, 5, stride=5)
    return nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(64, 30))


def teacher_of(box: tuple[float, float] = (0.0, 1.0), shape: tuple[int, int, int] = LARGE) -> Classifier:
    return Classifier(fresh_weights(network, 1), spec=InputSpec(shape=shape, box=box)).freeze()


@pytest.fixture(scope="module")
def large() -> Classifier:
    return teacher_of()


def spec_of(count: int = 12, **settings: object) -> SetSpec:
    warp = WarpConfig(rotation=10.0)
    config = SynthesisConfig(steps=3, noise_share=0.5, warp=warp, **settings)  # type: ignore[arg-type]
    return SetSpec(method="class_impressions", count=count, seed=2, synthesis=config)


class Log(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, text: str) -> None:
        self.lines.append(text)


# what is chosen


def test_defaults_are_less_for_large_images_alone(teacher: Classifier, large: Classifier) -> None:
    small = fit_spec(teacher, SetSpec(count=5)).synthesis
    assert (small.batch_size, small.shard_size, small.storage) == (100, 1000, "float32")
    found = fit_spec(large, SetSpec(count=5)).synthesis
    assert found.batch_size * 80 * 80 <= 100 * 64 * 64 < (found.batch_size + 1) * 80 * 80
    assert (found.shard_size, found.storage) == (4 * found.batch_size, "uint8")
    given = SetSpec(count=5, synthesis=SynthesisConfig(batch_size=70, shard_size=90, storage="float32"))
    assert fit_spec(large, given) == given


def test_megabytes_of_a_file_stand_for_images(large: Classifier, tmp_path: Path) -> None:
    spec = SetSpec(method="noise", count=60, synthesis=SynthesisConfig(batch_size=20, shard_mb=1))
    made = build_transfer_set(large, spec, tmp_path / "bytes")
    counts = replace(spec, synthesis=replace(spec.synthesis, shard_mb=0, shard_size=40))
    same = build_transfer_set(large, counts, tmp_path / "images")
    assert [one.sha256 for one in made.manifest.shards] == [one.sha256 for one in same.manifest.shards]
    sizes = [(made.folder / one.file).stat().st_size for one in made.manifest.shards]
    assert 0.75e6 < sizes[0] <= 1e6
    assert made.manifest.resolved is not None
    assert made.manifest.resolved.shard_size == 40
    assert build_transfer_set(large, spec, tmp_path / "bytes").manifest == made.manifest
    # no batch fits, or no image
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 30))
    huge = Classifier(pooled, spec=InputSpec(shape=(3, 600, 600))).freeze()
    for teacher, lanes, images in ((large, 70, 51), (huge, 3, 1)):
        asked = SetSpec(count=5, synthesis=SynthesisConfig(batch_size=lanes, shard_mb=1))
        assert fit_spec(teacher, asked).synthesis.shard_size == images


def test_a_set_says_how_it_was_made_and_is_continued_so(large: Classifier, tmp_path: Path) -> None:
    spec = spec_of(count=300)
    log = Log()
    made = build_transfer_set(large, spec, tmp_path, progress=log)
    assert made.manifest.spec == spec_values(spec), "what was asked for is not changed"
    resolved = made.manifest.resolved
    assert resolved is not None
    assert (resolved.batch_size, resolved.shard_size, resolved.storage) == (64, 256, "uint8")
    assert "64 images are optimised together instead of 100" in "\n".join(log.lines)
    # another batch, as of a machine with less memory: what is missing is made as the rest was
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["resolved"]["batch_size"] = 16
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert fit_spec(large, spec, tmp_path).synthesis.batch_size == 16
    (tmp_path / "shard-00001.safetensors").unlink()
    again = build_transfer_set(large, spec, tmp_path)
    assert read_manifest(tmp_path).resolved == again.manifest.resolved
    other = replace(fit_spec(large, spec, tmp_path), count=300)
    expected = make_shard(large, other, 1)
    assert torch.equal(list(again)[1].images, expected.images)
    with pytest.raises(ZskdError, match="made with another spec.synthesis.batch_size"):
        build_transfer_set(large, spec_of(count=300, batch_size=16), tmp_path)


def test_a_small_set_says_nothing_new(teacher: Classifier, tmp_path: Path) -> None:
    made = build_transfer_set(teacher, spec_of(), tmp_path)
    resolved = json.loads((tmp_path / "manifest.json").read_text())["resolved"]
    assert set(resolved) == {"threads", "device", "dtype", "layout", "merged"}
    assert "storage" not in made.manifest.spec["synthesis"]  # type: ignore[operator]


LIMITED = """
import os
from zskd.core.memory import available_memory
from zskd.synthesis.room import fit_workers, worker_bytes
from zskd.synthesis.sizes import fit_spec
from zskd.synthesis.spec import SetSpec
wide = Classifier(fresh_weights(lambda: nn.Sequential(
    nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5)
), 0), spec=InputSpec(shape=SHAPE)).freeze()
spec = SetSpec(count=200, synthesis=SynthesisConfig(shard_size=100, steps=2))
found = []
for room in (4000, 600, 150):
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (status("VmData") + room * 1_000_000, hard))
    free = available_memory()
    made = fit_spec(wide, spec)
    free = max(free, available_memory())  # the process may give some back meanwhile
    workers = fit_workers(wide, made, 4, shards=4, seconds=1000.0)
    found.append([made.synthesis.batch_size, worker_bytes(wide, made), workers, free])
many = SetSpec(count=2000, synthesis=SynthesisConfig(shard_size=800, steps=2))
try:
    resource.setrlimit(resource.RLIMIT_DATA, (status("VmData") + 150_000_000, hard))
    fit_spec(wide, many)  # a file of images takes twice as much, whatever the process gives back meanwhile
except Exception as error:
    found.append([str(error)])
print(json.dumps(found))
"""


@needs_proc
def test_batch_and_workers_follow_the_memory_that_is_free() -> None:
    found = printed(elsewhere(LIMITED))
    assert len(found) == 4, found
    (all_lanes, bytes_, workers, _), (fewer, less, one, some), (few, least, _, little), (message,) = found
    assert (all_lanes, workers) == (100, 2), "as many workers as fit into half of it"
    assert bytes_ < 2000e6
    assert (fewer, one) == (50, 1)
    assert few < fewer
    assert less < 300e6
    assert less < some / 2
    assert least < little / 2
    assert "images of memory" not in message
    assert "of memory are free: make room" in message
    assert "\n" not in message


STEP = """
from zskd.synthesis.room import worker_bytes
from zskd.synthesis.shard import entry_of, make_shard
from zskd.synthesis.spec import SetSpec
wide = Classifier(fresh_weights(lambda: nn.Sequential(
    nn.Conv2d(3, 64, 3, padding=1), nn.Sigmoid(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5)
), 0), spec=InputSpec(shape=SHAPE)).freeze()
config = SynthesisConfig(steps=2, noise_share=0.0, batch_size=int(sys.argv[1]), tolerance=0.0)
spec = SetSpec(method="class_impressions", count=70, synthesis=config)
told = worker_bytes(wide, spec)
small = SetSpec(method="class_impressions", count=2, synthesis=SynthesisConfig(steps=1, batch_size=2))
make_shard(wide, small, 0)
Path("/proc/self/clear_refs").write_text("5")  # forget the peak
before = status("VmRSS")
make_shard(wide, spec, 0)
print(json.dumps([told, status("VmHWM") - before]))
"""


@needs_proc
def test_the_memory_that_is_told_is_the_memory_that_is_taken() -> None:
    told, taken = printed(elsewhere(STEP, 60))
    assert 0.6 * told < taken < 1.3 * told, (told, taken)


@pytest.mark.parametrize(
    ("workers", "shards", "seconds", "expected"),
    [(0, 8, 0.5, 1), (0, 1, 1000, 1), (2, 8, 0.5, 2), (3, 2, 1000, 2), (1, 8, 1000, 1)],
)
def test_processes_are_started_only_for_work_that_takes_longer_than_their_start(
    teacher: Classifier, workers: int, shards: int, seconds: float, expected: int
) -> None:
    made = fit_spec(teacher, SetSpec(count=20))
    assert fit_workers(teacher, made, workers, shards=shards, seconds=seconds) == expected


def test_the_number_of_workers_changes_no_byte(large: Classifier, tmp_path: Path) -> None:
    sets = [
        build_transfer_set(large, spec_of(20, shard_size=7), tmp_path / str(workers), workers=workers)
        for workers in (0, 1)
    ]
    assert sets[0].fingerprint() == sets[1].fingerprint()


@pytest.mark.parametrize("batch_size", [1, 13, 64])
def test_the_time_is_told_for_whole_batches(large: Classifier, batch_size: int) -> None:
    """On a clock of passes: an unfinished batch takes those of a whole one."""
    config = SynthesisConfig(steps=400, batch_size=batch_size, tolerance=0.0)
    spec = SetSpec(count=64, synthesis=config)
    optimised = sum(entry_of(large, spec, i).optimised for i in range(64))
    assert 13 < optimised < 64
    batches = math.ceil(optimised / batch_size)
    with counting("synthesis") as tally:
        told = seconds_per_image(large, spec, clock=lambda: float(tally.total))
    # outputs for each image, then a pass forward and one backward in each step
    assert 64 * told == pytest.approx(64 + batches * batch_size * 400 * 2)


# what is stored


@pytest.mark.parametrize("box", [(0.0, 1.0), BOX, (0.25, 0.75)])
@pytest.mark.parametrize("storage", ["float32", "float16", "uint8"])
def test_stored_pixels_are_the_nearest_that_can_be_stored_inside_the_box(
    storage: str, box: tuple[float, float]
) -> None:
    low, high = box
    images = (low + (high - low) * torch.rand(4, 3, 9, 9)).clamp(low, high)
    images[0, 0, 0, :2] = torch.tensor(box)
    rounded = round_to(images, storage, box)  # type: ignore[arg-type]
    stored = encode(rounded, storage)  # type: ignore[arg-type]
    assert str(stored.dtype) == f"torch.{storage}"
    assert rounded.dtype == torch.float32
    assert torch.equal(decode(stored), rounded)
    assert bool(((rounded >= low) & (rounded <= high)).all())
    # at the ends of the box the nearest value may lie outside
    allowed = {"float32": 0.0, "float16": 2**-11, "uint8": 1 / 255}[storage]
    assert float((rounded - images).abs().max()) <= allowed
    if storage == "uint8":
        inner = (images > low + 1 / 255) & (images < high - 1 / 255)
        exact = np.round(images.double().numpy() * 255) / 255
        assert torch.equal(rounded[inner], torch.from_numpy(exact.astype(np.float32))[inner])


def test_a_box_without_a_value_is_refused() -> None:
    with pytest.raises(ZskdError, match="can be stored as uint8: give --synthesis.storage float32"):
        round_to(torch.full((1, 1, 2, 2), 0.501), "uint8", (0.5005, 0.5012))


@pytest.mark.parametrize("storage", ["float16", "uint8"])
def test_logits_and_targets_are_those_of_what_is_stored(storage: str, tmp_path: Path) -> None:
    teacher, spec = teacher_of(BOX), spec_of(storage=storage)
    made = build_transfer_set(teacher, spec, tmp_path)
    raw = load_file(tmp_path / "shard-00000.safetensors")
    assert str(raw["images"].dtype) == f"torch.{storage}"
    images = raw["images"].float() / (255 if storage == "uint8" else 1)
    assert bool(((images >= BOX[0]) & (images <= BOX[1])).all())
    assert torch.allclose(raw["logits"], teacher(images), atol=1e-5)
    noise = raw["steps"] == 0
    tau = spec.synthesis.tau
    assert torch.allclose(raw["targets"][noise], (teacher(images) / tau).softmax(1)[noise], atol=1e-6)
    # all readers give them
    assert torch.equal(made.all_images(), images)
    assert torch.equal(torch.cat([shard.images for shard in made]), images)
    rows = torch.tensor([7, 0, 7, 11])
    assert torch.equal(made.images(rows), images[rows])
    assert made.images(rows).dtype == torch.float32
    assert made.image_bytes == raw["images"].nbytes
    assert len(TransferSet(tmp_path, first=5).all_images()) == 5
    one = float(agreement(teacher, teacher, (shard.images for shard in made)).percent)
    assert one == 100
    last = trace_impression(teacher, spec, 0)[-1].image
    first = int((raw["steps"] > 0).nonzero()[0])
    assert torch.equal(last, images[first])


def test_the_images_before_rounding_are_the_same_however_they_are_stored(tmp_path: Path) -> None:
    teacher = teacher_of(BOX)
    exact, eight = (
        build_transfer_set(teacher, spec_of(storage=storage, batch_size=8, shard_size=20), tmp_path / storage)
        for storage in ("float32", "uint8")
    )
    assert torch.equal(round_to(exact.all_images(), "uint8", BOX), eight.all_images())
    small = sum(path.stat().st_size for path in eight.folder.iterdir())
    assert small < 0.3 * sum(path.stat().st_size for path in exact.folder.iterdir())


def test_students_of_8_bits_are_the_same_from_memory_and_from_files(
    large: Classifier, tmp_path: Path
) -> None:
    made = build_transfer_set(large, spec_of(), tmp_path)

    def student(images: str) -> dict[str, Tensor]:
        config = DistillConfig(steps=2, batch_size=6, images=images)  # type: ignore[arg-type]
        return distill(large, fresh_weights(network, 3), made, config).module.state_dict()

    one, other = student("memory"), student("mapped")
    assert all(torch.equal(one[name], other[name]) for name in one)


# what is measured


def test_a_batch_that_does_not_fit_is_refused_before_training(
    large: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = build_transfer_set(large, spec_of(), tmp_path)
    config = DistillConfig(steps=2, batch_size=10**9)
    with pytest.raises(ZskdError, match=r"a step with 1000000000 images needs .* give --distill.batch-size"):
        distill(large, fresh_weights(network, 3), made, config)
    student = Classifier(fresh_weights(network, 3), spec=large.spec)
    per_image = training_bytes(student, DistillConfig(steps=1, batch_size=1001)) - training_bytes(
        student, DistillConfig(steps=1, batch_size=1)
    )
    activations = 4 * (3 * 80 * 80 + 2 * 4 * 16 * 16)  # normalised image, convolution, ReLU
    assert activations < per_image / 1000 < 3 * activations


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"count": 64}, 64),
        ({"count": 5}, 20),
        ({"count": 499}, 499),
        ({"count": 20_000}, 500),
        ({"rate": 10}, 500),
        ({"count": 64, "held_out": 7}, 7),
    ],
)
def test_held_out_images_follow_the_count(given: dict[str, int], expected: int) -> None:
    assert load_recipe(None, given).held_out_count == expected


def test_controls_are_for_runs_with_data() -> None:
    three = ("class_impressions", "noise_shapes", "noise_white")
    assert load_recipe("digits").control_arms == three
    assert load_recipe("my-teacher").control_arms == ()
    assert load_recipe("my-teacher", {"controls": ["noise_white"]}).control_arms == ("noise_white",)
    assert load_recipe("digits", {"controls": []}).control_arms == ()


def test_probes_follow_the_count_and_the_estimate_says_so(teacher: Classifier) -> None:
    few = make_probes(teacher, count=100)
    assert (len(few.still), len(few.moved), {len(noise) for noise in few.noise}) == (80, 80, {100})
    assert few.share == 0.1
    student = copy.deepcopy(teacher)
    for number, value in enumerate(student.parameters()):
        noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(number))
        value += 0.1 * value.std() * noise
    told, as_if = (estimate_agreement(teacher, student, probes) for probes in (few, replace(few, share=1.0)))
    assert any("measured on 80 images instead of 800" in line for line in told.lines())
    assert not any("instead of" in line for line in as_if.lines())
    assert told.signals == as_if.signals
    assert told.low <= as_if.low
    assert told.high > as_if.high


def test_expensive_teachers_get_fewer_probes() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Conv2d(1, 32, 31, padding=15)
            self.head = nn.Linear(32, 10)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.body(images).mean((2, 3)))

    teacher = Classifier(fresh_weights(Deep, 0), spec=InputSpec(shape=(1, 32, 32))).freeze()
    share = _share(teacher, None)
    assert math.isclose(share * 800 * 50 * 3 * count_multiply_adds(teacher), 2e12)


def test_the_spec_of_a_set_is_read_as_it_was_asked(large: Classifier, tmp_path: Path) -> None:
    made = build_transfer_set(large, spec_of(), tmp_path)
    assert read_spec(made.manifest.spec) == spec_of()
    assert worker_bytes(large, spec_of()) > 100 * 4 * 3 * 80 * 80


SEND = """
import pickle, sys
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.libraries.torchvision import TorchvisionNetwork
network = TorchvisionNetwork(torchvision="squeezenet1_1", arguments={"num_classes": 4}).build()
sys.stdout.buffer.write(pickle.dumps(Classifier(network, spec=InputSpec(shape=(3, 65, 65)), copy=False)))
"""
RECEIVE = "import pickle, sys; print(pickle.load(sys.stdin.buffer).fingerprint())"


def test_a_network_of_a_library_can_be_sent_to_another_process() -> None:
    """Also where the library can only be imported with the help of `import_extra`."""
    sent = subprocess.run([sys.executable, "-c", SEND], capture_output=True, check=True, timeout=LIMIT)
    command = [sys.executable, "-c", RECEIVE]
    received = subprocess.run(command, input=sent.stdout, capture_output=True, timeout=LIMIT, check=False)
    assert received.returncode == 0, received.stderr.decode()
    assert len(received.stdout.strip()) == 64
