"""The contract of feature losses: those of the package, and one that is written here as a user would."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import StopAt, Stopped
from zskd.config.checks import from_values
from zskd.config.distillation import DistillConfig, FeaturesConfig, GeneratorConfig
from zskd.config.identity import former_keys, from_former_keys, plain
from zskd.config.registry import FEATURE_LOSSES
from zskd.config.transforms import AugmentConfig
from zskd.core.errors import ZskdError
from zskd.core.passes import counting
from zskd.core.progress import Progress
from zskd.distillation.distill import distill
from zskd.distillation.features.aligned import Aligned
from zskd.distillation.features.attention import Attention
from zskd.distillation.features.base import FeatureLoss
from zskd.distillation.features.fitnets import FitNets
from zskd.distillation.features.paired import PairedFeatures, pair_features, pooled
from zskd.distillation.features.similarity import Similarity
from zskd.distillation.room import training_bytes
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import fresh_weights
from zskd.models.observation import observe
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.spec import SetSpec
from zskd.transfer_set.dataset import TransferSet

SPEC = InputSpec(shape=(1, 10, 10), box=(0.1, 0.8))
ALONE = DistillConfig(
    start="random",
    steps=24,
    batch_size=8,
    learning_rate=0.01,
    augment=AugmentConfig(),
    generator=GeneratorConfig(share=1.0, latent=4, width=4),
)
WITH_SET = replace(ALONE, generator=GeneratorConfig())


class Lengths(FeatureLoss):
    """How large the features of each image are: takes any channels."""

    def of_student(self, features: Tensor) -> Tensor:
        return features.square().mean((1, 2, 3))

    of_teacher = of_student

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).abs().mean()


class OfEach(Lengths):
    """Forgets the mean over the images."""

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).abs()


class Numbers(Lengths):
    """Forgets that the student learns from it."""

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).abs().mean().item()  # type: ignore[return-value]


OWN = f"{__name__}:Lengths"
ALL = (*FEATURE_LOSSES, OWN)


def layers(filters: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, filters, 3),
        nn.BatchNorm2d(filters),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(filters, 2 * filters, 3),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(8 * filters, 4),
    )


def network(seed: int, filters: int = 3) -> nn.Sequential:
    return fresh_weights(lambda: layers(filters), seed)


@pytest.fixture
def teacher() -> Classifier:
    return Classifier(network(0, 5), spec=SPEC).freeze()


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> TransferSet:
    spec = SetSpec(method="noise", count=40)
    teacher = Classifier(network(0, 5), spec=SPEC).freeze()
    return build_transfer_set(teacher, spec, tmp_path_factory.mktemp("noise") / "set")


def with_loss(name: str, config: DistillConfig = ALONE, weight: float = 1.0) -> DistillConfig:
    return replace(config, features=FeaturesConfig(loss=name, weight=weight))


def paired(teacher: Classifier, student: Classifier, name: str) -> PairedFeatures:
    found = pair_features(teacher, student, FeaturesConfig(loss=name, weight=1.0), seed=0)
    assert found is not None
    return found


def weights(
    teacher: Classifier, config: DistillConfig, images: TransferSet | None = None, **more: Any
) -> dict[str, Tensor]:
    return distill(teacher, network(1), images, config, **more).module.state_dict()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def images(count: int = 6) -> Tensor:
    return torch.rand(count, *SPEC.shape, generator=torch.Generator().manual_seed(0)) * 0.7 + 0.1


def features(channels: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(6, channels, 4, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ALL)
def test_an_interrupted_training_resumes_to_the_same_student(
    name: str, teacher: Classifier, noise: TransferSet, tmp_path: Path
) -> None:
    state, config = tmp_path / "state.safetensors", with_loss(name, WITH_SET)
    whole = weights(teacher, config, noise)
    with pytest.raises(Stopped):  # the state of step 20 has the regressors and their moments
        weights(teacher, config, noise, state=state, progress=StopAt(20))
    assert same(weights(teacher, config, noise, state=state), whole)
    assert whole.keys() == network(1).state_dict().keys(), "a weight of the loss is saved with the student"


def test_a_resumed_training_goes_on_with_the_map_that_it_began_with(
    teacher: Classifier, noise: TransferSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another number of threads the map would be fitted to other bits."""
    state, config = tmp_path / "state.safetensors", with_loss("aligned", WITH_SET)
    whole = weights(teacher, config, noise)
    with pytest.raises(Stopped):
        weights(teacher, config, noise, state=state, progress=StopAt(20))
    fit = Aligned.begin

    def otherwise(self: Aligned, *given: Any) -> None:
        fit(self, *given)
        self.weight.mul_(1.01)

    monkeypatch.setattr(Aligned, "begin", otherwise)
    assert not same(weights(teacher, config, noise), whole)
    assert same(weights(teacher, config, noise, state=state), whole)


