"""What a generator keeps beside its weights: average, statistics, pool; and the losses of the methods."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_generators import UserDFQ
from torch import Tensor, nn

from conftest import StopAt, Stopped
from zskd.config.distillation import DistillConfig, GeneratorConfig
from zskd.config.registry import GENERATOR_METHODS
from zskd.config.transforms import AugmentConfig
from zskd.core.errors import ZskdError
from zskd.core.passes import counting
from zskd.core.rng import numpy_stream
from zskd.distillation.adversarial.base import GeneratorBatch, make_generator_method
from zskd.distillation.adversarial.conditional import Conditional
from zskd.distillation.adversarial.dafl import DAFL
from zskd.distillation.adversarial.dfq import DFQ
from zskd.distillation.adversarial.generator import Generator
from zskd.distillation.adversarial.generator_steps import AdversarialGenerator
from zskd.distillation.adversarial.statistics import Statistics
from zskd.distillation.distill import distill
from zskd.distillation.losses import divergences
from zskd.distillation.pool import ImagePool
from zskd.models.batch_statistics import BatchStatistics, reading_statistics
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.observation import Observation

SPEC = InputSpec(shape=(1, 8, 8), box=(0.1, 0.8))
EVERYTHING = GeneratorConfig(
    share=1.0,
    method="conditional",
    method_settings={"class_input": True},
    student_steps=2,
    latent=4,
    style=2,
    width=3,
    beta1=0.5,
    average=0.9,
    augmented=True,
    momentum=0.9,
    renew=3,
    warm_up=2,
    pool=40,
    replay=0.5,
)
QUICK = DistillConfig(
    start="random",
    steps=45,
    batch_size=8,
    learning_rate=0.01,
    augment=AugmentConfig(flip=0.5, shift=0.2, mixup=0.2),
    generator=EVERYTHING,
)


def network(seed: int, filters: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, filters, 3),
            nn.BatchNorm2d(filters),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(36 * filters, 4),
        )


@pytest.fixture
def teacher() -> Classifier:
    made = network(0, 4)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        made(torch.rand(32, 1, 8, 8))  # running statistics
    return Classifier(made, spec=SPEC).freeze()


def weights(teacher: Classifier, config: DistillConfig, **more: object) -> dict[str, Tensor]:
    return distill(teacher, network(2, 2), None, config, **more).module.state_dict()  # type: ignore[arg-type]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


SAME = replace(
    QUICK,
    augment=AugmentConfig(),
    batch_norm="again",
    generator=GeneratorConfig(share=1.0, method="zskt", student_steps=7, same=True, latent=4, width=3),
)
"""All student's batches after a step of the generator have the same images; at the end, running statistics of
the generator's batch-norm make those that the student's are taken on."""


def test_images_that_several_batches_get_are_made_once(
    teacher: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    forward = Generator.forward

    def counted(generator: Generator, *inputs: Tensor) -> Tensor:
        made.append(len(inputs[0]))
        return forward(generator, *inputs)

    monkeypatch.setattr(Generator, "forward", counted)
    student = Classifier(network(2, 2), spec=SPEC)
    method = make_generator_method("zskt", {})
    generator = AdversarialGenerator(teacher, student, method, SAME.generator, seed=0, steps=14)
    batches = [generator.images(8) for _ in range(14)]
    assert made == [8] * 4  # twice for the generator's step, and twice for the student
    assert all(torch.equal(one, batches[k // 7 * 7]) for k, one in enumerate(batches))
    assert not torch.equal(batches[0], batches[7])


def test_a_training_that_stops_between_batches_of_the_same_images_ends_in_the_same_student(
    teacher: Classifier, tmp_path: Path
) -> None:
    whole = weights(teacher, SAME)
    with pytest.raises(Stopped):  # saved at 20, in the third turn
        weights(teacher, SAME, state=tmp_path / "state", progress=StopAt(25))
    assert same(weights(teacher, SAME, state=tmp_path / "state"), whole)


def test_a_student_that_the_loss_does_not_read_is_not_run_for_the_generator(teacher: Classifier) -> None:
    student = Classifier(network(2, 2), spec=SPEC).train()
    before = {name: value.clone() for name, value in student.module.named_buffers()}
    images = torch.rand(8, 1, 8, 8, requires_grad=True)
    loss = DAFL().loss_on(teacher, student, images)
    assert loss.equal(DAFL().loss_on(teacher, None, images))
    assert all(value.equal(before[name]) for name, value in student.module.named_buffers())


@pytest.mark.parametrize("method", list(GENERATOR_METHODS))
def test_an_interrupted_training_resumes_with_average_statistics_and_pool(
    teacher: Classifier, tmp_path: Path, method: str
) -> None:
    settings = EVERYTHING.method_settings if method == EVERYTHING.method else {}
    generator = replace(EVERYTHING, method=method, method_settings=settings)  # type: ignore[arg-type]
    config = replace(QUICK, generator=generator)
    state, whole = tmp_path / "state.safetensors", weights(teacher, config)
    for stop in (25, 42):  # states are saved at 20 and 40, with a full pool
        with pytest.raises(Stopped):
            weights(teacher, config, state=state, progress=StopAt(stop))
    assert same(weights(teacher, config, state=state), whole)


@pytest.mark.parametrize(
    "without",
    [
        {"average": 0.0},
        {"momentum": 0.0},
        {"renew": 0},
        {"warm_up": 0},
        {"pool": 0, "replay": 0.0},
        {"augmented": False},
    ],
    ids=lambda one: next(iter(one)),
)
def test_every_part_has_an_effect(teacher: Classifier, without: dict[str, float]) -> None:
    config = replace(QUICK, steps=10)
    other = replace(config, generator=replace(EVERYTHING, **without))  # type: ignore[arg-type]
    assert not same(weights(teacher, config), weights(teacher, other))


def batch_of(teacher: Tensor, student: Tensor, targets: Tensor, *layers: BatchStatistics) -> GeneratorBatch:
    features = torch.arange(2.0 * len(teacher)).view(-1, 2) - 3
    return GeneratorBatch(
        images=torch.zeros(len(teacher), *SPEC.shape),
        teacher=Observation(logits=teacher, features=features),
        student=Observation(logits=student, features=features),
        targets=targets,
        statistics=layers,
    )


def of_channels(mean: list[float], var: list[float]) -> BatchStatistics:
    """Statistics beside a layer whose running ones are (0, 1) in both channels."""
    return BatchStatistics(
        name="norm",
        mean=torch.tensor(mean),
        var=torch.tensor(var),
        running_mean=torch.zeros(2),
        running_var=torch.ones(2),
        eps=0.0,
        count=1,
    )


def test_the_loss_of_the_conditional_generator_is_the_sum_of_its_terms() -> None:
    """Two images: on the first both networks predict class 0, on the second they do not."""
    teacher = torch.tensor([[0.8, 0.2], [0.3, 0.7]]).log()
    student = torch.tensor([[0.6, 0.4], [0.9, 0.1]]).log()
    layers = of_channels([3.0, 4.0], [1.0, 1.0]), of_channels([0.0, 0.0], [1.0, 3.0])
    loss = Conditional(statistics=10, one_hot=0.5, balance=0, disagreement=1.3).loss(
        batch_of(teacher, student, torch.eye(2), *layers)
    )
    apart = 0.8 * math.log(0.8 / 0.6) + 0.2 * math.log(0.2 / 0.4)
    expected = 10 * (5 + 2) + 0.5 * (-math.log(0.8) - math.log(0.7)) / 2 - 1.3 * apart / 2
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_without_class_input_outputs_are_to_be_certain_and_balanced() -> None:
    teacher = torch.tensor([[0.8, 0.2], [0.3, 0.7]]).log()
    layer = of_channels([3.0, 4.0], [1.0, 1.0])
    method = Conditional(class_input=False, statistics=1, one_hot=2, balance=5, disagreement=0)
    assert method.targets(6, 2, numpy_stream(0, "x", 0)) is None
    loss = method.loss(replace(batch_of(teacher, teacher, torch.eye(2), layer), targets=None))
    of_outputs = torch.distributions.Categorical(logits=teacher).entropy().mean()
    of_mean = torch.distributions.Categorical(torch.tensor([0.55, 0.45])).entropy()
    torch.testing.assert_close(loss, 5 + 2 * of_outputs - 5 * of_mean)


def test_the_loss_of_dafl_is_that_of_the_paper() -> None:
    teacher = torch.tensor([[0.8, 0.2], [0.4, 0.6]]).log()
    loss = DAFL(one_hot=1, activation=0.1, entropy=5).loss(batch_of(teacher, teacher, torch.eye(2)))
    certain, active = -(math.log(0.8) + math.log(0.6)) / 2, (3 + 2 + 1 + 0) / 4
    balance = 0.6 * math.log(0.6) + 0.4 * math.log(0.4)
    assert float(loss) == pytest.approx(certain - 0.1 * active + 5 * balance, rel=1e-5)


def test_the_divergence_of_dfq_is_that_of_normal_distributions(teacher: Classifier) -> None:
    """torch.distributions knows it; the same method, written from the layers' inputs, has the same loss."""
    layer = of_channels([0.3, -1.0], [0.5, 2.0])
    batch = torch.distributions.Normal(layer.mean, layer.var.sqrt())
    running = torch.distributions.Normal(layer.running_mean, layer.running_var.sqrt())
    expected = torch.distributions.kl_divergence(batch, running).mean()
    logits = torch.zeros(2, 2)  # certain and balanced: both entropies cancel
    loss = DFQ(statistics=2.0).loss(batch_of(logits, logits, torch.eye(2), layer))
    torch.testing.assert_close(loss, 2 * expected)
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    student = Classifier(network(3, 2), spec=SPEC).freeze()
    torch.testing.assert_close(
        DFQ().loss_on(teacher, student, images), UserDFQ().loss_on(teacher, student, images)
    )


