"""Sets with unusual images, shards or memory: what they take is foreseen, and nothing is refused in vain."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from conftest import Lines
from zskd.config.distillation import DistillConfig
from zskd.config.loading import load_recipe
from zskd.config.recipe import Recipe
from zskd.config.registry import START_IMAGES
from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.config.transforms import AugmentConfig, WarpConfig
from zskd.core.engines.base import Need, OnProgress, Result, Shared
from zskd.core.engines.local import LocalEngine
from zskd.core.errors import ZskdError
from zskd.core.passes import counting, teacher_passes
from zskd.core.progress import Progress
from zskd.data.datasets import Split
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import fresh_weights
from zskd.run.arms import plan_arms
from zskd.run.measure import held_out_sets, measure_run
from zskd.run.passes import correct_steps, plan_passes, set_passes, training_passes, within_passes
from zskd.run.pictures import picture_sets
from zskd.run.pipeline import run_recipe
from zskd.run.plan.sets import sample_set
from zskd.run.plan.trial import _Trial
from zskd.run.shares import images_that_fit
from zskd.run.similarity import write_similarity
from zskd.synthesis import real, room, sizes
from zskd.synthesis.build import build_transfer_set, seconds_per_image
from zskd.synthesis.inversion.initial import draw_initial
from zskd.synthesis.plan import plan_entry
from zskd.synthesis.real import build_real_set
from zskd.synthesis.room import worker_bytes
from zskd.synthesis.settling import settle, some_impressions
from zskd.synthesis.sizes import fit_spec, in_files_as_begun
from zskd.synthesis.spec import SetSpec
from zskd.teacher.sources import SourceHashes, Sources
from zskd.transfer_set.dataset import TransferSet

LARGE = (3, 80, 80)


def linear(classes: int, shape: tuple[int, int, int] = (1, 4, 4)) -> Classifier:
    """A teacher of one layer, whose weights are those of seed 0."""
    pixels = shape[0] * shape[1] * shape[2]
    module = fresh_weights(lambda: nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes)), seed=0)
    return Classifier(module, spec=InputSpec(shape=shape)).freeze()


def pooled(classes: int = 5) -> Classifier:
    """A teacher of large images."""
    module = fresh_weights(
        lambda: nn.Sequential(nn.AvgPool2d(20), nn.Flatten(), nn.Linear(48, classes)), seed=0
    )
    return Classifier(module, spec=InputSpec(shape=LARGE)).freeze()


MANY = 64
"""Classes: as many images as a shard of the sets below, whose first shard is optimised as a whole."""
ONE_IN_FIVE = SetSpec(
    method="class_impressions",
    count=10 * MANY,
    synthesis=SynthesisConfig(
        steps=10, noise_share=0.8, tolerance=0.0, warp=WarpConfig(), batch_size=32, shard_size=MANY
    ),
)


# what is foreseen


@pytest.mark.parametrize("order", ["interleaved", "rows"])
@pytest.mark.parametrize("noise_share", [0.0, 0.2, 0.37, 0.8, 1.0])
def test_the_images_to_be_optimised_are_counted_as_they_are_planned(order: str, noise_share: float) -> None:
    targets = TargetsConfig(order=order)  # type: ignore[arg-type]
    spec = SetSpec(count=140, targets=targets, synthesis=SynthesisConfig(noise_share=noise_share))
    entries = [
        plan_entry(i, count=140, classes=7, config=targets, noise_share=noise_share) for i in range(140)
    ]
    for first, end in ((0, 140), (0, 7), (3, 4), (5, 99), (70, 70)):
        wanted = sum(entry.optimised for entry in entries[first:end])
        assert spec.planned(range(first, end), 7) == wanted


def test_the_time_of_a_set_is_not_that_of_its_first_shard() -> None:
    """On a clock of passes."""
    with counting("synthesis") as tally:
        told = seconds_per_image(linear(MANY), ONE_IN_FIVE, clock=lambda: float(tally.total))
    assert told * 10 * MANY == pytest.approx(10 * MANY + 2 * MANY * 10 * 2)


def test_a_plan_scales_a_shard_that_is_not_like_its_set(tmp_path: Path) -> None:
    teacher = linear(MANY)
    found = sample_set(teacher, ONE_IN_FIVE, tmp_path, seconds=60.0, workers=1, engine=LocalEngine())
    assert not found.at_most
    assert found.passes == set_passes(teacher, ONE_IN_FIVE)
    with_candidates = replace(ONE_IN_FIVE, synthesis=replace(ONE_IN_FIVE.synthesis, candidates=3))
    found = sample_set(
        teacher, with_candidates, tmp_path / "more", seconds=60.0, workers=1, engine=LocalEngine()
    )
    assert found.passes == set_passes(teacher, with_candidates)


@pytest.mark.parametrize(("seconds", "count"), [(1.35, 64), (1.42, 128), (1.7, 320), (3.21, 640), (0.1, 10)])
def test_a_budget_knows_that_later_shards_are_cheap(seconds: float, count: int) -> None:
    """An optimised image takes 20 ms, and every one 1 ms more: 1.344 s, or 64 ms for a shard of noise."""
    found = images_that_fit(ONE_IN_FIVE, 0.001, seconds, optimising=0.02, classes=MANY, workers=1, fewest=10)
    assert found == count


class Watched(LocalEngine):
    """Keeps how many workers each group of tasks had."""

    def __init__(self) -> None:
        self.workers: list[int] = []

    def each_done(
        self,
        work: Callable[[Shared, int, OnProgress], Result],
        shared: Shared,
        numbers: Sequence[int],
        *,
        workers: int,
        need: Need,
        on_progress: OnProgress,
    ) -> Iterator[tuple[int, Result]]:
        self.workers.append(workers)
        return super().each_done(work, shared, numbers, workers=1, need=need, on_progress=on_progress)


@pytest.mark.parametrize(("room_for", "workers"), [(0.5, [1]), (3.5, [1, 3])])
def test_a_plan_starts_no_more_workers_than_fit_into_the_memory(
    room_for: float, workers: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, engine = linear(MANY), Watched()
    free = int(2 * room_for * (room.PROCESS_BYTES + worker_bytes(teacher, ONE_IN_FIVE)))
    monkeypatch.setattr(room, "available_memory", lambda _device: free)
    sample_set(teacher, ONE_IN_FIVE, tmp_path, seconds=0.0, workers=8, engine=engine)
    assert engine.workers == workers


PAIRS = SynthesisConfig(steps=2, noise_share=0.4, tolerance=0.0, batch_size=8, shard_size=15)


@pytest.mark.parametrize(
    ("classes", "spec"),
    [
        (5, SetSpec(count=50, method="boundary", synthesis=replace(PAIRS, batch_size=1))),
        (7, SetSpec(count=61, method="boundary", synthesis=replace(PAIRS, batch_size=1, noise_share=0.5))),
        (5, SetSpec(count=50, method="soft_targeted", synthesis=PAIRS)),
        (5, SetSpec(count=50, method="boundary", synthesis=replace(PAIRS, shard_size=20, candidates=3))),
    ],
)
def test_pairs_and_probes_take_the_passes_that_were_foreseen(
    classes: int, spec: SetSpec, tmp_path: Path
) -> None:
    teacher = linear(classes)
    made = build_transfer_set(teacher, spec, tmp_path / "set")
    assert teacher_passes(made.manifest.passes or {}) == set_passes(teacher, spec)


@pytest.fixture
def with_pictures(tmp_path: Path) -> Recipe:
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for number in range(130):
        pixels = rng.integers(0, 256, (4, 4), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
    values = {"images": str(tmp_path / "pictures"), "passes": 10_000, "count": 300, "controls": []}
    values |= {"distill": {"batch_size": 8, "start": "random", "pictures": {"count": 30}}}
    return load_recipe("digits", values | {"synthesis": {"steps": 2}})


def test_the_passes_for_pictures_are_foreseen(with_pictures: Recipe, tmp_path: Path) -> None:
    teacher = linear(10)
    recipe, plan = within_passes(with_pictures, teacher, plan_arms(with_pictures, None))
    made = picture_sets(recipe, teacher, tmp_path, Progress())
    taken = teacher_passes(made["images"].manifest.passes or {})
    assert taken == plan.pictures == 4 * 30 + 100
    assert plan.sets + plan.pictures + plan.students <= 10_000
    assert f"the pictures ({taken} at most), " in plan.words
    # what the sets left over changes no steps: they are those that were told
    trainings = [DistillConfig(batch_size=8, start="random")] * 2
    lines = Lines()
    assert correct_steps(plan, made, trainings, lines) == plan.steps
    assert not lines.lines
    enough = plan.sets + plan.pictures + sum(training_passes(one, 100) for one in trainings)
    few = replace(with_pictures, passes=enough - 100)
    with pytest.raises(ZskdError, match=rf"allows 9\d steps, .*: give --passes {enough} or more"):
        within_passes(few, teacher, plan_arms(few, None))
    within_passes(replace(few, passes=enough), teacher, plan_arms(few, None))


def test_passes_set_no_number_of_steps_that_take_none() -> None:
    recipe, teacher = Recipe(passes=200_000), linear(5)
    plain = AugmentConfig(mixup=0.0, cutmix=0.0)
    labels_alone = DistillConfig(teacher_weight=0.0, label_weight=1.0, augment=plain)
    with pytest.raises(ZskdError, match="--passes sets no number of steps") as error:
        plan_passes(recipe, teacher, [], [labels_alone])
    assert "\n" not in str(error.value)
    assert plan_passes(recipe, teacher, [], [labels_alone, DistillConfig()]).steps == 200_000 // 256


# what is made


@pytest.mark.parametrize("kind", START_IMAGES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (30, 1, 1), (1, 1, 9)])
def test_start_images_of_few_pixels_are_finite(kind: str, shape: tuple[int, int, int]) -> None:
    images = draw_initial(kind, [0, 1, 2], seed=0, shape=shape, box=(0.0, 1.0))
    assert images.shape == (3, *shape)
    assert bool(torch.isfinite(images).all())


def test_a_set_of_a_network_of_tables_is_made(tmp_path: Path) -> None:
    spec = SetSpec(count=20, synthesis=SynthesisConfig(steps=3, noise_share=0.5))
    made = build_transfer_set(linear(3, (30, 1, 1)), spec, tmp_path)
    assert bool(torch.isfinite(made.column("logits")).all())


def test_pairs_are_made_with_an_odd_batch_and_nobody_asks_about_their_flips(tmp_path: Path) -> None:
    config = SynthesisConfig(
        steps=2, candidates=2, batch_size=7, changes="by_teacher", warp=WarpConfig(flip=0.5)
    )
    spec = SetSpec(method="boundary", count=20, synthesis=replace(config, noise_share=0.0))
    assert some_impressions(spec).count == 34
    assert some_impressions(replace(spec, synthesis=replace(spec.synthesis, batch_size=1))).count == 32
    teacher = linear(3)
    assert settle(teacher, spec).asked is None
    made = build_transfer_set(teacher, spec, tmp_path)
    assert made.manifest.asked is None
    assert len(made) == 20


class Threads(nn.Module):
    """Keeps with how many threads it ran."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        self.seen: set[int] = set()

    def forward(self, images: Tensor) -> Tensor:
        self.seen.add(torch.get_num_threads())
        return self.body(images)