@pytest.mark.parametrize("name", ALL)
def test_gradients_reach_the_student_and_the_loss_but_not_the_teacher(name: str, teacher: Classifier) -> None:
    before = teacher.fingerprint()
    teacher.requires_grad_(True)
    student = Classifier(network(1), spec=SPEC)
    pairs = paired(teacher, student, name)
    _, of_teacher = pairs.of_teacher(teacher, images(), 500)
    logits, of_student = pairs.of_student(student.train(), images())
    assert logits.shape == (6, 4)
    assert not any(value.requires_grad for value in of_teacher)
    pairs.distance(of_student, of_teacher).backward()
    assert student.module[0].weight.grad.abs().max() > 0  # type: ignore[index, union-attr, operator]
    assert all(float(value.grad.abs().max()) > 0 for value in pairs.losses.parameters())  # type: ignore[union-attr]
    assert all(value.grad is None for value in teacher.parameters())
    assert teacher.fingerprint() == before


@pytest.mark.parametrize("name", ALL)
def test_training_lowers_the_loss(name: str, teacher: Classifier) -> None:
    student = Classifier(network(1), spec=SPEC)
    pairs = paired(teacher, student, name)
    _, of_teacher = pairs.of_teacher(teacher, images(), 500)
    optimiser = torch.optim.Adam([*student.parameters(), *pairs.losses.parameters()], 0.01)
    values = []
    for _ in range(40):
        loss = pairs.distance(pairs.of_student(student, images())[1], of_teacher)
        values.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert values[-1] < 0.6 * values[0]


@pytest.mark.parametrize("name", ALL)
def test_no_hook_stays_after_an_exception(name: str, teacher: Classifier) -> None:
    student = Classifier(network(1), spec=SPEC)
    pairs = paired(teacher, student, name)
    for run in (
        lambda: pairs.of_teacher(teacher, images()[:, :, :9], 9),
        lambda: pairs.of_student(student, images()[:, :, :9]),
    ):
        with pytest.raises(RuntimeError):
            run()
    for classifier in (teacher, student):
        assert not any(layer._forward_hooks for layer in classifier.modules())
        assert classifier.rewrite


def test_a_helper_makes_the_same_student(teacher: Classifier, noise: TransferSet) -> None:
    config = replace(with_loss("fitnets", WITH_SET), steps=8, batch_norm="fixed")
    with counting() as by_one:
        alone = weights(teacher, config, noise)
    with counting() as by_two:
        helped = weights(teacher, config, noise, helper=True)
    assert same(alone, helped)
    assert by_two.passes() == by_one.passes()
    assert by_one.passes()["distillation"].teacher_forward == 8 * config.batch_size


def test_which_layers_are_compared_is_logged(teacher: Classifier) -> None:
    class Log(Progress):
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[str] = []

        def log(self, text: str) -> None:
            self.lines.append(text)

    log = Log()
    weights(teacher, replace(with_loss("similarity"), steps=1), progress=log)
    assert "similarity compares 2 (3×8×8) with 2 (5×8×8), 5 (6×2×2) with 5 (10×2×2)" in " ".join(log.lines)


def test_features_of_the_teacher_are_counted_as_memory(teacher: Classifier) -> None:
    student = Classifier(network(1), spec=SPEC)
    pairs = paired(teacher, student, "fitnets")
    assert pairs.bytes_of_teacher(8) == 4 * 8 * (5 * 64 + 10 * 4)
    plain_bytes, with_features = training_bytes(student, ALONE), training_bytes(student, ALONE, pairs)
    assert with_features > plain_bytes + pairs.bytes_of_teacher(8)