def test_statistics_are_the_moments_smoothed_over_batches(teacher: Classifier) -> None:
    """s_t = m·s_{t−1} + (1 − m)·ŝ_t from s_1 = ŝ_1, and the gradient is that of (1 − m)·ŝ_t."""
    smoothed, layer = Statistics(teacher, 0.75), teacher.module.get_submodule("1")
    batches = torch.randn(3, 5, 4, 6, 6, generator=torch.Generator().manual_seed(0)) * 2 + 1
    means, variances = batches.mean((1, 3, 4)), batches.var((1, 3, 4), correction=0)
    mean, var = means[0], variances[0]
    for values, new_mean, new_var in zip(batches, means, variances, strict=True):
        values = values.clone().requires_grad_(True)
        with reading_statistics(teacher) as calls:
            layer(values)
        (found,) = smoothed(calls)
        mean, var = 0.75 * mean + 0.25 * new_mean, 0.75 * var + 0.25 * new_var
        torch.testing.assert_close(found.mean, mean)
        torch.testing.assert_close(found.var, var)
        (gradient,) = torch.autograd.grad(found.mean.sum() + found.var.sum(), values)
        expected = 0.25 * (1 + 2 * (values - new_mean.view(1, -1, 1, 1))) / (5 * 36)
        torch.testing.assert_close(gradient, expected.detach(), atol=1e-6, rtol=1e-4)


