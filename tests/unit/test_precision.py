"""bfloat16 where it was asked for, and nowhere else; in it, all promises of bytes hold as in float32."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from conftest import StopAt, Stopped
from zskd.config.distillation import DistillConfig, FeaturesConfig
from zskd.config.synthesis import SynthesisConfig
from zskd.core.precision import computing_in
from zskd.distillation.distill import distill
from zskd.models.batch_statistics import moments, reading_statistics
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import fresh_weights
from zskd.models.observation import observe
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.spec import SetSpec, read_spec
from zskd.synthesis.trace import trace_impression
from zskd.transfer_set.dataset import TransferSet

SPEC = SetSpec(
    method="deepinversion",
    count=12,
    synthesis=SynthesisConfig(
        steps=3, noise_share=0.0, tolerance=0.0, batch_size=6, shard_size=6, precision="bfloat16"
    ),
)
QUICK = DistillConfig(
    start="random", steps=30, batch_size=6, precision="bfloat16", features=FeaturesConfig(weight=0.1)
)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(288, 4),
    )


@pytest.fixture(scope="module")
def teacher() -> Classifier:
    return Classifier(fresh_weights(network, 0), spec=InputSpec(shape=(3, 10, 10))).freeze()


@pytest.fixture(scope="module")
def made(teacher: Classifier, tmp_path_factory: pytest.TempPathFactory) -> TransferSet:
    return build_transfer_set(teacher, SPEC, tmp_path_factory.mktemp("precision") / "set")


def weights(classifier: Classifier) -> list[Tensor]:
    return list(classifier.module.state_dict().values())


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_logits_are_rounded_inside_the_block_alone(teacher: Classifier) -> None:
    images = torch.rand(5, 3, 10, 10)
    exact = teacher(images)
    with computing_in("bfloat16"):
        rounded = teacher(images)
        with computing_in("float32"):
            assert torch.equal(teacher(images), exact)
        assert torch.equal(teacher(images), rounded)
    assert rounded.dtype == torch.float32
    largest = float((rounded - exact).abs().max() / exact.abs().max())
    assert 0 < largest < 0.03  # 8 bits of a fraction
    with pytest.raises(ZeroDivisionError), computing_in("bfloat16"):
        _ = 1 / 0
    assert torch.equal(teacher(images), exact)


def test_what_is_read_of_layers_is_in_single_precision(teacher: Classifier) -> None:
    images = torch.rand(5, 3, 10, 10)
    kinds = (nn.BatchNorm2d,)
    plain = observe(teacher, images, inputs_of=kinds)
    with computing_in("bfloat16"), reading_statistics(teacher) as statistics:
        seen = observe(teacher, images, inputs_of=kinds)
    (kept,) = seen.layers
    for value in (seen.logits, seen.features, kept.value, statistics[0].mean, statistics[0].var):
        assert value.dtype == torch.float32
    assert torch.allclose(kept.value, plain.layers[0].value, atol=0.02)
    exact = moments(plain.layers[0].value)
    assert torch.allclose(statistics[0].mean, exact[0], atol=2e-3)
    assert torch.allclose(statistics[0].var, exact[1], rtol=0.02)


def test_a_set_is_optimised_in_it_and_labelled_in_single_precision(
    teacher: Classifier, made: TransferSet, tmp_path: Path
) -> None:
    assert torch.allclose(made.column("logits"), teacher(made.all_images()), atol=1e-5)
    plain = replace(SPEC, synthesis=replace(SPEC.synthesis, precision="float32"))
    other = build_transfer_set(teacher, plain, tmp_path / "float32")
    difference = float((made.all_images() - other.all_images()).abs().mean())
    assert 0 < difference < 0.1
    again = build_transfer_set(teacher, SPEC, tmp_path / "again", workers=2)
    assert again.fingerprint() == made.fingerprint()
    assert read_spec(made.manifest.spec) == SPEC
    assert torch.equal(trace_impression(teacher, SPEC, 7)[-1].image, made.images(torch.tensor([7]))[0])


def test_a_training_resumes_to_the_same_bytes_also_with_a_helper(
    teacher: Classifier, made: TransferSet, tmp_path: Path
) -> None:
    student, state = fresh_weights(network, 3), tmp_path / "state"
    straight = weights(distill(teacher, student, made, QUICK))
    assert same(straight, weights(distill(teacher, student, made, QUICK, helper=True)))
    with pytest.raises(Stopped):
        distill(teacher, student, made, QUICK, state=state, progress=StopAt(25))
    assert state.exists()
    assert same(straight, weights(distill(teacher, student, made, QUICK, state=state)))
    plain = weights(distill(teacher, student, made, replace(QUICK, precision="float32")))
    assert not same(straight, plain)
    assert all(value.dtype != torch.bfloat16 for value in straight)