def test_a_loss_needs_no_weight_of_the_logits(teacher: Classifier, noise: TransferSet) -> None:
    labels = replace(with_loss("attention", WITH_SET, 100.0), teacher_weight=0.0, label_weight=1.0)
    on, off = (weights(teacher, config, noise) for config in (labels, with_loss("attention", labels, 0.0)))
    assert not same(on, off)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("zskd.distillation.losses:kl", "is no subclass of zskd.FeatureLoss"),
        ("zskd.distillation.features.base:FeatureLoss", "cannot be made"),
        (f"{__name__}:OfEach", r"the distance of OfEach is a tensor \(8,\): it must be one number"),
        (f"{__name__}:Numbers", "the distance of Numbers is .*: it must be one number"),
    ],
)
def test_what_is_no_feature_loss_is_refused(name: str, message: str, teacher: Classifier) -> None:
    with pytest.raises(ZskdError, match=message):
        weights(teacher, with_loss(name))


# Oracles of each loss.


@pytest.mark.parametrize("name", ["aligned", "attention", "similarity", OWN])
def test_equal_networks_have_no_loss(name: str, teacher: Classifier) -> None:
    pairs = paired(teacher, teacher, name)
    of_student, of_teacher = (
        pairs.of_student(teacher, images())[1],
        pairs.of_teacher(teacher, images(), 500)[1],
    )
    assert float(pairs.distance(of_student, of_teacher)) == 0


def test_aligned_compares_features_of_equal_channels_as_they_are() -> None:
    loss, ours, theirs = Aligned(5, 5), features(seed=1), features()
    assert not loss.begins
    found = loss.distance(loss.of_student(ours), loss.of_teacher(theirs))
    assert float(found) == pytest.approx(float((ours - theirs).norm() ** 2 / theirs.norm() ** 2), rel=1e-5)


def test_aligned_begins_with_the_least_squares_map_of_other_channels(teacher: Classifier) -> None:
    student = Classifier(network(1), spec=SPEC)
    before = student.fingerprint()
    pairs = paired(teacher, student, "aligned")
    assert pairs.begins
    pairs.begin(teacher, student, images(), torch.Generator().manual_seed(0))
    assert student.fingerprint() == before
    loss = pairs.losses[1]  # 2×2 places: all of them are used
    assert isinstance(loss, Aligned)
    # the features that student and teacher have, as the student's batch-norm sees the batch
    student.train()
    ours = observe(student, images(), outputs_named={"5"}, with_features=False).layers[0].value
    theirs = observe(teacher, images(), outputs_named={"5"}, with_features=False).layers[0].value
    rows = ours.detach().movedim(1, -1).reshape(-1, 6).double()
    inputs = torch.cat([rows, torch.ones(24, 1)], 1)
    ridge = 1e-3 * (inputs.T @ inputs).diagonal().mean() * torch.eye(7)
    wanted = theirs.detach().movedim(1, -1).reshape(-1, 10).double()
    by_hand = torch.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ wanted).T.float()
    torch.testing.assert_close(loss.weight[:, :, 0, 0], by_hand[:, :6], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(loss.bias, by_hand[:, 6], atol=1e-4, rtol=1e-3)


def test_attention_does_not_depend_on_scale_or_order_of_channels() -> None:
    maps, order = features(), torch.tensor([3, 0, 4, 1, 2])
    loss = Attention(5, 5)
    of_image = loss.of_student(maps)
    torch.testing.assert_close(of_image.norm(dim=1), torch.ones(6))
    torch.testing.assert_close(loss.of_student(7 * maps[:, order]), of_image)
    by_hand = maps.clamp(min=0).square().sum(1).flatten(1)
    torch.testing.assert_close(of_image, by_hand / by_hand.norm(dim=1, keepdim=True))


def test_similarity_does_not_depend_on_a_rotation_of_the_channels() -> None:
    loss, maps = Similarity(5, 5), features()
    rotation, _ = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1)))
    turned = torch.einsum("dc,nchw->ndhw", rotation, maps)
    torch.testing.assert_close(loss.of_student(turned), loss.of_student(maps))
    other = loss.of_student(features(3, seed=1))
    by_hand = sum(float((loss.of_student(maps)[i] - other[i]).norm() ** 2) for i in range(6)) / 36
    assert float(loss.distance(loss.of_student(maps), other)) == pytest.approx(by_hand, rel=1e-5)