def test_several_calls_of_a_layer_count_together(teacher: Classifier) -> None:
    """Of different sizes and means, so that only weights by the number of values are right."""
    layer, rng = teacher.module.get_submodule("1"), torch.Generator().manual_seed(0)
    parts = [torch.rand(2, 4, 6, 6, generator=rng), 2 + torch.rand(4, 4, 3, 5, generator=rng)]
    with reading_statistics(teacher) as calls:
        for part in parts:
            layer(part)
    (found,) = Statistics(teacher)(calls)
    values = torch.cat([part.transpose(0, 1).flatten(1) for part in parts], 1)
    torch.testing.assert_close(found.mean, values.mean(1))
    torch.testing.assert_close(found.var, values.var(1, correction=0))


def test_a_teacher_without_batch_norm_is_refused() -> None:
    plain = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), spec=SPEC).freeze()
    with pytest.raises(ZskdError, match="Conditional reads the running statistics of batch-norm layers, and"):
        Conditional().check_teacher(plain)


def test_targets_are_balanced_or_dirichlet() -> None:
    one_hot = Conditional(class_input=True).targets(32, 10, numpy_stream(0, "x", 0))
    assert one_hot.sum(1).eq(1).all()
    assert sorted(one_hot.sum(0).tolist()) == [3.0] * 8 + [4.0] * 2
    soft = Conditional(class_input=True, concentration=0.5).targets(4000, 3, numpy_stream(0, "x", 0))
    torch.testing.assert_close(soft.sum(1), torch.ones(4000))
    torch.testing.assert_close(soft.mean(0), torch.full((3,), 1 / 3), atol=0.02, rtol=0)
    # variance of a share: (K − 1) / (K²(K·α + 1))
    torch.testing.assert_close(soft.var(0), torch.full((3,), 2 / (9 * 2.5)), atol=0.01, rtol=0)