def test_what_the_teacher_is_asked_does_not_depend_on_the_threads() -> None:
    teacher = Classifier(fresh_weights(Threads, 0), spec=InputSpec(shape=(1, 4, 4))).freeze()
    config = SynthesisConfig(
        steps=2, learning_rate_search=1, changes="by_teacher", warp=WarpConfig(flip=0.5), batch_size=10
    )
    spec = SetSpec(method="class_impressions", count=20, synthesis=config)
    module = teacher.module
    assert isinstance(module, Threads)
    module.seen.clear()
    torch.set_num_threads(3)
    try:
        assert settle(teacher, spec).asked is not None
    finally:
        torch.set_num_threads(1)
    assert module.seen == {1}


# what fits into the memory


def parts(teacher: Classifier, spec: SetSpec) -> tuple[int, int]:
    """The bytes of the batch, and of the images of a shard."""
    _, of_batch, of_images = room.bytes_of_each(teacher, spec, room.lane_bytes(teacher, spec))
    return of_batch, of_images


def test_the_batch_is_not_halved_for_a_shard_that_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = linear(5, (3, 32, 32))
    spec = SetSpec(count=10**6, synthesis=SynthesisConfig(shard_size=100_000))
    need = worker_bytes(teacher, spec)
    monkeypatch.setattr(sizes, "available_memory", lambda _device: need)
    assert fit_spec(teacher, spec).synthesis.batch_size == 100
    # as many lanes as there is room for, where the shard leaves some
    of_batch, of_images = parts(teacher, spec)
    monkeypatch.setattr(sizes, "available_memory", lambda _device: need - of_batch // 2)
    assert fit_spec(teacher, spec).synthesis.batch_size == 50
    monkeypatch.setattr(sizes, "available_memory", lambda _device: of_images // 2)
    with pytest.raises(ZskdError, match=r"100,000 in a file, .* lower --synthesis\.shard-size"):
        fit_spec(teacher, spec)


def test_shards_of_the_default_size_are_halved_before_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = linear(5, (3, 32, 32))
    spec = SetSpec(count=10**6)
    need = worker_bytes(teacher, spec)
    monkeypatch.setattr(sizes, "available_memory", lambda _device: need * 3 // 2)
    found = fit_spec(teacher, spec).synthesis
    assert (found.batch_size, found.shard_size) == (100, 500)
    monkeypatch.setattr(sizes, "available_memory", lambda _device: need // 2)
    found = fit_spec(teacher, spec).synthesis
    assert (found.batch_size, found.shard_size) == (100, 100)
    pairs = replace(spec, method="boundary", synthesis=SynthesisConfig(candidates=2, batch_size=75))
    assert fit_spec(teacher, pairs).synthesis.shard_size % 150 == 0


def split_of(count: int, shape: tuple[int, int, int]) -> Split:
    numbers = torch.Generator().manual_seed(0)
    return Split(torch.rand(count, *shape, generator=numbers), torch.arange(count) % 5)


def counts(made: TransferSet) -> list[int]:
    return [entry.count for entry in made.manifest.shards]


def test_large_images_that_are_given_are_in_small_files_unless_they_were_begun_in_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, split = pooled(), split_of(300, LARGE)
    made = build_real_set(teacher, split, tmp_path / "new", count=300)
    assert counts(made) == [256, 44]
    with monkeypatch.context() as formerly:
        formerly.setattr(real, "in_files_as_begun", lambda config, *_: config.shard_size)
        whole = build_real_set(teacher, split, tmp_path / "old", count=300)
    assert counts(whole) == [300]
    config, done = SynthesisConfig(batch_size=64), dict(enumerate(whole.manifest.shards))
    assert in_files_as_begun(config, LARGE, 300, done) == 1000
    assert in_files_as_begun(config, LARGE, 300, dict(enumerate(made.manifest.shards))) == 256
    assert in_files_as_begun(config, LARGE, 300, {}) == 256
    assert in_files_as_begun(config, (3, 64, 64), 300, {}) == 1000
    assert torch.equal(whole.all_images(), made.all_images())
    assert torch.equal(whole.labels, made.labels)


def test_a_plan_traces_a_set_as_it_is_made(tmp_path: Path) -> None:
    values = {"method": "noise", "count": 10, "controls": [], "synthesis": {"start": "uniform"}}
    recipe = load_recipe("digits", values | {"workers": 1, "threads": 1})
    teacher = pooled()
    trial = _Trial(recipe, Sources(None, teacher, None, SourceHashes()), tmp_path, 60.0, Progress())
    arm = trial._arms[0]
    assert arm.spec is not None
    trial._measure_set("set", arm.set_name, arm.spec)
    assert trial._traced == fit_spec(teacher, arm.spec)
    assert trial._traced.synthesis.batch_size == 64


# what a run measures


def test_held_out_impressions_are_kept_and_metrics_count_the_images_that_are_left(tmp_path: Path) -> None:
    hard = {"steps": 1, "tolerance": 1e-9, "noise_share": 0.5, "missed": "drop", "batch_size": 10}
    values = {"count": 40, "controls": [], "held_out": 20, "workers": 1, "threads": 1, "synthesis": hard}
    recipe = load_recipe("digits", values | {"distill": {"epochs": 2, "batch_size": 5, "start": "random"}})
    teacher, student = linear(10), linear(10).freeze()
    held_out = held_out_sets(recipe, teacher, tmp_path, Progress())
    assert {len(one) for one in held_out.values()} == {20}
    (arm,) = plan_arms(recipe, None)
    assert arm.spec is not None
    sets = {arm.name: build_transfer_set(teacher, arm.spec, tmp_path / "set")}
    sources = Sources(None, teacher, None, SourceHashes())
    metrics = measure_run(
        recipe,
        teacher,
        [arm],
        {arm.name: student},
        sets,
        held_out,
        sources,
        trained={arm.name: None},
        recipe_sha256="0" * 64,
    )
    assert metrics.arms[0].count == metrics.sets["zskd"].count == 20
    assert metrics.student_steps == 2 * 20 // 5


@pytest.mark.parametrize("classes", [12, 1001])
def test_the_similarity_of_very_many_classes_is_not_written(classes: int, tmp_path: Path) -> None:
    lines, path = Lines(), tmp_path / "similarity.json"
    write_similarity(linear(classes, (1, 1, 4)), path, lines)
    assert path.is_file() == (not lines.lines) == (classes == 12)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"preset": "dfq"}, "batch-norm layers, and the teacher has none"),
        ({"preset": "dafl", "distill": {"generator": {"method_settings": {"none": 1}}}}, "none"),
    ],
)
def test_a_generator_that_does_not_fit_is_refused_before_the_teacher_is_made(
    values: dict[str, object], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ZskdError, match=told):
        run_recipe(load_recipe("digits", values), tmp_path / "run")
    assert not (tmp_path / "run" / "teacher").exists()
