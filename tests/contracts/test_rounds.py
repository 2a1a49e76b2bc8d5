"""Images made against the student, in rounds."""

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
def test_stopped_rounds_go_on_to_the_same_student(
    teacher: Classifier, noise: TransferSet, augment: AugmentConfig, tmp_path: Path
) -> None:
    config, state = replace(QUICK, augment=augment), tmp_path / "state.safetensors"
    whole = weights(teacher, noise, config)
    for stop in (10, 30, 50):  # before any round's images, among them, and where the oldest have made room
        with pytest.raises(Stopped):
            weights(teacher, noise, config, state=state, progress=StopAt(stop))
    assert same(weights(teacher, noise, config, state=state), whole)
    assert not same(weights(teacher, noise, config, seed=1), whole)


def shown(teacher: Classifier, images: TransferSet, config: DistillConfig) -> list[Tensor]:
    """The batches that the teacher is asked about on the student's behalf."""
    batches: list[Tensor] = []

    def note(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if len(inputs[0]) == config.batch_size:
            batches.append(inputs[0].clone())

    handle = teacher.register_forward_pre_hook(note)
    weights(teacher, images, config)
    handle.remove()
    return batches


def test_the_first_round_shows_the_set_alone_and_later_ones_their_share(
    teacher: Classifier, noise: TransferSet
) -> None:
    stored = {image.numpy().tobytes() for image in noise.all_images()}
    found = [sum(one.numpy().tobytes() in stored for one in batch) for batch in shown(teacher, noise, QUICK)]
    assert found == [8] * 15 + [4] * 45


def test_no_more_are_kept_than_may_be(
    teacher: Classifier, noise: TransferSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[ImageBank] = []
    build = ImageBank.__init__

    def note(self: ImageBank, *given: object, **more: object) -> None:
        build(self, *given, **more)  # type: ignore[arg-type]
        kept.append(self)

    monkeypatch.setattr(ImageBank, "__init__", note)
    weights(teacher, noise, QUICK)
    (bank, _optimiser), *_ = kept[0].companions.values()
    assert int(bank.made) == 30  # type: ignore[arg-type]
    assert len(bank.images) == 25  # type: ignore[arg-type]
    assert bool((bank.images > 0).flatten(1).any(1).all())  # type: ignore[union-attr,operator]


def test_images_are_driven_apart_inside_the_box(teacher: Classifier, noise: TransferSet) -> None:
    student = Classifier(network(1), spec=SPEC)
    starts = noise.all_images()
    config = replace(QUICK, image_bank=replace(SOME, images=60, keep=60))
    made = ImageBank(teacher, student, config, lambda n, g: starts[:n], seed=0, turns=4)
    numbers = torch.Generator().manual_seed(0)
    assert len(made.images(4, numbers)) == 0
    shown = made.images(200, numbers)

    def apart(images: Tensor) -> float:
        with torch.no_grad():
            return float(LOSSES.load(config.loss)(student(images), teacher(images), config))

    assert apart(shown) > 1.3 * apart(starts)
    assert float(shown.min()) >= 0.2 - 1e-6
    assert float(shown.max()) <= 0.9 + 1e-6
    assert student.training
    assert all(parameter.grad is None for parameter in student.parameters())


def test_shares_of_more_than_a_batch_are_refused() -> None:
    with pytest.raises(ZskdError, match="sum to more than 1: lower one"):
        replace(QUICK, generator=GeneratorConfig(share=0.6))
    with pytest.raises(ZskdError, match="images have no labels"):
        replace(QUICK, label_weight=1.0)