def test_the_class_changes_the_image() -> None:
    generator = Generator(latent=5, width=4, shape=(3, 8, 12), box=(0.1, 0.8), classes=3).eval()
    latents = torch.randn(1, 5).expand(3, 5)
    images = generator(latents, torch.eye(3))
    assert images.shape == (3, 3, 8, 12)
    assert not torch.allclose(images[0], images[1], atol=0.01)


def test_the_style_changes_colours_and_needs_part_of_the_random_vector() -> None:
    """The mean colour of a whole image is what the other numbers of the random vector hardly change."""
    numbers = torch.Generator().manual_seed(0)
    latents = torch.randn(64, 20, generator=numbers)
    spread = {}
    for style in (0, 8):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            generator = Generator(latent=20, style=style, width=8, shape=(3, 16, 16), box=(0.1, 0.8))
        images = generator(latents).detach()
        assert images.amin() >= 0.1
        assert images.amax() <= 0.8
        spread[style] = float(images.mean((2, 3)).std(0).mean() / images.std(0).mean())
    assert spread[8] > 2 * spread[0]
    with pytest.raises(ZskdError, match="--distill.generator.style is 4: it must be .*latent, which is 4"):
        GeneratorConfig(latent=4, style=4)


def test_a_pool_keeps_hard_images_and_draws_hard_and_long_unseen_ones() -> None:
    pool = ImagePool(6, SPEC.shape, SPEC.box)
    levels = torch.linspace(0.1, 0.8, 6)
    nothing = torch.empty(0, dtype=torch.int64)
    assert pool.draw(3, torch.Generator()).tolist() == []
    rows = pool.add(levels.view(6, 1, 1, 1).expand(6, 1, 8, 8), nothing)
    torch.testing.assert_close(pool.read(rows)[:, 0, 0, 0], levels, atol=0.7 / 510 + 1e-6, rtol=0)
    pool.record(rows, torch.tensor([1.0, 0.1, 2.0, 0.2, 3.0, 4.0]))
    # the two easiest of those that are not in use are replaced
    pool.step += 9
    assert sorted(pool.add(torch.full((2, 1, 8, 8), 0.5), torch.tensor([1])).tolist()) == [0, 3]
    pool.record(torch.tensor([0, 3]), torch.tensor([1.0, 1.0]))

    def first(seed: int) -> Tensor:
        pool.step.fill_(10)
        return pool.draw(1, torch.Generator().manual_seed(seed))

    # weights at step 11, divergence × age: 1·1, 0.1·10, 2·10, 1·1, 3·10, 4·10
    drawn = torch.cat([first(seed) for seed in range(4000)])
    shares = torch.bincount(drawn, minlength=6) / 4000
    torch.testing.assert_close(shares, torch.tensor([1.0, 1, 20, 1, 30, 40]) / 93, atol=0.03, rtol=0)
    assert sorted(pool.draw(9, torch.Generator().manual_seed(0)).tolist()) == list(range(6))


