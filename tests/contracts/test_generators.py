"""The contract of generator methods: those of the package, and two that are written here as a user would."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conftest import StopAt, Stopped
from zskd.config.distillation import DistillConfig, FeaturesConfig, GeneratorConfig
from zskd.config.registry import GENERATOR_METHODS
from zskd.config.training import TeacherConfig
from zskd.config.transforms import AugmentConfig
from zskd.core.errors import ZskdError
from zskd.core.rng import numpy_stream
from zskd.data.datasets import Dataset
from zskd.distillation.adversarial.base import GeneratorBatch, GeneratorMethod
from zskd.distillation.adversarial.generator import Generator
from zskd.distillation.adversarial.generator_steps import AdversarialGenerator
from zskd.distillation.distill import distill
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import fresh_weights
from zskd.models.networks.lenet import lenet5_bn, lenet5_half
from zskd.models.observation import LayerValue, Observation
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.spec import SetSpec
from zskd.teacher.training import train_teacher
from zskd.transfer_set.dataset import TransferSet

SPEC = InputSpec(shape=(1, 10, 10), box=(0.1, 0.8))
SMALL = GeneratorConfig(share=1.0, latent=6, width=4, student_steps=3, learning_rate=0.01)
QUICK = DistillConfig(
    start="random",
    steps=50,
    batch_size=16,
    learning_rate=0.01,
    loss="l1",
    augment=AugmentConfig(),
    generator=SMALL,
)


def network(seed: int, filters: int = 3) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, filters, 3),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(filters, 2 * filters, 3),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(8 * filters, 4),
        )


@pytest.fixture
def teacher() -> Classifier:
    return Classifier(network(0, 6), spec=SPEC).freeze()


def student_weights(teacher: Classifier, config: DistillConfig, **more: object) -> dict[str, Tensor]:
    return distill(teacher, network(1), None, config, **more).module.state_dict()  # type: ignore[arg-type]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("rule", ["dfad", "zskt", "dafl"])
@pytest.mark.parametrize("same_images", [False, True])
def test_a_seed_gives_the_same_student_and_another_seed_another(
    teacher: Classifier, rule: str, same_images: bool
) -> None:
    config = replace(QUICK, steps=12, generator=replace(SMALL, method=rule, same=same_images))  # type: ignore[arg-type]
    assert same(student_weights(teacher, config), student_weights(teacher, config))
    assert not same(student_weights(teacher, config), student_weights(teacher, config, seed=1))


@pytest.mark.parametrize(
    "config",
    [
        QUICK,
        replace(QUICK, optimiser="sgd", features=FeaturesConfig(weight=3.0)),
        replace(QUICK, generator=replace(SMALL, same=True, schedule="cosine", student_steps=7)),
    ],
    ids=["adam", "sgd", "same images"],
)
def test_an_interrupted_training_resumes_to_the_same_student(
    teacher: Classifier, config: DistillConfig, tmp_path: Path
) -> None:
    state = tmp_path / "state.safetensors"
    whole = student_weights(teacher, config)
    for stop in (30, 45):  # states are saved at 20 and 40
        with pytest.raises(Stopped):
            student_weights(teacher, config, state=state, progress=StopAt(stop))
    assert state.is_file()
    assert same(student_weights(teacher, config, state=state), whole)


def test_the_state_of_another_method_is_not_used(teacher: Classifier, tmp_path: Path) -> None:
    state, other = tmp_path / "state.safetensors", replace(QUICK, generator=replace(SMALL, method="zskt"))
    with pytest.raises(Stopped):
        student_weights(teacher, QUICK, state=state, progress=StopAt(30))
    assert same(student_weights(teacher, other, state=state), student_weights(teacher, other))


def test_the_teacher_is_left_as_it_was_and_no_hook_stays(teacher: Classifier) -> None:
    before, rewrite = teacher.fingerprint(), teacher.rewrite
    student = distill(teacher, network(1), None, replace(QUICK, steps=4, features=FeaturesConfig(weight=1.0)))
    assert teacher.fingerprint() == before
    assert teacher.rewrite == rewrite
    for module in (*teacher.modules(), *student.modules()):
        assert not module._forward_hooks
    assert all(parameter.grad is None for parameter in teacher.parameters())


def of_logits(student: Tensor, teacher: Tensor) -> GeneratorBatch:
    """A batch with given logits."""
    images, features = torch.zeros(len(student), *SPEC.shape), torch.zeros(len(student), 2)
    return GeneratorBatch(
        images=images,
        teacher=Observation(logits=teacher, features=features),
        student=Observation(logits=student, features=features),
    )


@pytest.mark.parametrize("name", ["dfad", "zskt"])
def test_the_loss_is_0_where_the_networks_agree_and_negative_elsewhere(name: str) -> None:
    method = GENERATOR_METHODS.load(name)()
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert float(method.loss(of_logits(logits, logits))) == pytest.approx(0, abs=1e-6)
    assert float(method.loss(of_logits(logits, logits.flip(1)))) < -0.1


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("dfad", lambda s, t: -(s - t).abs().mean()),
        ("zskt", lambda s, t: -(t.softmax(1) * (t.softmax(1) / s.softmax(1)).log()).sum(1).mean()),
    ],
)
def test_the_loss_is_that_of_the_paper(name: str, by_hand: Callable[[Tensor, Tensor], Tensor]) -> None:
    student, teacher = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    loss = GENERATOR_METHODS.load(name)().loss(of_logits(student, teacher))
    torch.testing.assert_close(loss, by_hand(student, teacher))


def test_a_student_learns_from_a_generator_alone(teacher: Classifier) -> None:
    test = torch.rand(500, *SPEC.shape, generator=torch.Generator().manual_seed(9)) * 0.7 + 0.1

    def error(student: nn.Module) -> float:
        with torch.no_grad():
            return float((Classifier(student, spec=SPEC)(test) - teacher(test)).abs().mean())

    student = network(1)
    trained = distill(teacher, student, None, replace(QUICK, steps=400)).module
    assert error(trained) < 0.5 * error(student)


@pytest.mark.parametrize("shape", [(1, 10, 10), (3, 32, 32), (2, 13, 6)])
def test_images_have_the_teachers_shape_and_lie_in_its_box(shape: tuple[int, int, int]) -> None:
    images = Generator(latent=5, width=4, shape=shape, box=(0.1, 0.8))(torch.randn(7, 5))
    assert images.shape == (7, *shape)
    assert float(images.detach().min()) >= 0.1
    assert float(images.detach().max()) <= 0.8


def test_a_share_of_a_batch_is_generated_and_the_rest_is_from_the_set(
    teacher: Classifier, tmp_path: Path
) -> None:
    noise = build_transfer_set(teacher, SetSpec(method="noise", count=40), tmp_path / "set")
    stored = {image.numpy().tobytes() for image in TransferSet(noise.folder).all_images()}
    counts: list[int] = []

    def record(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if len(inputs[0]) == 16:
            counts.append(sum(image.numpy().tobytes() in stored for image in inputs[0]))

    handle = teacher.register_forward_pre_hook(record)
    distill(teacher, network(1), noise, replace(QUICK, steps=6, generator=replace(SMALL, share=0.25)))
    handle.remove()
    assert counts == [12] * 6


def test_training_without_a_transfer_set_or_a_generator_is_refused(teacher: Classifier) -> None:
    with pytest.raises(ZskdError, match="no transfer set to train on: name one"):
        distill(teacher, network(1), None, replace(QUICK, generator=GeneratorConfig(share=0.9)))


# A method as a user would write it.


def gaussian_kl(layer: LayerValue) -> Tensor:
    """KL of the batch's normal distribution from that of the running statistics, averaged over channels."""
    norm, values = layer.layer, layer.value
    mean, var = values.mean((0, 2, 3)), values.var((0, 2, 3), unbiased=False) + norm.eps
    running = norm.running_var + norm.eps
    return ((running / var).log() + (var + (mean - norm.running_mean) ** 2) / running - 1).mean() / 2


