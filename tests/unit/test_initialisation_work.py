"""How much an initialisation from the teacher computes, and that less work makes the same choice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from zskd.core.progress import Progress, Task
from zskd.distillation.initialisation.chain import initialise_chain
from zskd.distillation.initialisation.effort import EFFORTS, most_work, plan_chain
from zskd.distillation.initialisation.elimination import Elimination, divergence
from zskd.distillation.initialisation.passes import Passes
from zskd.distillation.initialisation.ridge import (
    fit_layer,
    gram_matrix,
    normal_equations,
    set_weight_matrix,
    solve_ridge,
    weight_matrix,
)
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import half

SPEC = InputSpec(shape=(1, 8, 8), mean=(0.4,), std=(0.3,))


def chain(seed: int, width: int = 6) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = (
            nn.Conv2d(1, width, 3),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 8, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32, 4),
        )
    return nn.Sequential(*layers).requires_grad_(False)


def some_images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, *SPEC.shape, generator=Generator().manual_seed(seed))


def solved_for_every_candidate(
    following: nn.Sequential, width: int, gram: Tensor, inputs: Tensor, target: Tensor, count: int
) -> list[int]:
    """Return the channels that stay where each candidate is solved for anew: the slow way."""
    layer = following[0]
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    weight = weight_matrix(layer)

    def change(remaining: list[int]) -> float:
        rows = torch.arange(width * (len(gram) // width)).view(width, -1)[remaining].flatten()
        rows = torch.cat([rows, rows.new_tensor([len(gram) - 1])])  # the bias
        matrix = torch.zeros_like(weight)
        within = gram[rows][:, rows]
        matrix[rows] = weight[rows] + solve_ridge(within, gram[rows] @ weight - within @ weight[rows])
        set_weight_matrix(layer, matrix)
        return divergence(following(inputs), target)

    channels = list(range(width))
    while len(channels) > count:
        channels = min(([one for one in channels if one != removed] for removed in channels), key=change)
    set_weight_matrix(layer, weight)
    return channels


@pytest.mark.parametrize("seed", range(20))
def test_one_inverse_chooses_the_channels_that_solving_for_every_candidate_does(seed: int) -> None:
    teacher, images = chain(seed), some_images(200, seed)
    inputs, logits = teacher[:3](images), teacher(images)
    following = nn.Sequential(*list(teacher)[3:])
    gram = gram_matrix(teacher[3], [inputs], Generator().manual_seed(seed))  # type: ignore[arg-type]
    elimination = Elimination(following, 6, gram, inputs, logits)
    slow = solved_for_every_candidate(following, 6, gram, inputs, logits, 3)
    assert elimination.keep(3, exactly=True) == slow
    assert len(set(elimination.keep(3, exactly=False)) & set(slow)) >= 2


@pytest.mark.parametrize("layer", [nn.Linear(64, 3), nn.Linear(64, 3, bias=False), nn.Conv2d(1, 3, 5)])
def test_few_rows_give_the_change_of_the_normal_equations(layer: nn.Linear | nn.Conv2d) -> None:
    inputs = some_images(16) if isinstance(layer, nn.Conv2d) else some_images(16).flatten(1)
    layer.requires_grad_(False)
    wanted = layer(inputs) + torch.randn(layer(inputs).shape, generator=Generator().manual_seed(1))
    rng = Generator()
    expected = weight_matrix(layer)
    expected += solve_ridge(*normal_equations(layer, [(inputs, wanted)], rng.manual_seed(2)))
    fit_layer(layer, [(inputs, wanted)], 1, rng.manual_seed(2))
    # the Gram matrix of fewer rows than inputs is singular but for λ, and its products are of float32
    assert_close(weight_matrix(layer), expected, atol=2e-3, rtol=0)


def test_kept_values_are_those_of_the_layers_in_whatever_steps_they_are_reached() -> None:
    layers, images = chain(0), some_images(10)
    passes = Passes(layers, images.split(4))
    for index in (1, 2, 4):
        passes.advance(index)
        for reached in range(index, len(layers) + 1):
            for _ in range(2):  # a layer in place must not change what is kept
                assert_close(torch.cat([*passes.at(reached)]), layers[:reached](images.clone()))


class Counted(Progress):
    def __init__(self) -> None:
        self.total, self.done = 0, 0

    @contextmanager
    def task(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:
        self.total = total
        yield self

    def advance(self, done: int = 1, note: str = "") -> None:
        self.done += done


def test_the_work_is_bounded_and_counts_what_is_computed() -> None:
    network, images = chain(0, width=12), some_images(300)
    teacher, student = Classifier(network, spec=SPEC), Classifier(half(network), spec=SPEC)
    with torch.no_grad():
        plan = plan_chain(network, half(network), images[:1], len(images), trained=0)
    progress = Counted()
    with FlopCounterMode(display=False) as counter:
        initialise_chain(teacher, student, lambda: images, Generator(), progress=progress)
    computed = counter.get_total_flops() // 2  # without solutions of equations
    assert plan.total / 4 < computed < plan.total
    assert progress.done >= progress.total - 1


def test_the_bound_is_a_share_of_the_training() -> None:
    network = chain(0, width=32)
    cost, cost_of_student = 32 * 9 * 36 + 32 * 4 * 8 * 4 + 128, 16 * 9 * 36 + 16 * 4 * 4 * 4 + 64
    for trained in (0, 10**9):
        with torch.no_grad():
            plan = plan_chain(network, half(network), some_images(1), 2_000_000, trained)
        assert plan.total <= most_work(trained, cost, cost_of_student)
        assert trained or plan.effort != EFFORTS[0]
    assert plan.effort == EFFORTS[0]


def test_efforts_fall() -> None:
    network = chain(0, width=32)
    with torch.no_grad():
        totals = [
            plan_chain(network, half(network), some_images(1), 2000, 0, efforts=[one]).total
            for one in EFFORTS
        ]
    assert totals == sorted(totals, reverse=True)
    assert totals[-1] < totals[0] / 20