def test_half_of_the_images_come_from_the_pool_and_their_divergence_is_noted(teacher: Classifier) -> None:
    student = Classifier(network(2, 2), spec=SPEC)
    generator = AdversarialGenerator(
        teacher, student, Conditional(class_input=True), EVERYTHING, seed=0, steps=9
    )
    first = generator.images(8)
    with torch.no_grad():
        generator.record(divergences(student(first), teacher(first)))
        pool = generator.companions["pool"][0]
        expected = (
            teacher(first).softmax(1) * (teacher(first).log_softmax(1) - student(first).log_softmax(1))
        ).sum(1)
    torch.testing.assert_close(pool.get_buffer("divergence")[:8], expected)
    stored = (pool.get_buffer("images")[:8].float() / 255 * 0.7 + 0.1).flatten(1)
    second = generator.images(8).flatten(1)
    nearest = torch.cdist(second, stored).amin(1)
    assert (nearest < 1e-4).tolist() == [True] * 4 + [False] * 4


def test_warm_up_takes_its_steps_once_and_does_not_read_the_student(teacher: Classifier) -> None:
    """Its steps are those of a method without disagreement; the second batch takes none of them."""
    student = Classifier(network(2, 2), spec=SPEC).train()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    alone = Conditional(disagreement=0.0)
    made = [
        AdversarialGenerator(teacher, student, method, config, seed=0, steps=9)
        for method in (Conditional(disagreement=50.0), alone)
        for config in [GeneratorConfig(latent=4, width=3, warm_up=3)]
    ]
    for one in made:
        with counting("warm-up", teacher=teacher) as tally:
            one._warm_up(8)
        (passes,) = tally.passes().values()
        assert (passes.teacher_forward, passes.teacher_backward) == (24, 24)
    for one, other in zip(*(each.companions["generator"][0].parameters() for each in made), strict=True):
        assert torch.equal(one, other)
    assert same(before, student.state_dict())
    with counting("both batches", teacher=teacher) as tally:
        made[0].images(8)
        made[0].images(8)
    (passes,) = tally.passes().values()
    assert passes.teacher_forward == (3 + 1) * 8  # five steps of the student for each of the generator


def test_settings_of_a_method_are_typed_like_all_options() -> None:
    config = GeneratorConfig(method="dafl", method_settings={"one-hot": 2})
    assert make_generator_method(config.method, config.method_settings) == DAFL(one_hot=2.0)


def test_wrong_settings_are_told_in_one_line() -> None:
    with pytest.raises(ZskdError, match="unknown key onehot: did you mean one_hot"):
        make_generator_method("dafl", {"onehot": 1.0})
    with pytest.raises(ZskdError, match="--distill.generator.method-settings.entropy is -1"):
        make_generator_method("dafl", {"entropy": -1})
    with pytest.raises(ZskdError, match="dfad has no settings of its own"):
        make_generator_method("dfad", {"entropy": 1.0})
    with pytest.raises(ZskdError, match="replay needs a pool: give --distill.generator.pool"):
        GeneratorConfig(replay=0.5)
    with pytest.raises(ZskdError, match="--distill.generator.beta1 is 1.0: it must be below 1"):
        GeneratorConfig(beta1=1.0)
