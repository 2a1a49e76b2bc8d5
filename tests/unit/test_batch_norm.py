"""Statistics of a student's batch-norm: compared with those of all images at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from conftest import StopAt, Stopped
from zskd.config.distillation import DistillConfig, GeneratorConfig, ImageBankConfig
from zskd.config.transforms import AugmentConfig
from zskd.distillation.batch_norm import take_statistics
from zskd.distillation.distill import distill
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import fresh_weights
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.spec import SetSpec
from zskd.transfer_set.dataset import TransferSet

SPEC = InputSpec(shape=(1, 8, 8), mean=(0.3,), std=(0.2,))
CONFIG = DistillConfig(start="random", steps=32, batch_size=8, augment=AugmentConfig(rotation=20.0))
GENERATOR = GeneratorConfig(share=1.0, latent=4, width=4)
BANK = ImageBankConfig(share=0.5, count=8, images=8, steps=1)


def layers(norm: bool = True) -> nn.Sequential:
    second: nn.Module = nn.BatchNorm2d(4) if norm else nn.Identity()
    return nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(3, 4, 3),
        second,
        nn.Flatten(),
        nn.Linear(64, 4),
    )


def network(seed: int = 1, norm: bool = True) -> nn.Sequential:
    return fresh_weights(lambda: layers(norm), seed)


@pytest.fixture(scope="module")
def teacher() -> Classifier:
    return Classifier(network(0), spec=SPEC).freeze()


@pytest.fixture(scope="module")
def noise(teacher: Classifier, tmp_path_factory: pytest.TempPathFactory) -> TransferSet:
    spec = SetSpec(method="noise", count=60)
    return build_transfer_set(teacher, spec, tmp_path_factory.mktemp("noise") / "set")


def images(count: int) -> Tensor:
    return torch.rand(count, *SPEC.shape, generator=torch.Generator().manual_seed(0)).cumsum(0) / count


def statistics(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if "running" in name}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_first_layer_gets_mean_and_variance_of_all_images() -> None:
    classifier = Classifier(network(), spec=SPEC)
    take_statistics(classifier, torch.split(images(24), 6))
    entered = classifier.module[0](classifier.normalise(images(24)))  # type: ignore[index, operator]
    norm = classifier.module[1]  # type: ignore[index]
    variance, mean = torch.var_mean(entered, [0, 2, 3], correction=0)
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, variance)


def test_in_one_batch_all_layers_get_what_they_receive_in_evaluation_mode() -> None:
    classifier = Classifier(network(), spec=SPEC)
    take_statistics(classifier, [images(24)])
    state = statistics(classifier.module.state_dict())
    assert not torch.equal(state["5.running_mean"], torch.zeros(4))
    again = {name: value.clone() for name, value in state.items()}
    classifier.eval()
    entered = classifier.module[:5](classifier.normalise(images(24)))  # type: ignore[index]
    torch.testing.assert_close(entered.mean((0, 2, 3)), again["5.running_mean"])


def test_all_else_stays_as_it_was() -> None:
    classifier = Classifier(network(), spec=SPEC)
    classifier.module[1].eval()  # type: ignore[index, operator]
    modes = [layer.training for layer in classifier.modules()]

    def broken() -> Iterator[Tensor]:
        yield images(4)
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        take_statistics(classifier, broken())
    assert [layer.training for layer in classifier.modules()] == modes
    assert not any(layer._forward_pre_hooks for layer in classifier.modules())
    before = {name: value.clone() for name, value in classifier.module.state_dict().items()}
    take_statistics(classifier, [images(4)])
    after = classifier.module.state_dict()
    assert same({name: value for name, value in before.items() if "running" not in name}, after)


def test_without_batch_norm_nothing_is_read(teacher: Classifier, noise: TransferSet) -> None:
    def none() -> Iterator[Tensor]:
        raise AssertionError
        yield

    take_statistics(Classifier(network(norm=False), spec=SPEC), none())
    running, again, fixed = (
        distill(
            teacher, network(norm=False), noise, replace(CONFIG, steps=4, batch_norm=how)
        ).module.state_dict()
        for how in ("running", "again", "fixed")
    )
    assert same(running, again)
    assert same(running, fixed)


def test_again_changes_the_statistics_alone(teacher: Classifier, noise: TransferSet) -> None:
    running, again = (
        distill(teacher, network(), noise, replace(CONFIG, augment=AugmentConfig(), batch_norm=how))
        for how in ("running", "again")
    )
    before, after = running.module.state_dict(), again.module.state_dict()
    assert same({name: value for name, value in before.items() if "running" not in name}, after)
    for name, value in statistics(before).items():
        assert not torch.equal(value, after[name])
    entered = again.module[0](again.normalise(noise.all_images()))  # type: ignore[index, operator]
    torch.testing.assert_close(after["1.running_mean"], entered.mean((0, 2, 3)))


@pytest.mark.parametrize(("steps", "stop"), [(32, 30), (48, 45)], ids=["before they are fixed", "after it"])
@pytest.mark.parametrize(
    "config",
    [
        replace(CONFIG, batch_norm="again"),
        replace(CONFIG, batch_norm="fixed"),
        replace(CONFIG, batch_norm="fixed", image_bank=BANK),
        replace(CONFIG, batch_norm="fixed", generator=GENERATOR),
    ],
    ids=["again", "fixed", "fixed, image bank", "fixed, generator"],
)
def test_an_interrupted_training_resumes_to_the_same_student(
    config: DistillConfig, steps: int, stop: int, teacher: Classifier, noise: TransferSet, tmp_path: Path
) -> None:
    config = replace(config, steps=steps)
    state, images = tmp_path / "state.safetensors", None if config.generator.share else noise
    whole = distill(teacher, network(), images, config).module.state_dict()
    # a state is saved at 20 and 40; the statistics are fixed from 24, or 36, on
    with pytest.raises(Stopped):
        distill(teacher, network(), images, config, state=state, progress=StopAt(stop))
    assert same(whole, distill(teacher, network(), images, config, state=state).module.state_dict())


def test_fixed_statistics_are_those_of_three_quarters_of_the_training(
    teacher: Classifier, noise: TransferSet
) -> None:
    config = replace(CONFIG, schedule="constant", batch_norm="fixed")
    student = distill(teacher, network(), noise, config).module
    # the weights went on, the statistics did not
    early = distill(teacher, network(), noise, replace(config, steps=24, batch_norm="again")).module
    assert same(statistics(early.state_dict()), student.state_dict())
    assert not torch.equal(early[0].weight, student[0].weight)  # type: ignore[index]
