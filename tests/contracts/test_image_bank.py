"""The adversarial image bank."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from conftest import StopAt, Stopped
from zskd.config.distillation import DistillConfig, GeneratorConfig, ImageBankConfig
from zskd.config.registry import LOSSES
from zskd.config.synthesis import SynthesisConfig
from zskd.config.transforms import AugmentConfig
from zskd.core.errors import ZskdError
from zskd.distillation.adversarial.image_bank import ImageBank
from zskd.distillation.distill import distill
from zskd.models.classifier import Classifier, InputSpec
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.spec import SetSpec
from zskd.transfer_set.dataset import TransferSet

SPEC = InputSpec(shape=(1, 8, 8), box=(0.2, 0.9))
SOME = ImageBankConfig(share=0.5, count=4, images=10, keep=25, steps=4, learning_rate=0.05)
QUICK = DistillConfig(steps=60, batch_size=8, learning_rate=0.01, augment=AugmentConfig(), image_bank=SOME)


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 4))


@pytest.fixture
def teacher() -> Classifier:
    return Classifier(network(0), spec=SPEC).freeze()


@pytest.fixture
def noise(teacher: Classifier, tmp_path: Path) -> TransferSet:
    spec = SetSpec(method="noise", count=60, synthesis=SynthesisConfig(shard_size=30))
    return build_transfer_set(teacher, spec, tmp_path / "set")


def weights(
    teacher: Classifier, images: TransferSet, config: DistillConfig, **more: object
) -> dict[str, Tensor]:
    return distill(teacher, network(1), images, config, **more).module.state_dict()  # type: ignore[arg-type]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("augment", [AugmentConfig(), AugmentConfig(rotation=20.0, mixup=0.3)])
def test_an_interrupted_training_resumes_to_the_same_student(
    teacher: Classifier, noise: TransferSet, augment: AugmentConfig, tmp_path: Path
) -> None:
    config, state = replace(QUICK, augment=augment), tmp_path / "state.safetensors"
    whole = weights(teacher, noise, config)
    for stop in (10, 30, 50):  # with an empty bank, a filling one, and a full one
        with pytest.raises(Stopped):
            weights(teacher, noise, config, state=state, progress=StopAt(stop))
    assert same(weights(teacher, noise, config, state=state), whole)
    assert not same(weights(teacher, noise, config, seed=1), whole)


def received(teacher: Classifier, images: TransferSet, config: DistillConfig) -> list[Tensor]:
    """The batches that the teacher receives in a distillation."""
    batches: list[Tensor] = []

    def record(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if len(inputs[0]) == config.batch_size:
            batches.append(inputs[0].clone())

    handle = teacher.register_forward_pre_hook(record)
    weights(teacher, images, config)
    handle.remove()
    return batches


def test_the_first_round_has_images_of_the_set_only_and_later_rounds_their_share_of_the_bank(
    teacher: Classifier, noise: TransferSet
) -> None:
    stored = {image.numpy().tobytes() for image in noise.all_images()}
    found = [
        sum(one.numpy().tobytes() in stored for one in batch) for batch in received(teacher, noise, QUICK)
    ]
    assert found == [8] * 15 + [4] * 45


def test_the_bank_holds_no_more_images_than_set(
    teacher: Classifier, noise: TransferSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    banks: list[ImageBank] = []
    build = ImageBank.__init__

    def record(self: ImageBank, *arguments: object, **more: object) -> None:
        build(self, *arguments, **more)  # type: ignore[arg-type]
        banks.append(self)

    monkeypatch.setattr(ImageBank, "__init__", record)
    weights(teacher, noise, QUICK)
    (stored, _optimiser), *_ = banks[0].companions.values()
    assert int(stored.made) == 30  # type: ignore[arg-type]
    assert len(stored.images) == 25  # type: ignore[arg-type]
    assert bool((stored.images > 0).flatten(1).any(1).all())  # type: ignore[union-attr,operator]


def test_stored_images_have_a_larger_loss_and_lie_inside_the_box(
    teacher: Classifier, noise: TransferSet
) -> None:
    student = Classifier(network(1), spec=SPEC)
    starts = noise.all_images()
    config = replace(QUICK, image_bank=replace(SOME, images=60, keep=60))
    bank = ImageBank(teacher, student, config, lambda n, g: starts[:n], seed=0, steps=4)
    rng = torch.Generator().manual_seed(0)
    assert len(bank.images(4, rng)) == 0
    images = bank.images(200, rng)

    def loss(images: Tensor) -> float:
        with torch.no_grad():
            return float(LOSSES.load(config.loss)(student(images), teacher(images), config))

    assert loss(images) > 1.3 * loss(starts)
    assert float(images.min()) >= 0.2 - 1e-6
    assert float(images.max()) <= 0.9 + 1e-6
    assert student.training
    assert all(parameter.grad is None for parameter in student.parameters())


def test_shares_that_add_up_to_more_than_a_batch_are_refused() -> None:
    with pytest.raises(ZskdError, match="sum to more than 1: lower one"):
        replace(QUICK, generator=GeneratorConfig(share=0.6))
    with pytest.raises(ZskdError, match="images have no labels"):
        replace(QUICK, label_weight=1.0)


def test_a_bank_of_one_phase_is_refused_because_it_has_no_images() -> None:
    with pytest.raises(ZskdError, match=r"--distill\.image-bank\.count must be at least 2"):
        ImageBankConfig(share=0.25, count=1)
