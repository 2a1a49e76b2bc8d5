"""The time of one step of a generator and of a student on a ResNet-20, beside the limit of this machine.

    python benchmarks/generators.py

`make bench` runs it, too. The limit is the arithmetic of the passes at the rate of a large matrix product,
measured right after the steps, on one thread.
"""

from __future__ import annotations

import json
from dataclasses import replace

import torch

import zskd
from measures import _seconds, matrix_rate
from zskd.config.loading import load_recipe
from zskd.core.device import use_threads
from zskd.core.memory import keep_freed_memory
from zskd.distillation.adversarial.base import make_generator_method
from zskd.distillation.adversarial.generator import Generator
from zskd.distillation.adversarial.generator_steps import AdversarialGenerator
from zskd.distillation.losses import kl
from zskd.models.counting import count_multiply_adds
from zskd.models.factory import fresh_weights
from zskd.models.networks.resnet import resnet

SHAPE = (3, 32, 32)


def generator_steps(rounds: int = 10) -> dict[str, dict[str, float]]:
    """Return ms and its limit for a step of each network with the preset `conditional`, one thread."""
    config = load_recipe(None, {"preset": "conditional"}).distill
    spec, count = zskd.InputSpec(shape=SHAPE), config.batch_size
    teacher = zskd.Classifier(
        fresh_weights(lambda: resnet(channels=3, classes=10, size=32, depth=20), 0), spec=spec
    ).freeze()
    student = zskd.Classifier(
        fresh_weights(lambda: resnet(channels=3, classes=10, size=32, depth=8), 1), spec=spec
    ).train()
    method = make_generator_method(config.generator.method, config.generator.method_settings)
    every_batch = replace(config.generator, student_steps=1, warm_up=0)
    generator = AdversarialGenerator(teacher, student, method, every_batch, seed=0, steps=1000)
    optimiser = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9)
    images = torch.rand(count, *SHAPE)

    def distil() -> None:
        with torch.no_grad():
            logits = teacher(images)
        optimiser.zero_grad()
        kl(student(images), logits, config).backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    of_teacher, of_student = (count_multiply_adds(one, images[:1]) for one in (teacher, student))
    of_generator = generator_multiply_adds(config.generator.latent, config.generator.width)
    new = 1 - config.generator.replay
    # a backward pass to the images costs as much as a forward pass, one to the weights twice as much
    costs = {
        "generator's batch": 2 * of_teacher + 2 * of_student + (3 + new) * of_generator,
        "student's step": of_teacher + 3 * of_student,
    }
    runs = {"generator's batch": lambda: generator.images(count), "student's step": distil}
    keep_freed_memory()
    found = {}
    with use_threads(1):
        for name, run in runs.items():
            run()
            seconds = _seconds(run, rounds)
            found[name] = {
                "milliseconds": seconds * 1e3,
                "limit": count * costs[name] / matrix_rate() * 1e3,
            }
    return found


def generator_multiply_adds(latent: int, width: int) -> int:
    """Return the multiply-adds of the generator's convolutions and first layer for an image of `SHAPE`."""
    made = Generator(latent=latent, width=width, shape=SHAPE, box=(0.0, 1.0))
    places = {made.conv1: 16 * 16, made.conv2: 32 * 32, made.conv3: 32 * 32}
    first: int = made.project.weight.numel()
    return first + sum(layer.weight.numel() * count for layer, count in places.items())


if __name__ == "__main__":
    print(json.dumps(generator_steps(), indent=1))
