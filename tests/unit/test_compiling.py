"""Networks are compiled where a probe says that it saves time, and weights and random numbers are left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from conftest import Lines
from zskd.config.distillation import DistillConfig
from zskd.config.registry import ARCHITECTURES
from zskd.core.passes import counting
from zskd.distillation import compiling as own
from zskd.distillation.compiling import Compiling
from zskd.distillation.distill import distill
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import fresh_weights
from zskd.models.observation import observe
from zskd.transfer_set.dataset import TransferSet

SPEC = InputSpec(shape=(2, 8, 8))
IMAGES = torch.rand(6, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 3)
    )


def classifiers() -> tuple[Classifier, Classifier]:
    teacher, student = (Classifier(fresh_weights(network, seed), spec=SPEC) for seed in (0, 1))
    student.train()
    return teacher.freeze(), student


class Clock:
    """Stands still while nothing is told to take time."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def timed(clock: Clock, plain: float, compiled: float) -> Callable[[nn.Module], nn.Module]:
    """Return a compiler; two networks take `plain` seconds as they are, and `compiled` ones compiled."""

    class Compiled(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, images: Tensor) -> Tensor:
            clock.now += (compiled - plain) / 2
            found: Tensor = self.inner(images)
            return found

    return Compiled


@contextmanager
def passes_take(clock: Clock, seconds: float) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:

        def wait(device: torch.device) -> None:
            clock.now += seconds

        patched.setattr(own, "wait_for", wait)
        yield


CHOICES = {
    "faster": (
        0.2,
        0.1,
        1000,
        "compiled: they take 100.00 ms in each step compiled, 200.00 ms as they are; in 1,000",
    ),
    "slower": (
        0.2,
        0.3,
        1000,
        "not compiled: they take 300.00 ms in each step compiled, 200.00 ms as they are",
    ),
    "soon done": (
        0.2,
        0.1,
        250,
        "not compiled: the 250 steps left take 50 s, too little for compiling to pay",
    ),
}


@pytest.mark.parametrize("case", CHOICES)
def test_what_takes_less_time_is_kept(case: str) -> None:
    plain, compiled, left, told = CHOICES[case]
    clock, progress, networks = Clock(), Lines(), classifiers()
    as_it_is = [one(IMAGES) for one in networks[:1]]
    compiler = timed(clock, plain, compiled)
    with (
        passes_take(clock, plain),
        Compiling(networks, 6, steps=left + 7, progress=progress, compiler=compiler, clock=clock) as made,
    ):
        made.before_step(7)
        made.before_step(8)
        before = clock.now
        assert torch.equal(networks[0](IMAGES), as_it_is[0])
        assert (clock.now != before) == (case == "faster")
        observe(networks[0], IMAGES, inputs_of=(nn.Conv2d,))  # the original network runs
    (line,) = progress.lines
    assert line.startswith(f"distill: networks are {told}")
    before = clock.now
    networks[0](IMAGES)
    assert clock.now == before


def test_the_probe_leaves_everything_as_it_was() -> None:
    networks, progress = classifiers(), Lines()
    student = networks[1].module
    before = {name: value.clone() for name, value in student.state_dict().items()}
    torch.manual_seed(5)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    with (
        counting("distillation", teacher=networks[0]) as tally,
        Compiling(networks, 6, steps=10**9, progress=progress, compiler=lambda one: one) as made,
    ):
        made.before_step(0)
    assert torch.equal(torch.rand(3), drawn)
    assert tally.total == 0
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())
    assert all(value.grad is None for value in student.parameters())
    assert student.training


def test_without_a_compiler_networks_run_as_they_are() -> None:
    def fails(network: nn.Module) -> nn.Module:
        raise RuntimeError("no working C++ compiler\nfound")

    networks, progress = classifiers(), Lines()
    with Compiling(networks, 6, steps=10**9, progress=progress, compiler=fails) as made:
        made.before_step(0)
        networks[1](IMAGES)
    assert progress.lines == ["distill: networks are not compiled (no working C++ compiler found)"]


def test_networks_whose_layers_are_read_are_not_compiled() -> None:
    networks, progress = classifiers(), Lines()
    for one in networks:
        one.rewrite = False
    with Compiling(networks, 6, steps=10**9, progress=progress) as made:
        made.before_step(0)
    assert progress.lines[0].endswith("not compiled: their layers are read, or --no-rewrite is given")


def test_a_network_that_torch_compiles_computes_the_same_and_leaves_no_trace() -> None:
    """`eager` is torch's own reading of the network's code, without making machine code of it."""
    (teacher, student), progress = classifiers(), Lines()
    student.eval()
    expected = [one(IMAGES) for one in (teacher, student)]
    seen: list[nn.Module] = []

    def compiler(one: nn.Module) -> nn.Module:
        made = torch.compile(one, backend="eager")
        assert isinstance(made, nn.Module)
        seen.append(made)
        return made

    ticks = iter(range(1000, 0, -1))
    with Compiling(
        (teacher, student),
        6,
        steps=10**9,
        progress=progress,
        compiler=compiler,
        clock=lambda: -(next(ticks) ** 2),  # later passes are faster
    ) as made:
        made.before_step(0)
        for one, known in zip((teacher, student), expected, strict=True):
            torch.testing.assert_close(one(IMAGES), known)
    assert len(seen) == 2
    assert progress.lines[0].startswith("distill: networks are compiled: ")
    assert all(
        torch.equal(one(IMAGES), known) for one, known in zip((teacher, student), expected, strict=True)
    )


def test_a_short_training_is_the_same_with_and_without(teacher: Classifier, small_set: TransferSet) -> None:
    config, progress = DistillConfig(start="random", steps=3, batch_size=8), Lines()
    student = fresh_weights(ARCHITECTURES.load("lenet5_half"), 1)
    plain, asked = (
        distill(teacher, student, small_set, one, progress=progress)
        for one in (config, replace(config, compile="auto"))
    )
    assert plain.fingerprint() == asked.fingerprint()
    (line,) = [one for one in progress.lines if "compil" in one]
    assert "not compiled: the 3 steps left take 0 s" in line
