"""Trainings and syntheses on the fake device and on the CPU: what waits for the device, and what differs.

It needs a process of its own, because torch learns of devices before its first backward pass alone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fake_device import Waits, fake_device
from zskd.config.distillation import DistillConfig, FeaturesConfig, GeneratorConfig, ImageBankConfig
from zskd.config.sources import FreshConfig, ReplayConfig
from zskd.config.synthesis import SynthesisConfig
from zskd.config.training import FitConfig
from zskd.config.transforms import AugmentConfig
from zskd.core.passes import counting
from zskd.core.progress import Progress
from zskd.data.datasets import Dataset, Split
from zskd.distillation.distill import distill
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import fresh_weights
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.shard import make_shard
from zskd.synthesis.spec import SetSpec
from zskd.teacher.training import train_teacher
from zskd.training.curve import read_curve
from zskd.transfer_set.dataset import TransferSet

STEPS, FIRST, LAST = 24, 1, 21
"""Steps of a training, and those between which waits are counted: two readings of the loss."""
CLASSES, SHAPE = 4, (3, 8, 8)
PLAIN = DistillConfig(
    start="random",
    optimiser="muon",
    steps=STEPS,
    batch_size=6,
    augment=AugmentConfig(rotation=10.0, mixup=0.2, cutmix=0.2),
)
CHANGES = AugmentConfig(
    crop=0.2,
    flip=0.5,
    flip_vertical=0.5,
    share=0.5,
    brightness=0.2,
    contrast=0.2,
    saturation=0.2,
    hue=0.1,
    cutout=0.3,
    salt_pepper=0.05,
    gaussian=0.1,
)
TRAININGS = {
    "plain": PLAIN,
    "changes": replace(PLAIN, augment=CHANGES, label_weight=0.5, optimiser="adam", order="by_shard"),
    "bfloat16": replace(
        PLAIN, precision="bfloat16", optimiser="sgd", l2=0.01, features=FeaturesConfig(weight=0.1)
    ),
    "statistics": replace(
        PLAIN,
        batch_norm="fixed",
        fresh=FreshConfig(share=0.2),
        image_bank=ImageBankConfig(share=0.5, count=2, images=6, keep=8),
    ),
    "generator": replace(
        PLAIN,
        optimiser="sgd",
        generator=GeneratorConfig(share=0.5, method="conditional", width=4, latent=5, momentum=0.5),
    ),
    "replay": replace(PLAIN, replay=ReplayConfig(share=0.5, keep=20)),
    "jpeg": replace(PLAIN, augment=AugmentConfig(jpeg=1.0)),
}
SET = SetSpec(
    count=30,
    synthesis=SynthesisConfig(
        steps=12, noise_share=0.2, tolerance=0.7, learning_rate=0.1, batch_size=8, shard_size=30
    ),
)
TOGETHER = replace(SET.synthesis, tolerance=0.0)
SETS = {
    "zskd": SET,
    "deepinversion": replace(SET, method="deepinversion", synthesis=TOGETHER),
    "boundary": replace(SET, method="boundary", synthesis=TOGETHER),
}


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, CLASSES),
    )


def classifier(seed: int, device: torch.device | str = "cpu") -> Classifier:
    made = Classifier(fresh_weights(network, seed), spec=InputSpec(shape=SHAPE)).freeze()
    return made.to(device)


class Stopped(Exception):
    """What a killed training looks like from inside."""


class Watch(Progress):
    """Notes after each step of a training how often it has waited; may stop it."""

    def __init__(self, waits: Waits, most: int = STEPS) -> None:
        super().__init__()
        self._waits, self._most = waits, most
        self.seen: list[Counter[str]] = []

    @contextmanager
    def task(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Watch]:
        yield self

    def advance(self, done: int = 1, note: str = "") -> None:
        self.seen.append(Counter(self._waits.counts))
        if len(self.seen) > self._most:
            raise Stopped

    def between(self, first: int, last: int) -> dict[str, int]:
        return dict(self.seen[last - 1] - self.seen[first - 1])


def weights(network: nn.Module) -> list[Tensor]:
    return [value.cpu() for value in network.state_dict().values()]


def distance(one: list[Tensor], other: list[Tensor]) -> float:
    """Return the largest difference of any two values."""
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


def trainings(device: torch.device, waits: Waits, made: TransferSet, out: Path) -> dict[str, Any]:
    """Return waits between two steps of each training, and how far it is from the same on the CPU."""
    found = {}
    for name, config in TRAININGS.items():
        own, curve = fresh_weights(network, 1), out / "curve.json"
        here = weights(distill(classifier(0), own, made, config, curve=curve).module)
        watch, told = Watch(waits), read_curve(out)
        there = distill(classifier(0, device), own, made, config, curve=curve, progress=watch)
        assert told is not None
        assert there.layout == "channels_last"
        found[name] = {
            "waits": watch.between(FIRST, LAST),
            "distance": distance(here, weights(there.module)),
            "same curve": read_curve(out) == told,
        }
    return found


def resumed(device: torch.device, waits: Waits, made: TransferSet, out: Path) -> dict[str, Any]:
    """Return the same of a training that was stopped at step 22, and went on from step 20, on the device."""
    own, state = fresh_weights(network, 1), out / "state"
    here = weights(distill(classifier(0), own, made, PLAIN).module)
    with suppress(Stopped):
        distill(classifier(0, device), own, made, PLAIN, state=state, progress=Watch(waits, 22))
    watch = Watch(waits)
    there = distill(classifier(0, device), own, made, PLAIN, state=state, progress=watch)
    return {
        "steps": len(watch.seen),
        "waits": watch.between(1, len(watch.seen) - 1),
        "distance": distance(here, weights(there.module)),
    }


def of_teacher(device: torch.device, waits: Waits) -> dict[str, Any]:
    """Return the same of a teacher's training."""
    images = torch.rand(24, *SHAPE, generator=torch.Generator().manual_seed(0))
    split = Split(images, torch.arange(24) % CLASSES)
    data = Dataset(split, split, split, tuple("0123"), 24)
    config = FitConfig(steps=STEPS, batch_size=6)
    here, there = (classifier(2, one).requires_grad_() for one in ("cpu", device))
    train_teacher(here, data, config, seed=0)
    watch = Watch(waits)
    train_teacher(there, data, config, seed=0, progress=watch)
    return {
        "waits": watch.between(FIRST, LAST),
        "distance": distance(weights(here.module), weights(there.module)),
    }


def syntheses(device: torch.device, waits: Waits) -> dict[str, Any]:
    """Return steps and waits of each shard, and whether it is that of the CPU."""
    found = {}
    for name, spec in SETS.items():
        here = make_shard(classifier(0), spec, 0)
        teacher = classifier(0, device)
        waits.counts.clear()
        with counting(teacher=teacher) as tally:
            there = make_shard(teacher, spec, 0)
        steps = tally.passes()["synthesis"].teacher_forward / spec.synthesis.batch_size
        took = here.steps[here.steps > 0]
        found[name] = {
            "waits": waits.counts.total(),
            "steps": steps,
            "distance": distance(list(vars(here).values()), list(vars(there).values())),
            "early": int((took < spec.synthesis.steps).sum()),
        }
    return found


def main(folder: Path) -> None:
    """Print what was found; files go to the folder."""
    torch.set_num_threads(1)
    made = build_transfer_set(classifier(0), replace(SET, method="noise"), folder / "set")
    with fake_device() as (device, waits):
        found = {
            "trainings": trainings(device, waits, made, folder),
            "resumed": resumed(device, waits, made, folder),
            "teacher": of_teacher(device, waits),
            "syntheses": syntheses(device, waits),
        }
    print(json.dumps(found))
