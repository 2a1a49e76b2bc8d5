"""Times as ratios of two implementations in one run; absolute times of shared machines are not comparable.

The implementations run in turn, so that other processes slow down both, and are timed in seconds of the
processor; the median ratio of two neighbours is asserted. (On a shared cache the ratio of the fastest rounds
spreads three times as much.) pytest-benchmark prints the times of each alone.
The bounds leave room for noise; docs/speed.md has the ratios on a machine without other load.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import median
from time import process_time

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture

import zskd
from plain import distillation_step, our_images, plain_network
from zskd.core.memory import keep_freed_memory
from zskd.data.transforms import augment
from zskd.distillation.losses import kl
from zskd.models.networks.lenet import lenet5, lenet5_half
from zskd.models.networks.resnet import resnet
from zskd.synthesis.inversion.initial import draw_initial, draw_warps
from zskd.synthesis.inversion.invert import invert
from zskd.synthesis.inversion.lanes import InversionBatch
from zskd.synthesis.methods.base import make_method

Run = Callable[[], object]
CONFIG = replace(zskd.SynthesisConfig(), noise_share=0.0, steps=5, tolerance=0.0)


def networks() -> tuple[zskd.Classifier, zskd.Classifier]:
    torch.manual_seed(0)
    return zskd.Classifier(lenet5()).freeze(), zskd.Classifier(lenet5_half())


def impressions(implementation: str) -> Run:
    teacher, _ = networks()
    starts = draw_initial("smooth", list(range(200)), seed=0, shape=(1, 32, 32), box=(0, 1))
    targets = F.softmax(torch.randn(200, 10), dim=1)
    if implementation == "plain":
        network = plain_network(teacher)
        return lambda: our_images(network, starts, targets, CONFIG)
    teacher.rewrite = implementation == "zskd"
    batch = InversionBatch(starts, targets, draw_warps(list(range(200)), CONFIG.steps, seed=0))
    return torch.no_grad()(lambda: invert(teacher, batch, CONFIG))


def distillation(implementation: str) -> Run:
    teacher, student = networks()
    images, config = torch.rand(1000, 1, 32, 32), zskd.DistillConfig()
    if implementation == "plain":
        return distillation_step(plain_network(teacher), plain_network(student), images, config)
    optimiser = torch.optim.Adam(student.parameters(), lr=1e-3, fused=True)
    numbers = torch.Generator().manual_seed(0)

    def step() -> None:
        rows = torch.randint(len(images), (config.batch_size,), generator=numbers)
        batch = augment(images[rows], config.augment, (0, 1), numbers)
        with torch.inference_mode():
            logits = teacher(batch)
        optimiser.zero_grad()
        kl(student(batch), logits.clone(), config).backward()
        optimiser.step()

    return step


TASKS = {"impressions": impressions, "distillation": distillation}


@pytest.mark.parametrize(
    ("task", "implementation"),
    [
        ("impressions", "plain"),
        ("impressions", "not rewritten"),
        ("impressions", "zskd"),
        ("distillation", "plain"),
        ("distillation", "zskd"),
    ],
)
def test_time(benchmark: BenchmarkFixture, task: str, implementation: str) -> None:
    keep_freed_memory()
    torch.set_num_threads(1)
    benchmark.group = task
    benchmark.pedantic(TASKS[task](implementation), rounds=5, warmup_rounds=2)


def ratio(run: Run, other: Run, rounds: int = 40) -> float:
    """Return how many times as long the first takes: the median over rounds of both."""
    keep_freed_memory()
    torch.set_num_threads(1)
    ratios = [seconds(run) / seconds(other) for _ in range(3 + rounds)]
    return median(ratios[3:])  # warm by then


def seconds(run: Run) -> float:
    started = process_time()
    run()
    return process_time() - started


@pytest.mark.parametrize(
    ("task", "slow", "at_least"),
    [("impressions", "plain", 1.3), ("impressions", "not rewritten", 1.1), ("distillation", "plain", 1.2)],
)
def test_zskd_is_faster(task: str, slow: str, at_least: float) -> None:
    assert ratio(TASKS[task](slow), TASKS[task]("zskd")) >= at_least


def test_one_more_lane_costs_no_more_than_its_share() -> None:
    """A step of 100 lanes costs no more per image than one of 25."""
    teacher, _ = networks()
    starts = torch.rand(100, 1, 32, 32)
    targets = F.softmax(torch.randn(100, 10), dim=1)

    def steps(lanes: int) -> Run:
        config = replace(CONFIG, batch_size=lanes)
        warps = draw_warps(list(range(100)), CONFIG.steps, seed=0)
        return torch.no_grad()(lambda: invert(teacher, InversionBatch(starts, targets, warps), config))

    assert ratio(steps(100), steps(25), rounds=8) <= 1.15


def statistics(implementation: str, steps: int = 2) -> Run:
    """So many steps on 100 images of 32×32 with a ResNet-20: whole ones with batch-norm statistics, or only
    the teacher's forward and backward pass, rewritten and channels-last."""
    torch.manual_seed(0)
    teacher = zskd.Classifier(
        resnet(channels=3, classes=10, size=32, depth=20), spec=zskd.InputSpec(shape=(3, 32, 32))
    ).freeze()
    starts = torch.rand(100, 3, 32, 32)
    if implementation == "passes":

        def passes() -> None:
            for _ in range(steps):
                images = starts.clone().requires_grad_()
                torch.autograd.grad(teacher(images).sum(), images)

        return passes
    config = replace(CONFIG, steps=steps, tau=1.0, warp=zskd.WarpConfig(flip=0.5))
    warps = draw_warps(list(range(100)), steps, seed=0)
    batch = InversionBatch(starts, torch.eye(10)[torch.arange(100) % 10], warps)
    objective = make_method("deepinversion", {}).objective(config)
    return torch.no_grad()(lambda: invert(teacher, batch, config, objective))


def test_a_step_with_statistics_costs_little_more_than_the_teachers_passes() -> None:
    assert ratio(statistics("zskd"), statistics("passes"), rounds=8) <= 1.6
