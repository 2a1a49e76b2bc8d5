"""Steps of a ResNet-20 on colour images of 32×32: what each costs beside the limit of the machine.

    python benchmarks/resnet20.py

An entry of `STEPS` makes one step, which is repeated, and says which passes it cannot do without. Their time
in the bare networks is one limit: batch-norm folded, channels last, the best of several batches. The other is
their arithmetic at the rate of a large matrix product. A new kind of step is one entry. Also measured: start
images that one core draws, and a forward pass in bfloat16. The record is results/resnet20.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import median
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zskd
from apart import log, run_apart
from measures import matrix_rate
from origin import made_with
from zskd.config.loading import load_recipe
from zskd.config.registry import START_IMAGES
from zskd.core.device import use_threads
from zskd.core.files import write_json
from zskd.core.memory import keep_freed_memory
from zskd.core.passes import counting
from zskd.distillation.adversarial.base import make_generator_method
from zskd.distillation.adversarial.generator import Generator
from zskd.distillation.adversarial.generator_steps import AdversarialGenerator
from zskd.distillation.architecture import describe_student, fresh_student
from zskd.distillation.batch_norm import take_statistics
from zskd.models.counting import count_multiply_adds
from zskd.models.deployed import deployed
from zskd.models.factory import build, describe, fresh_weights
from zskd.synthesis.inversion.initial import draw_initial, draw_warps
from zskd.synthesis.inversion.invert import invert
from zskd.synthesis.inversion.lanes import InversionBatch
from zskd.synthesis.methods.base import make_method

SHAPE, CLASSES = (3, 32, 32), 10
BATCHES = (32, 64, 128)
"""Images in a bare pass; the fastest is the limit."""
GENERATOR = load_recipe(None, {"preset": "conditional"}).distill.generator
Pass = tuple[Literal["teacher", "student", "generator"], Literal["forward", "inputs", "weights"]]
"""A network, and how far it goes: forward, or also back to its inputs or weights."""
ARITHMETIC = {"forward": 1, "inputs": 2, "weights": 3}
"""Multiply-adds of a pass in those of a forward pass: back to weights, inner layers need both gradients."""


@dataclass(frozen=True)
class Step:
    """A step of many images."""

    run: Callable[[int], None]
    """Takes so many steps, with what is done once before and after them."""
    images: int
    """In a step."""
    passes: Mapping[Pass, float]
    """That it cannot do without, for each image."""


def resnet20() -> zskd.Classifier:
    """Return a ResNet-20 with random weights and statistics of batch-norm of some pictures."""
    architecture = describe("resnet20", shape=SHAPE, classes=CLASSES)
    network = fresh_weights(lambda: build(architecture, run_code=False), seed=0)
    teacher = zskd.Classifier(network, spec=zskd.InputSpec(shape=SHAPE))
    teacher.architecture = architecture
    take_statistics(teacher, [_pictures(256)])
    return teacher.freeze()


def synthesis_step(method: str, teacher: zskd.Classifier, student: zskd.Classifier, folder: Path) -> Step:
    """One step of 100 images, none of which stops early."""
    config = zskd.SynthesisConfig(noise_share=0.0, tolerance=0.0)
    starts, targets = _pictures(config.batch_size), F.softmax(torch.randn(config.batch_size, CLASSES), dim=1)
    objective = make_method(method, {}).objective(config)

    @torch.no_grad()
    def run(steps: int) -> None:
        warps = draw_warps(list(range(config.batch_size)), steps, seed=0)
        batch = InversionBatch(starts, targets, warps)
        invert(teacher, batch, replace(config, steps=steps), objective)

    return Step(run, config.batch_size, {("teacher", "inputs"): 1})


def distillation_step(
    teacher: zskd.Classifier, student: zskd.Classifier, folder: Path, **settings: Any
) -> Step:
    """One step of the default on 64 images of a stored set."""
    config = replace(zskd.DistillConfig(start="random", batch_size=64, images="memory"), **settings)
    images = zskd.build_transfer_set(teacher, zskd.SetSpec(method="noise", count=300), folder, workers=1)

    def run(steps: int) -> None:
        zskd.distill(teacher, student.module, images, replace(config, steps=steps))

    return Step(run, config.batch_size, {("teacher", "forward"): 1, ("student", "weights"): 1})


def generator_step(teacher: zskd.Classifier, student: zskd.Classifier, folder: Path) -> Step:
    """One step of the generator of `conditional`, with the 64 images that it then gives the student."""
    count = 64
    method = make_generator_method(GENERATOR.method, GENERATOR.method_settings)
    every_batch = replace(GENERATOR, student_steps=1, warm_up=0)
    student.train()
    generator = AdversarialGenerator(teacher, student, method, every_batch, seed=0, steps=1000)

    def run(steps: int) -> None:
        for _ in range(steps):
            generator.images(count)

    passes: dict[Pass, float] = {
        ("teacher", "inputs"): 1,
        ("student", "inputs"): 1,
        ("generator", "weights"): 1,
        ("generator", "forward"): 1 - GENERATOR.replay,
    }
    return Step(run, count, passes)


Make = Callable[[zskd.Classifier, zskd.Classifier, Path], Step]
STEPS: dict[str, Make] = {
    "synthesis": partial(synthesis_step, "zskd"),
    "synthesis with statistics": partial(synthesis_step, "deepinversion"),
    "generator": generator_step,
    "distillation": distillation_step,
    "distillation, plain images": partial(distillation_step, augment=zskd.AugmentConfig()),
}


def step_against_limit(name: str, steps: int = 12) -> dict[str, float]:
    """Return the speed of a step of `STEPS` on one thread, the limits measured between, and the memory.

    Returns:
        `passes_per_second` of the teacher, forward and back; `microseconds` for each image; those of the bare
        passes, `limit`, and of their `arithmetic`; `times_limit`; and `peak_megabytes` of this process.
    """
    keep_freed_memory()
    with use_threads(1), tempfile.TemporaryDirectory() as scratch:
        teacher = resnet20()
        student = fresh_student(describe_student("narrow:0.5", teacher), teacher, 0)
        step = STEPS[name](teacher, student, Path(scratch) / "set")
        with counting("distillation", teacher=teacher) as tally:
            step.run(2)
        bare = Bare(teacher, student)
        found = []
        for _ in range(3):
            limit = sum(times * bare.seconds(one) for one, times in step.passes.items())
            short, long = _seconds(partial(step.run, 2)), _seconds(partial(step.run, 2 + steps))
            found.append(((long - short) / steps / step.images, limit))
        arithmetic = sum(times * bare.multiply_adds(one) for one, times in step.passes.items())
        arithmetic /= matrix_rate()
    seconds, limit = (median(values) for values in zip(*found, strict=True))
    passes = sum(one.teacher for one in tally.passes().values()) / (2 * step.images)
    return {
        "passes_per_second": passes / seconds,
        "microseconds": seconds * 1e6,
        "limit": limit * 1e6,
        "arithmetic": arithmetic * 1e6,
        "times_limit": median(taken / least for taken, least in found),
        "peak_megabytes": getrusage(RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
    }


class Bare:
    """The bare networks in their fastest form."""

    def __init__(self, teacher: zskd.Classifier, student: zskd.Classifier) -> None:
        generator = Generator(
            latent=GENERATOR.latent, width=GENERATOR.width, shape=SHAPE, box=(0.0, 1.0), classes=CLASSES,
            style=GENERATOR.style,
        )  # fmt: skip
        self._networks: dict[str, nn.Module] = {
            "teacher": deployed(teacher).module,
            "student": student.module.train().requires_grad_(),
            "generator": generator.train(),
        }
        self._multiply_adds = {
            "teacher": count_multiply_adds(teacher, _pictures(1)),
            "student": count_multiply_adds(student, _pictures(1)),
            "generator": _of_generator(generator),
        }

    def multiply_adds(self, one: Pass) -> float:
        """Return the multiply-adds of a pass with one image."""
        name, kind = one
        return ARITHMETIC[kind] * self._multiply_adds[name]

    def seconds(self, one: Pass) -> float:
        """Return the seconds of one image in a pass, in its fastest batch."""
        name, kind = one
        network = self._networks[name]

        def run(inputs: tuple[Tensor, ...]) -> None:
            if kind == "forward":
                with torch.no_grad():
                    network(*inputs)
                return
            leaf = inputs[0].detach().requires_grad_(kind == "inputs")
            wanted = [leaf] if kind == "inputs" else list(network.parameters())
            torch.autograd.grad(network(leaf, *inputs[1:]).sum(), wanted)

        return min(_of_image(run, name, batch) for batch in BATCHES)


def _of_image(run: Callable[[tuple[Tensor, ...]], None], name: str, batch: int) -> float:
    inputs: tuple[Tensor, ...] = (_pictures(batch).to(memory_format=torch.channels_last),)
    if name == "generator":
        inputs = (
            torch.randn(batch, GENERATOR.latent),
            F.one_hot(torch.arange(batch) % CLASSES, CLASSES).float(),
        )
    run(inputs)
    return min(_seconds(partial(run, inputs)) for _ in range(3)) / batch


def _of_generator(generator: Generator) -> float:
    """Return the multiply-adds of its first layer and its convolutions for one image."""
    _, height, width = SHAPE
    half, whole = height * width // 4, height * width
    places = ((generator.conv1, half), (generator.conv2, whole), (generator.conv3, whole))
    of_convolutions = sum(layer.weight.numel() * count for layer, count in places)
    return float(generator.project.weight.numel() + of_convolutions)


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


def pictures(kind: str, count: int = 1000) -> float:
    """Return how many start images one core draws per second."""
    draw = partial(draw_initial, kind, list(range(count)), seed=0, shape=SHAPE, box=(0.0, 1.0))
    with use_threads(1):
        draw()
        return count / median(_seconds(draw) for _ in range(5))


def _pictures(count: int) -> Tensor:
    return draw_initial("shapes", list(range(count)), seed=0, shape=SHAPE, box=(0.0, 1.0))


def _seconds(run: Callable[[], object]) -> float:
    """Return the seconds of the processor, which other processes change less than those of the clock."""
    started = time.process_time()
    run()
    return time.process_time() - started


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("results/resnet20.json"))
    out = parser.parse_args().out
    drawn = {kind: run_apart(pictures, kind) for kind in START_IMAGES}
    for kind, per_second in drawn.items():
        log(f"start images {kind}: {per_second:,.0f} /s on 1 core")
    found = {}
    for name in STEPS:
        row = found[name] = run_apart(step_against_limit, name)
        log(
            f"ResNet-20, {name}: {row['passes_per_second']:,.0f} teacher passes/s, "
            f"{row['microseconds']:,.0f} µs per image, {row['times_limit']:.2f} times the bare networks, "
            f"{row['microseconds'] / row['arithmetic']:.2f} times their arithmetic, "
            f"{row['peak_megabytes']:,.0f} MB"
        )
    half = run_apart(bfloat16)
    log(f"    forward in bfloat16: {half['times']:.1f} times as fast, logits change by {half['change']:.1%}")
    write_json(out, {**made_with(), "pictures": drawn, "steps": found, "bfloat16": half})
    log(f"saved in {out}")


if __name__ == "__main__":
    main()
