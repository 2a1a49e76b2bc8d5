"""Terms of an objective against their formulas in plain numpy, scipy and torch."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from torch import Tensor, nn

from zskd.config.synthesis import SynthesisConfig
from zskd.core.errors import ZskdError
from zskd.models.batch_statistics import moments, reading_statistics
from zskd.models.classifier import Classifier, InputSpec
from zskd.synthesis.inversion.invert import invert
from zskd.synthesis.inversion.lanes import InversionBatch
from zskd.synthesis.inversion.objective import (
    CrossEntropy,
    ForwardPass,
    Memory,
    Objective,
    Term,
    divergence_and_gradient,
)
from zskd.synthesis.inversion.terms import (
    BatchNormStatistics,
    ClassPrior,
    Disagreement,
    FeatureNorm,
    PixelNorm,
    TotalVariation,
)

SPEC = InputSpec(shape=(3, 8, 8), mean=(0.4,), std=(0.3,))
STILL = SynthesisConfig(tau=2.0, tolerance=0.0, noise_share=0.0, batch_size=6, learning_rate=0.02)


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = make()
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                layer.running_mean.normal_()
                layer.running_var.uniform_(0.5, 2.0)
    return network


def with_norms() -> nn.Module:
    """Batch-norms of two kinds, the first in front of a layer that works in place."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(144, 6),
        nn.BatchNorm1d(6),
        nn.ReLU(inplace=True),
        nn.Linear(6, 5),
    )


@pytest.fixture
def teacher() -> Classifier:
    return Classifier(seeded(with_norms), spec=SPEC).freeze()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(3))


TARGETS = torch.eye(5)[torch.arange(6) % 5]
ALL = torch.ones(6, dtype=torch.bool)


def differences(teacher: Classifier, images: Tensor) -> list[tuple[Tensor, ...]]:
    """μ̂ − μ, σ̂² − σ², σ² of each batch-norm, by running the layers one by one."""
    x, found = (images - 0.4) / 0.3, []
    for layer in teacher.module.children():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            flat = x.transpose(0, 1).flatten(1)
            mean, var = flat.mean(1), ((flat - flat.mean(1, keepdim=True)) ** 2).mean(1)
            found.append((mean - layer.running_mean, var - layer.running_var, layer.running_var))
        x = nn.ReLU()(x) if isinstance(layer, nn.ReLU) else layer(x)
    return found


def norms(teacher: Classifier, images: Tensor) -> Tensor:
    return torch.stack([m.norm() + v.norm() for m, v, _ in differences(teacher, images)]).sum()


def forward(images: Tensor, logits: Tensor, active: Tensor | None = None) -> ForwardPass:
    active = torch.ones(len(images), dtype=torch.bool) if active is None else active
    return ForwardPass(images, images, logits, logits.softmax(1), 2.0, (), active)


def gradient(
    teacher: Classifier,
    term: Term | Objective,
    images: Tensor,
    active: Tensor = ALL,
    memory: Memory | None = None,
) -> Tensor:
    objective = term if isinstance(term, Objective) else 1 * term
    return divergence_and_gradient(teacher, objective, images, TARGETS, None, active, STILL, memory)[1]