class UserDFQ(GeneratorMethod):
    """Choi et al. 2020, arXiv:2005.04136, with all weights 1."""

    teacher_layers = (nn.BatchNorm2d,)

    def loss(self, batch: GeneratorBatch) -> Tensor:
        student, teacher = batch.student.logits.log_softmax(1), batch.teacher.logits.log_softmax(1)
        adversarial = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
        statistics = torch.stack([gaussian_kl(layer) for layer in batch.teacher.layers]).mean()
        one_hot = -(teacher.exp() * teacher).sum(1).mean()
        of_classes = teacher.exp().mean(0)
        balance = (of_classes * of_classes.log()).sum()
        return statistics + one_hot + balance - adversarial


ALL_METHODS = {name: GENERATOR_METHODS.load(name) for name in GENERATOR_METHODS} | {"user's": UserDFQ}
BIGGER = GeneratorConfig(share=1.0, latent=16, width=8, student_steps=2, learning_rate=0.01)


@pytest.fixture(scope="module")
def bn_teacher(digits: Dataset) -> Classifier:
    untrained = Classifier(fresh_weights(lenet5_bn, 0))
    return train_teacher(untrained, digits, TeacherConfig(epochs=3, batch_size=32), seed=0)


def half_of_lenet() -> Classifier:
    return Classifier(fresh_weights(lenet5_half, 1))


