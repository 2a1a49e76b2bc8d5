"""Small trainings for studies of the student: teachers, transfer sets, and real images that no student sees.

Settings are chosen on held-out images of the training sets; no test set is read.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from records import Line
from zskd.config.data import DataConfig
from zskd.config.distillation import DistillConfig
from zskd.config.synthesis import SynthesisConfig
from zskd.config.training import TeacherConfig
from zskd.core.types import Images
from zskd.data.datasets import Split, load_data
from zskd.data.folder import class_folders, read_image
from zskd.distillation.architecture import describe_student, fresh_student
from zskd.distillation.distill import distill
from zskd.evaluation.metrics import agreement
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import fresh_weights
from zskd.models.networks.lenet import lenet5_bn
from zskd.models.networks.resnet import resnet
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.real import build_real_set
from zskd.synthesis.spec import SetSpec
from zskd.teacher.opening import open_teacher
from zskd.teacher.training import train_teacher
from zskd.transfer_set.dataset import TransferSet

GREY, RGB = (1, 32, 32), (3, 32, 32)
SET, HELD_OUT = 4000, 2000
"""Images of a transfer set, and real images that agreement is measured on."""
BATCH = 32
DIGITS, CIFAR = "digits, shapes", "CIFAR-10, real images"
"""Names of the settings."""


@dataclass(frozen=True)
class Setting:
    """A teacher, its student, a set, and real images that the student does not see."""

    name: str
    teacher: Classifier
    untrained: Callable[[], nn.Module]
    """Returns a network of the teacher's architecture with random weights."""
    student: str
    make_set: Callable[[Classifier, str], TransferSet]
    """Returns the set of a teacher, in a folder of a name."""
    images: TransferSet
    held_out: Images
    config: DistillConfig

    def train(self, seed: int, config: DistillConfig) -> Classifier:
        """Train a student."""
        architecture = describe_student(self.student, self.teacher)
        network = fresh_student(architecture, self.teacher, seed).module
        return distill(self.teacher, network, self.images, config, seed=seed)

    def like(self, teacher: Classifier) -> Setting:
        """Return the same setting with another teacher of the same logits."""
        return replace(self, teacher=teacher, images=self.make_set(teacher, f"{self.name} 2"))

    def agreement(self, student: Classifier) -> float:
        """Return the agreement with the teacher on the held-out images, in percent."""
        return round(agreement(self.teacher, student, self.held_out).percent, 2)


def digits(out: Path, steps: int) -> Setting:
    """LeNet-5 with batch-norm, on random shapes; held out are all real training images."""
    data = load_data(DataConfig(name="digits"), GREY)
    untrained = Classifier(fresh_weights(lenet5_bn, 0), spec=InputSpec(shape=GREY))
    teacher = train_teacher(untrained, data, TeacherConfig(epochs=30, batch_size=32), seed=0)
    shapes = SetSpec(method="noise", count=SET, synthesis=SynthesisConfig(start="shapes"))

    def make_set(teacher: Classifier, name: str) -> TransferSet:
        return build_transfer_set(teacher, shapes, out / name)

    return Setting(
        name=DIGITS,
        teacher=teacher,
        untrained=lambda: fresh_weights(lenet5_bn, 1),
        student="lenet5_bn",
        make_set=make_set,
        images=make_set(teacher, DIGITS),
        held_out=data.train.images,
        config=DistillConfig(start="random", steps=steps, batch_size=BATCH),
    )


def cifar(out: Path, weights: Path, root: Path, steps: int) -> Setting:
    """ResNet-20 to ResNet-8, on real images; held out are other real training images."""
    spec = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    teacher, _ = open_teacher(f"resnet20@{weights}", shape=RGB, **spec)
    of_set, held_out = cifar_images(root)

    def make_set(teacher: Classifier, name: str) -> TransferSet:
        return build_real_set(teacher, of_set, out / name, count=len(of_set))

    return Setting(
        name=CIFAR,
        teacher=teacher,
        untrained=lambda: fresh_weights(resnet, 1),
        student="resnet8",
        make_set=make_set,
        images=make_set(teacher, CIFAR),
        held_out=held_out.images,
        config=DistillConfig(start="random", steps=steps, batch_size=BATCH),
    )


def cifar_images(root: Path) -> tuple[Split, Split]:
    """Read the first training images of each class: those of the set, and those held out."""
    names = class_folders(root)
    each, apart = SET // len(names), HELD_OUT // len(names)
    files = [sorted((root / name).iterdir())[: each + apart] for name in names]

    def split(start: int, end: int) -> Split:
        pixels = np.stack([read_image(path, RGB) for own in files for path in own[start:end]])
        labels = torch.arange(len(names)).repeat_interleave(end - start)
        return Split(torch.from_numpy(pixels), labels)

    return split(0, each), split(each, each + apart)


def timed(work: Callable[[], Line]) -> Line:
    """Return the entries of a line with the seconds that they took."""
    started = time.perf_counter()
    line = work()
    return line | {"seconds": round(time.perf_counter() - started, 1)}
