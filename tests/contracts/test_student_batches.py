"""Sources of a student's batches: their shares, their order, and the same bytes after an interruption."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import StopAt, Stopped
from zskd.config.distillation import DistillConfig, GeneratorConfig, ImageBankConfig
from zskd.config.sources import FreshConfig, ReplayConfig
from zskd.config.synthesis import SynthesisConfig
from zskd.config.transforms import AugmentConfig
from zskd.core.errors import ZskdError
from zskd.core.progress import Progress
from zskd.core.rng import torch_stream
from zskd.core.types import Images
from zskd.distillation.batches import DistillationBatches
from zskd.distillation.distill import distill
from zskd.distillation.invariance import measure_changes, read_changes, settle_changes, without
from zskd.distillation.objective import divergences
from zskd.distillation.order import ByShard, Graded, rank
from zskd.distillation.pool import ImagePool
from zskd.models.classifier import Classifier, InputSpec
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.spec import SetSpec
from zskd.training.batches import Order
from zskd.transfer_set.dataset import TransferSet

SPEC = InputSpec(shape=(1, 8, 8), box=(0.2, 0.9))
PLAIN = DistillConfig(
    start="random", steps=26, batch_size=8, optimiser="adam", learning_rate=0.01, augment=AugmentConfig()
)
FRESH = replace(PLAIN, fresh=FreshConfig(share=0.5))
REPLAY = replace(PLAIN, replay=ReplayConfig(share=0.25, keep=12))
STRONG = AugmentConfig(crop=0.2, brightness=0.3, contrast=0.3, cutout=0.5, mixup=0.3)


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 4))


@pytest.fixture(scope="module")
def teacher() -> Classifier:
    return Classifier(network(0), spec=SPEC).freeze()


@pytest.fixture(scope="module")
def noise(teacher: Classifier, tmp_path_factory: pytest.TempPathFactory) -> TransferSet:
    spec = SetSpec(method="noise", count=60, synthesis=SynthesisConfig(shard_size=30))
    return build_transfer_set(teacher, spec, tmp_path_factory.mktemp("sources") / "set")


def batches(teacher: Classifier, images: TransferSet, config: DistillConfig) -> DistillationBatches:
    made = DistillationBatches(teacher, images, config)
    made.attach_student(Classifier(network(1), spec=SPEC), seed=0, steps=40)
    return made


def of_set(images: Images, transfer_set: TransferSet) -> list[bool]:
    stored = {image.numpy().tobytes() for image in transfer_set.all_images()}
    return [one.numpy().tobytes() in stored for one in images]


@pytest.mark.parametrize(
    "changes",
    [
        {"fresh": FreshConfig(share=0.5), "order": "easy_first"},
        {"order": "hard_first", "replay": ReplayConfig(share=0.25, keep=5)},
        {"order": "by_shard", "images": "mapped"},
        {
            "fresh": FreshConfig(share=0.25, start="smooth"),
            "generator": GeneratorConfig(share=0.25, width=4, latent=5),
            "image_bank": ImageBankConfig(share=0.25, count=4, images=10, keep=15),
            "replay": ReplayConfig(share=0.25, keep=9),
        },
    ],
)
def test_an_interrupted_training_resumes_to_the_same_student(
    teacher: Classifier, noise: TransferSet, changes: dict[str, Any], tmp_path: Path
) -> None:
    config, state = replace(PLAIN, augment=STRONG, **changes), tmp_path / "state.safetensors"

    def weights(**more: Any) -> Tensor:
        parameters = distill(teacher, network(1), noise, config, **more).module.parameters()
        return torch.cat([one.detach().flatten() for one in parameters])

    whole = weights()
    with pytest.raises(Stopped):
        weights(state=state, progress=StopAt(23))
    assert torch.equal(weights(state=state), whole)
    assert not torch.equal(weights(seed=1), whole)


def test_each_source_has_its_share_and_the_set_the_rest(teacher: Classifier, noise: TransferSet) -> None:
    rows = torch.arange(8)
    made = batches(teacher, noise, FRESH)
    first, second = (made(rows, torch_stream(0, "step", step))[0] for step in (0, 1))
    assert of_set(first, noise) == [False] * 4 + [True] * 4
    assert torch.equal(first[4:], noise.images(rows[4:]))
    assert not torch.equal(first[:4], second[:4])
    assert torch.equal(first, made(rows, torch_stream(0, "step", 0))[0])
    assert float(first.min()) >= 0.2
    assert float(first.max()) <= 0.9
    sources = {
        "generator": GeneratorConfig(share=0.5, width=4, latent=5),
        "fresh": FreshConfig(share=0.5),
    }
    odd = batches(teacher, noise, replace(PLAIN, **sources))  # type: ignore[arg-type]
    images, logits, labels = odd(rows[:3], torch_stream(0, "step", 0))  # two of each would be four
    assert len(images) == len(logits) == len(labels) == 3


def test_replayed_images_are_those_that_were_most_difficult(teacher: Classifier, noise: TransferSet) -> None:
    made = batches(teacher, noise, REPLAY)
    first, *_ = made(torch.arange(8), torch_stream(0, "step", 0))
    assert all(of_set(first, noise))  # nothing to replay yet
    made.learn(torch.tensor([0.0, 9, 0, 0, 8, 0, 0, 0]).add(0.5))
    for step in range(1, 3):
        images, *_ = made(torch.arange(8, 16), torch_stream(0, "step", step))
        assert of_set(images, noise) == [False] * 2 + [True] * 6  # stored in 256 levels
        near = (images[:2, None] - first[None]).abs().amax((2, 3, 4)) < 0.002
        assert bool(near.any(1).all())
        made.learn(torch.full((8,), 0.1))


def test_the_pool_keeps_the_largest_divergences() -> None:
    pool, rng = ImagePool(7, (1, 1, 1), (0.0, 1.0)), torch.Generator().manual_seed(0)
    expected: dict[int, float] = {}
    for step in range(6):
        rows = pool.draw(2, rng)
        shown = pool.images[rows].flatten().tolist()
        again, new = torch.rand(len(rows), generator=rng), torch.rand(6, generator=rng)
        pool.record(rows, again)
        levels = range(8 * step, 8 * step + 6)
        pool.offer(torch.tensor(levels).view(-1, 1, 1, 1) / 255, new)
        expected |= dict(zip([*shown, *levels], [*again.tolist(), *new.tolist()], strict=True))
        expected = dict(sorted(expected.items(), key=lambda item: -item[1])[:7])
        found = zip(pool.images.flatten().tolist(), pool.divergence.tolist(), strict=True)
        assert sorted(list(found)[: len(pool)]) == sorted(expected.items())


def test_divergences_are_those_of_the_definition() -> None:
    student, teacher = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    p, q = teacher.softmax(1), student.softmax(1)
    torch.testing.assert_close(divergences(student, teacher), (p * (p / q).log()).sum(1))


def test_a_graded_order_begins_with_a_quarter_and_ends_with_all(teacher: Classifier) -> None:
    logits = torch.randn(40, 4, generator=torch.Generator().manual_seed(1)) * 3
    confident = logits.softmax(1).amax(1)
    for hard_first in (False, True):
        ranked = rank(logits, hard_first=hard_first)
        steps = confident[ranked].diff()
        assert bool(((steps >= 0) if hard_first else (steps <= 0)).all())
        order = Graded(Order(8, 40, seed=3), ranked, steps=60)
        assert set(order.rows(0).tolist()) <= set(ranked[:10].tolist())
        places = [int((ranked == row).nonzero()) for step in range(15) for row in order.rows(step).tolist()]
        assert max(places) < 40 * (0.25 + 0.75 * 14 / 30)
        late = torch.cat([order.rows(step) for step in range(30, 35)])  # a whole pass
        assert sorted(late.tolist()) == list(range(40))


def test_an_order_by_shard_needs_one_window_at_a_time() -> None:
    sizes, window = (5, 9, 3, 4, 5, 4), 10  # the second one shares its window with no other
    owner = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    order = ByShard(sizes, window, seed=4)
    passes = [order(number) for number in range(6)]
    assert torch.equal(ByShard(sizes, window, seed=4)(5), passes[5]), "whatever was asked before"
    assert len({tuple(rows.tolist()) for rows in (*passes, ByShard(sizes, window, seed=5)(0))}) == 7
    mixed = 0
    for rows in passes:
        assert torch.equal(rows.sort().values, torch.arange(sum(sizes)))
        needed: list[set[int]] = []
        for shard in owner[rows].tolist():
            if needed and (
                shard in needed[-1] or sum(sizes[one] for one in needed[-1]) + sizes[shard] <= window
            ):
                needed[-1].add(shard)
            else:
                needed.append({shard})
        assert sum(map(len, needed)) == len(sizes), "a shard is needed again after its window"
        assert max(map(len, needed)) <= order.most_shards == 2
        mixed += sum(len(one) > 1 for one in needed)
    assert mixed > 6
    assert ByShard(sizes, 1, seed=4).most_shards == 1
    # batches follow it from one pass into the next
    batches = Order(7, sum(sizes), 4, order)
    assert torch.equal(torch.cat([batches.rows(step) for step in range(9)]), torch.cat(passes)[:63])


def test_a_student_is_the_same_wherever_shards_are_read_from(teacher: Classifier, noise: TransferSet) -> None:
    config = replace(PLAIN, order="by_shard")
    students = [
        distill(teacher, network(1), noise, replace(config, images=where)) for where in ("mapped", "memory")
    ]
    assert students[0].fingerprint() == students[1].fingerprint()


def test_a_helper_can_make_what_does_not_follow_the_student(teacher: Classifier, noise: TransferSet) -> None:
    made = batches(teacher, noise, FRESH)
    assert made.fits_helper()
    assert not batches(teacher, noise, REPLAY).fits_helper()
    copied = pickle.loads(pickle.dumps(made))
    here, there = (one(torch.arange(8), torch_stream(0, "step", 5)) for one in (made, copied))
    assert all(torch.equal(one, other) for one, other in zip(here, there, strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"fresh": FreshConfig(share=0.7), "replay": ReplayConfig(share=0.6)},
            "--distill.fresh.share and --distill.replay.share sum to more than 1: lower one",
        ),
        (
            {"fresh": FreshConfig(share=0.1), "label_weight": 1.0},
            "--distill.label-weight must be 0 with --distill.fresh.share: their images have no labels",
        ),
        (
            {"replay": ReplayConfig(share=0.1), "teacher_weight": 0.0, "label_weight": 0.0},
            "--distill.replay.share needs the teacher: give --distill.teacher-weight 1",
        ),
        ({"fresh": {"start": "shape"}}, "--distill.fresh.start"),
        ({"order": "easy"}, "--distill.order is 'easy'"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ZskdError, match=message):
        replace(PLAIN, **changes)


class Sides(nn.Module):
    """Predicts from the upper half of an image: a horizontal flip changes nothing, a vertical one a lot."""

    def forward(self, x: Tensor) -> Tensor:
        upper, lower = x[:, :, :4].mean((1, 2, 3)), x[:, :, 4:].mean((1, 2, 3))
        return 100 * torch.stack([upper - lower, lower - upper], dim=1)


def test_changes_that_the_teacher_answers_otherwise_are_left_out(tmp_path: Path) -> None:
    teacher = Classifier(Sides(), spec=SPEC, class_names=("up", "down")).freeze()
    images = 0.2 + 0.7 * torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    config = AugmentConfig(flip=0.5, flip_vertical=0.5, brightness=0.2, mixup=0.3)
    found = {one.change: one for one in measure_changes(teacher, images, config)}
    assert list(found) == ["horizontal flip", "vertical flip", "colour"]
    assert found["horizontal flip"].agreement > 99
    assert found["vertical flip"].agreement < 1
    logits = teacher(images)
    exact = divergences(logits.flip(1), logits).mean()  # a vertical flip exchanges both halves
    assert found["vertical flip"].divergence == pytest.approx(float(exact), rel=1e-3)
    spec = SetSpec(method="noise", count=60, synthesis=SynthesisConfig(shard_size=60))
    made = build_transfer_set(teacher, spec, tmp_path / "set")
    asked, file = replace(PLAIN, augment=config, changes="by_teacher"), tmp_path / "changes.json"
    settled = settle_changes(teacher, made, asked, file, progress=Progress())
    assert settled.augment == replace(config, flip_vertical=0.0)
    assert settled.changes == "all"
    assert [one.used for one in read_changes(file)] == [True, False, True]
    assert b"100.0" in file.read_bytes()
    kept = file.read_bytes().replace(b"100.0", b"99.0")
    file.write_bytes(kept)
    assert settle_changes(teacher, made, asked, file, progress=Progress()) == settled
    assert file.read_bytes() == kept  # it is read, not measured again
    every = replace(asked, changes="all")
    assert settle_changes(teacher, made, every, None, progress=Progress()) == every


def test_what_only_a_share_of_the_images_gets_is_asked_about_if_any_image_gets_it() -> None:
    teacher = Classifier(Sides(), spec=SPEC, class_names=("up", "down")).freeze()
    images = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    maps = AugmentConfig(rotation=10, scale=(0.8, 1.2), shift=0.1, shear=0.1, flip=0.5, crop=0.1)
    names = ["horizontal flip", "rotation", "crop", "shift", "scale", "shear"]
    assert [one.change for one in measure_changes(teacher, images, maps)] == names
    assert [one.change for one in measure_changes(teacher, images, replace(maps, share=0.0))] == ["crop"]
    assert without(maps, ["scale", "shear"]) == replace(maps, scale=(1.0, 1.0), shear=0.0)