def test_fitnets_finds_the_least_squares_solution_for_a_fixed_student() -> None:
    loss, ours, theirs = fresh_weights(lambda: FitNets(3, 5), 0), features(3, seed=1), features(5)
    optimiser = torch.optim.LBFGS(loss.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss.distance(loss.of_student(ours), loss.of_teacher(theirs))
        value.backward()
        return value

    optimiser.step(closure)  # type: ignore[arg-type]
    inputs = torch.cat([ours.movedim(1, -1).reshape(-1, 3), torch.ones(72, 1)], 1)
    by_hand = torch.linalg.lstsq(inputs, theirs.movedim(1, -1).reshape(-1, 5)).solution.T
    torch.testing.assert_close(loss.regressor.weight[:, :, 0, 0], by_hand[:, :3], atol=1e-3, rtol=1e-3)
    assert loss.regressor.bias is not None
    torch.testing.assert_close(loss.regressor.bias, by_hand[:, 3], atol=1e-3, rtol=1e-3)


def test_larger_maps_are_averaged_and_equal_ones_left_as_they_are() -> None:
    maps = features()
    assert pooled(maps, (4, 3)) is maps
    torch.testing.assert_close(pooled(maps, (2, 1)), maps.reshape(6, 5, 2, 2, 3).mean((3, 4))[..., None])


def test_only_stages_with_the_same_channels_are_compared(teacher: Classifier) -> None:
    config = FeaturesConfig(loss="aligned", weight=1.0, layers="same")
    narrow, alike = (Classifier(network(1, filters), spec=SPEC).freeze() for filters in (3, 5))
    assert pair_features(teacher, narrow, config, seed=0) is None
    found = pair_features(teacher, alike, config, seed=0)
    assert found is not None
    assert [pair.student.channels for pair in found.pairs] == [pair.teacher.channels for pair in found.pairs]
    assert not found.begins


def test_a_student_without_such_stages_learns_from_logits_alone(
    teacher: Classifier, noise: TransferSet
) -> None:
    class Log(Progress):
        def __init__(self) -> None:
            self.lines: list[str] = []

        def log(self, message: str) -> None:
            self.lines.append(message)

    log, features = Log(), FeaturesConfig(loss="aligned", weight=1.0, layers="same")
    assert same(
        weights(teacher, replace(WITH_SET, features=features), noise, progress=log),
        weights(teacher, WITH_SET, noise),
    )
    assert any("only logits are compared" in line for line in log.lines)


# Attention transfer had a setting of its own, and paired all convolutions.


def test_attention_of_all_convolutions_is_that_of_their_outputs(teacher: Classifier) -> None:
    student = Classifier(network(1), spec=SPEC).freeze()
    config = FeaturesConfig(weight=1.0, layers="convolutions")
    pairs = pair_features(teacher, student, config, seed=0)
    assert pairs is not None
    found = pairs.distance(
        pairs.of_student(student, images())[1], pairs.of_teacher(teacher, images(), 500)[1]
    )

    def maps(classifier: Classifier) -> list[Tensor]:
        seen = observe(classifier, images(), outputs_of=(nn.Conv2d,)).layers
        flat = (one.value.clamp(min=0).square().mean(1).flatten(1) for one in seen)
        return [one / one.norm(dim=1, keepdim=True) for one in flat]

    by_hand = sum(float((s - t).square().mean()) for s, t in zip(maps(student), maps(teacher), strict=True))
    assert float(found) == pytest.approx(by_hand, rel=1e-5)


def test_the_former_setting_is_read_and_written() -> None:
    former = {"distill": {"attention": 7.0, "steps": 5}}
    values = from_former_keys(former)
    assert values["distill"] == {
        "steps": 5,
        "features": {"loss": "attention", "layers": "convolutions", "weight": 7.0},
    }
    config = from_values(DistillConfig, values["distill"], "a test")
    assert former_keys(plain(config), "distill")["attention"] == 7.0
    assert "features" not in former_keys(plain(config), "distill")
    assert former == {"distill": {"attention": 7.0, "steps": 5}}
    hints = former_keys(plain(with_loss("fitnets")), "distill")
    assert (hints["attention"], hints["features"]["loss"]) == (0.0, "fitnets")