def trained_with(method: GeneratorMethod, teacher: Classifier, *, seed: int) -> dict[str, Tensor]:
    """Weights of a student after six steps, each on images of its own generator."""
    student = half_of_lenet()
    generator = AdversarialGenerator(teacher, student, method, BIGGER, seed=seed, steps=6)
    optimiser = torch.optim.Adam(student.module.parameters(), 0.01)
    for _ in range(6):
        images = generator.images(16)
        # the generator's step sets no gradients of the student
        assert all(parameter.grad is None for parameter in student.parameters())
        assert images.shape == (16, *teacher.spec.shape)
        assert not images.requires_grad
        low, high = teacher.spec.box
        assert low <= float(images.min()) < float(images.max()) <= high
        F.l1_loss(student(images), teacher(images)).backward()
        optimiser.step()
        optimiser.zero_grad()
    return {name: value.clone() for name, value in student.module.state_dict().items()}


def hooks(*networks: nn.Module) -> list[object]:
    return [
        hook
        for network in networks
        for layer in network.modules()
        for hook in (*layer._forward_hooks.values(), *layer._forward_pre_hooks.values())
    ]


@pytest.mark.parametrize("name", ALL_METHODS)
def test_a_seed_gives_the_same_student_and_leaves_the_teacher_as_it_was(
    name: str, bn_teacher: Classifier
) -> None:
    def state() -> tuple[object, ...]:
        modes = [layer.training for layer in bn_teacher.modules()]
        gradients = [parameter.grad for parameter in bn_teacher.parameters()]
        return bn_teacher.fingerprint(), modes, gradients, hooks(bn_teacher), bn_teacher.rewrite

    before, method = state(), ALL_METHODS[name]
    once = trained_with(method(), bn_teacher, seed=0)
    assert same(once, trained_with(method(), bn_teacher, seed=0))
    assert not same(once, trained_with(method(), bn_teacher, seed=1))
    assert not same(once, half_of_lenet().module.state_dict())
    assert state() == before


@pytest.mark.parametrize("name", ALL_METHODS)
def test_a_generator_lowers_its_loss_for_a_fixed_student(
    name: str, bn_teacher: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, losses = ALL_METHODS[name], list[float]()
    loss = kind.loss

    def recorded(method: GeneratorMethod, batch: GeneratorBatch) -> Tensor:
        found: Tensor = loss(method, batch)
        losses.append(float(found.detach()))
        return found

    monkeypatch.setattr(kind, "loss", recorded)
    config = replace(BIGGER, student_steps=1, learning_rate=0.003)
    student = half_of_lenet().freeze()
    generator = AdversarialGenerator(bn_teacher, student, kind(), config, seed=0, steps=40)
    for _ in range(40):
        generator.images(32)
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.3


@pytest.mark.parametrize("name", ALL_METHODS)
def test_the_loss_depends_on_the_images(name: str, bn_teacher: Classifier) -> None:
    """In the graph: logits, features and inputs of layers are not detached."""
    images = torch.rand(8, 1, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    method = ALL_METHODS[name]()
    targets = method.targets(8, 10, numpy_stream(0, "targets", 0))
    loss = method.loss_on(bn_teacher, half_of_lenet().freeze(), images, targets=targets)
    (gradient,) = torch.autograd.grad(loss, images)
    assert loss.shape == ()
    assert all(float(one.abs().max()) > 0 for one in gradient)


def test_a_method_receives_images_logits_features_and_the_layers_that_it_names(
    bn_teacher: Classifier,
) -> None:
    batches: list[GeneratorBatch] = []

    class Recording(GeneratorMethod):
        teacher_layers = (nn.BatchNorm2d,)

        def loss(self, batch: GeneratorBatch) -> Tensor:
            batches.append(batch)
            return batch.images.sum()

    student, images = half_of_lenet(), torch.rand(3, 1, 32, 32)
    Recording().loss_on(bn_teacher, student, images)
    (batch,) = batches
    assert batch.images is images
    for network, observation in ((bn_teacher, batch.teacher), (student, batch.student)):
        torch.testing.assert_close(observation.logits, network(images))
        torch.testing.assert_close(observation.features, network.features(images))
    assert [layer.name for layer in batch.teacher.layers] == ["norm0", "norm1"]
    assert batch.student.layers == ()


class Failing(GeneratorMethod):
    teacher_layers = (nn.BatchNorm2d,)

    def loss(self, batch: GeneratorBatch) -> Tensor:
        raise ValueError("a mistake in a user's loss")


def test_no_hook_stays_after_an_exception_in_a_loss(bn_teacher: Classifier) -> None:
    student = half_of_lenet()
    generator = AdversarialGenerator(bn_teacher, student, Failing(), BIGGER, seed=0, steps=6)
    with pytest.raises(ValueError, match="a mistake in a user's loss"):
        generator.images(4)
    assert not hooks(bn_teacher, student)
    assert bn_teacher.rewrite
    assert student.rewrite


def test_a_teacher_without_the_layers_of_a_method_is_refused(teacher: Classifier) -> None:
    with pytest.raises(ZskdError, match="DFQ reads the inputs of BatchNorm2d layers"):
        AdversarialGenerator(teacher, teacher, UserDFQ(), SMALL, seed=0, steps=1)
