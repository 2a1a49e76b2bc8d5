"""Steps of a ResNet-20 against the limit of the machine: what each costs beside the bare networks.

An entry of `STEPS` makes one step, which is repeated, and says which bare passes it cannot do without. The
bare networks run in their fastest form: batch-norm folded, channels last, the best of several batches. A new
kind of step is one entry.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import zskd
from zskd.core.device import use_threads
from zskd.core.memory import keep_freed_memory
from zskd.core.passes import counting
from zskd.distillation.architecture import describe_student, fresh_student
from zskd.distillation.batch_norm import take_statistics
from zskd.models.deployed import deployed
from zskd.models.factory import build, describe, fresh_weights
from zskd.synthesis.inversion.initial import draw_initial, draw_warps
from zskd.synthesis.inversion.invert import invert
from zskd.synthesis.inversion.lanes import InversionBatch

SHAPE, CLASSES = (3, 32, 32), 10
BATCHES = (32, 64, 128)
"""Images in a bare pass; the fastest is the limit."""
Bare = dict[str, float]
"""Seconds of one image: `forward` and `backward` (forward and the gradient of the images) of the teacher,
`training` (forward and the gradient of the weights) of the student."""


@dataclass(frozen=True)
class Step:
    """A step of many images."""

    run: Callable[[int], None]
    """Takes so many steps, with what is done once before and after them."""
    images: int
    """In a step."""
    bare: Callable[[Bare], float]
    """Returns the least seconds for each image."""


def resnet20() -> zskd.Classifier:
    """Return a ResNet-20 with random weights and statistics of batch-norm of some pictures."""
    architecture = describe("resnet20", shape=SHAPE, classes=CLASSES)
    network = fresh_weights(lambda: build(architecture, run_code=False), seed=0)
    teacher = zskd.Classifier(network, spec=zskd.InputSpec(shape=SHAPE))
    teacher.architecture = architecture
    take_statistics(teacher, [_pictures(256)])
    return teacher.freeze()


def synthesis_step(teacher: zskd.Classifier, student: zskd.Classifier, folder: Path, **settings: Any) -> Step:
    """One step of 100 impressions by the default, none of which stops early."""
    config = replace(zskd.SynthesisConfig(noise_share=0.0, tolerance=0.0), **settings)
    starts, targets = _pictures(config.batch_size), F.softmax(torch.randn(config.batch_size, CLASSES), dim=1)

    @torch.no_grad()
    def run(steps: int) -> None:
        warps = draw_warps(list(range(config.batch_size)), steps, seed=0)
        invert(teacher, InversionBatch(starts, targets, warps), replace(config, steps=steps))

    return Step(run, config.batch_size, lambda bare: bare["backward"])


def distillation_step(
    teacher: zskd.Classifier, student: zskd.Classifier, folder: Path, **settings: Any
) -> Step:
    """One step of the default on 64 images of a stored set."""
    config = replace(zskd.DistillConfig(start="random", batch_size=64, images="memory"), **settings)
    images = zskd.build_transfer_set(teacher, zskd.SetSpec(method="noise", count=300), folder, workers=1)

    def run(steps: int) -> None:
        zskd.distill(teacher, student.module, images, replace(config, steps=steps))

    return Step(run, config.batch_size, lambda bare: bare["forward"] + bare["training"])


Make = Callable[[zskd.Classifier, zskd.Classifier, Path], Step]
STEPS: dict[str, Make] = {
    "synthesis": synthesis_step,
    "distillation": distillation_step,
    "distillation, plain images": partial(distillation_step, augment=zskd.AugmentConfig()),
}


def step_against_limit(name: str, steps: int = 12) -> dict[str, float]:
    """Return the speed of a step of `STEPS` on one thread, the limit measured between, and the memory.

    Returns:
        `passes_per_second` of the teacher, `microseconds` for each image, its `limit`, `times_limit`, and
        `peak_megabytes` of this process.
    """
    keep_freed_memory()
    with use_threads(1), tempfile.TemporaryDirectory() as scratch:
        teacher = resnet20()
        student = fresh_student(describe_student("narrow:0.5", teacher), teacher, 0)
        step = STEPS[name](teacher, student, Path(scratch) / "set")
        step.run(2)
        found: list[tuple[float, float]] = []
        for _ in range(3):
            limit = step.bare(bare_seconds(teacher, student))
            short, long = _seconds(partial(step.run, 2)), _seconds(partial(step.run, 2 + steps))
            found.append(((long - short) / steps / step.images, limit))
        with counting("distillation", teacher=teacher) as tally:
            step.run(2)
    seconds, limit = (median(values) for values in zip(*found, strict=True))
    passes = sum(one.teacher for one in tally.passes().values()) / (2 * step.images)
    return {
        "passes_per_second": passes / seconds,
        "microseconds": seconds * 1e6,
        "limit": limit * 1e6,
        "times_limit": median(taken / least for taken, least in found),
        "peak_megabytes": _peak_bytes() / 1e6,
    }


def bare_seconds(teacher: zskd.Classifier, student: zskd.Classifier) -> Bare:
    """Return the seconds of one image in passes of the bare networks."""
    fast = deployed(teacher).module
    learner = student.module.train().requires_grad_()

    def forward(images: Tensor) -> None:
        with torch.no_grad():
            fast(images)

    def backward(images: Tensor) -> None:
        leaf = images.detach().requires_grad_()
        torch.autograd.grad(fast(leaf).sum(), leaf)

    def training(images: Tensor) -> None:
        torch.autograd.grad(learner(images).sum(), list(learner.parameters()))

    runs = {"forward": forward, "backward": backward, "training": training}
    return {name: min(_of_image(run, batch) for batch in BATCHES) for name, run in runs.items()}


def bfloat16() -> dict[str, float]:
    """Return how many times faster a teacher's forward pass is in bfloat16, and the largest change of a
    logit, relative to the largest logit."""
    keep_freed_memory()
    with use_threads(1), torch.no_grad():
        fast, images = deployed(resnet20()).module, _pictures(64).to(memory_format=torch.channels_last)
        exact = fast(images)
        single = min(_seconds(partial(fast, images)) for _ in range(5))
        with torch.autocast("cpu", torch.bfloat16):
            rounded = fast(images).float()
            half = min(_seconds(partial(fast, images)) for _ in range(5))
    return {"times": single / half, "change": float((rounded - exact).abs().max() / exact.abs().max())}


def _of_image(run: Callable[[Tensor], None], batch: int) -> float:
    images = _pictures(batch).to(memory_format=torch.channels_last)
    run(images)
    return min(_seconds(partial(run, images)) for _ in range(3)) / batch


def _pictures(count: int) -> Tensor:
    return draw_initial("shapes", list(range(count)), seed=0, shape=SHAPE, box=(0.0, 1.0))


def _seconds(run: Callable[[], object]) -> float:
    """Return the seconds of the processor, which other processes change less than those of the clock."""
    started = time.process_time()
    run()
    return time.process_time() - started


def _peak_bytes() -> float:
    import resource

    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