def expected(value: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    leaf = images.clone().requires_grad_()
    return torch.autograd.grad(value(leaf), leaf)[0]


def test_statistics_are_the_sum_of_the_paper_and_so_is_their_gradient(
    teacher: Classifier, images: Tensor
) -> None:
    found = gradient(teacher, BatchNormStatistics(), images)
    # the value of the batch belongs to each of its six images
    torch.testing.assert_close(found, expected(lambda x: 6 * norms(teacher, x), images), rtol=1e-4, atol=1e-5)


def test_a_weight_means_what_it_means_where_the_cross_entropy_is_averaged(
    teacher: Classifier, images: Tensor
) -> None:
    def papers(x: Tensor) -> Tensor:
        return nn.functional.cross_entropy(teacher(x) / 2.0, TARGETS) + 0.3 * norms(teacher, x)

    found = gradient(teacher, CrossEntropy() + 0.3 * BatchNormStatistics(), images)
    torch.testing.assert_close(found, 6 * expected(papers, images), rtol=1e-4, atol=1e-5)


def test_relative_statistics_and_the_weight_of_the_first_layer(teacher: Classifier, images: Tensor) -> None:
    def value(x: Tensor) -> Tensor:
        first, second = (
            (m / (v + 1e-5).sqrt()).square().mean().sqrt() + (d / (v + 1e-5)).square().mean().sqrt()
            for m, d, v in differences(teacher, x)
        )
        return 6 * (10 * first + second)

    wanted = expected(value, images)
    found = gradient(teacher, BatchNormStatistics("relative", first_layer=10.0), images)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    # of weights 10 and 1
    found = gradient(teacher, BatchNormStatistics("mean", first_layer=10.0), images)
    torch.testing.assert_close(11 * found, wanted, rtol=1e-4, atol=1e-3)


def test_momentum_averages_over_the_steps_without_their_gradients(
    teacher: Classifier, images: Tensor
) -> None:
    term, memory = BatchNormStatistics(momentum=0.9), {}
    first = gradient(teacher, term, images, memory=memory)
    torch.testing.assert_close(
        first * 10, gradient(teacher, BatchNormStatistics(), images), rtol=1e-3, atol=1e-4
    )
    later = images.flip(3) * 0.8
    before = differences(teacher, images)

    def value(x: Tensor) -> Tensor:
        pairs = zip(before, differences(teacher, x), strict=True)
        return 6 * sum(
            (0.9 * old[0] + 0.1 * new[0]).norm() + (0.9 * old[1] + 0.1 * new[1]).norm() for old, new in pairs
        )

    found = gradient(teacher, term, later, memory=memory)
    torch.testing.assert_close(found, expected(value, later), rtol=1e-3, atol=1e-4)


def test_lanes_without_an_image_are_left_out(teacher: Classifier, images: Tensor) -> None:
    active = torch.tensor([True] * 4 + [False] * 2)
    for term in (BatchNormStatistics(), ClassPrior()):
        found = gradient(teacher, 1 * term, images, active)
        assert not found[4:].any()
        other = torch.cat([images[:4], torch.rand(2, 3, 8, 8)])
        assert torch.equal(found[:4], gradient(teacher, 1 * term, other, active)[:4])
    found = gradient(teacher, BatchNormStatistics(), images, active)
    torch.testing.assert_close(
        found[:4], expected(lambda x: 4 * norms(teacher, x), images[:4]), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("shape", [(7, 3), (7, 3, 5), (7, 3, 5, 4), (7, 3, 2, 4, 2)])
@pytest.mark.parametrize("last", [False, True])
def test_moments_and_their_gradient(shape: tuple[int, ...], last: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    values = torch.randn(shape, generator=rng, dtype=torch.float64)
    if last:
        values = values.movedim(1, -1).contiguous().movedim(-1, 1)
    assert torch.autograd.gradcheck(moments, values.requires_grad_())
    mean, var = moments(values)
    flat = values.detach().numpy().swapaxes(0, 1).reshape(3, -1)
    np.testing.assert_allclose(mean.detach().numpy(), flat.mean(1))
    np.testing.assert_allclose(var.detach().numpy(), flat.var(1))


def test_a_large_mean_costs_the_variance_no_precision() -> None:
    values = torch.randn(100, 4, 16, 16, generator=torch.Generator().manual_seed(0)) + 1000
    exact = values.double().numpy().swapaxes(0, 1).reshape(4, -1).var(1)
    np.testing.assert_allclose(moments(values)[1].numpy(), exact, rtol=1e-5)


def test_an_inversion_brings_the_statistics_near(teacher: Classifier, images: Tensor) -> None:
    made, steps = invert(
        teacher, InversionBatch(images, TARGETS), replace(STILL, steps=60), 1 * BatchNormStatistics()
    )
    assert steps.tolist() == [60] * 6
    assert float(norms(teacher, made)) < 0.5 * float(norms(teacher, images))


class CalledTwice(nn.Module):
    """One batch-norm after two convolutions: its running statistics are those of both."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3)
        self.norm, self.last = nn.BatchNorm2d(3), nn.Linear(108, 5)

    def entering(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = self.first(x)
        return first, self.second(self.norm(first).relu())

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.entering(x)[1]).relu().flatten(1))


def test_a_layer_that_is_called_twice_counts_once_with_all_its_values(images: Tensor) -> None:
    network = seeded(CalledTwice)
    teacher = Classifier(network, spec=SPEC).freeze()
    norm, entering = teacher.module.get_submodule("norm"), teacher.module.entering

    def by_hand(x: Tensor) -> Tensor:
        values = torch.cat([one.transpose(0, 1).flatten(1) for one in entering((x - 0.4) / 0.3)], 1)
        mean, var = values.mean(1), values.var(1, correction=0)
        return (mean - norm.running_mean).norm() + (var - norm.running_var).norm()

    torch.testing.assert_close(
        gradient(teacher, BatchNormStatistics(), images), 6 * expected(by_hand, images), atol=1e-5, rtol=1e-4
    )


def test_a_second_batch_does_not_remember_the_first(teacher: Classifier, images: Tensor) -> None:
    """With momentum, what a batch becomes does not depend on the batch before it in its shard."""
    objective, config = 1 * BatchNormStatistics(momentum=0.9), replace(STILL, steps=3)
    both = torch.cat([images.flip(2), images])
    twice = invert(teacher, InversionBatch(both, TARGETS.repeat(2, 1)), config, objective)[0]
    assert torch.equal(twice[6:], invert(teacher, InversionBatch(images, TARGETS), config, objective)[0])


def test_no_hook_stays_and_the_network_is_rewritten_again(teacher: Classifier, images: Tensor) -> None:
    def stopped() -> None:
        with reading_statistics(teacher):
            teacher(images)
            assert not teacher.rewrite
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert teacher.rewrite
    assert not any(layer._forward_pre_hooks for layer in teacher.modules())


def test_a_teacher_without_batch_norm_is_refused(images: Tensor) -> None:
    plain = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), spec=SPEC).freeze()
    with pytest.raises(ZskdError, match="the teacher has none: give a teacher with batch-norm"):
        gradient(plain, BatchNormStatistics(), images)


@pytest.mark.parametrize("power", [1, 2])
def test_total_variation(images: Tensor, power: int) -> None:
    x = images.numpy().astype(np.float64)
    pairs = [abs(np.diff(x, axis=axis)) ** power for axis in (2, 3)]
    flat = np.concatenate([one.reshape(6, -1) for one in pairs], axis=1)
    found = TotalVariation(power)(forward(images, torch.zeros(6, 5)))  # type: ignore[arg-type]
    np.testing.assert_allclose(found.numpy(), flat.mean(1), rtol=1e-5)


def test_the_norm_of_pixels(images: Tensor) -> None:
    found = PixelNorm()(forward(images, torch.zeros(6, 5)))
    np.testing.assert_allclose(
        found.numpy(), np.linalg.norm(images.numpy().reshape(6, -1), axis=1), rtol=1e-5
    )


def test_disagreement_is_one_minus_the_jensen_shannon_divergence(teacher: Classifier, images: Tensor) -> None:
    student = Classifier(seeded(with_norms, seed=1), spec=SPEC).freeze()
    seen = forward(images, teacher(images))
    found = Disagreement(lambda device: student.to(device), tau=3.0)(seen)
    p, q = (one.div(3).softmax(1).detach().double().numpy() for one in (seen.logits, student(images)))
    np.testing.assert_allclose(found.detach().numpy(), 1 - jensenshannon(p, q, axis=1) ** 2, atol=1e-5)
    same = Disagreement(lambda _: teacher)(seen)
    np.testing.assert_allclose(same.detach().numpy(), 1, atol=1e-6)


def test_the_class_prior_is_the_negative_entropy_of_the_mean_output(images: Tensor) -> None:
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    active = torch.tensor([True] * 5 + [False])
    found = ClassPrior()(forward(images, logits, active)).numpy()
    mean = logits[:5].div(2).softmax(1).double().numpy().mean(0)
    np.testing.assert_allclose(found, [-entropy(mean)] * 5 + [0], rtol=1e-5)


def test_features_are_those_before_the_last_layer(teacher: Classifier, images: Tensor) -> None:
    def value(x: Tensor) -> Tensor:
        return -teacher.module[:-1]((x - 0.4) / 0.3).abs().mean(1).sum()

    found = gradient(teacher, FeatureNorm(), images)
    torch.testing.assert_close(found, expected(value, images), rtol=1e-4, atol=1e-6)
