"""Which pictures carry over to students of teachers of coloured digits, and why does the default not?

    python studies/colour.py --out runs/colour
    python studies/colour.py --out runs/colour --seeds 1 2 --networks resnet8

The teachers are trained here on `digits-colour`, 16×16 pixels. All students are `narrow:0.5` with the same
training: that of the default, in 600 steps of 64. The cells of `base` compare sources of pictures. Those of
`grey`, `no_norm` and `random` change one thing of it: the digits are grey; the networks have no batch-norm;
or the student begins with random weights. Agreement with the teacher and accuracy are measured on the digits
held out for validation, always the same ones; the test digits only tell how good the teachers are. What is
finished is not made again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from torch import nn

from records import RESULTS, Line, made_with, read_lines, write_lines
from zskd.config.data import DataConfig, DataName
from zskd.config.distillation import DistillConfig
from zskd.config.loading import load_recipe
from zskd.config.synthesis import SynthesisConfig
from zskd.config.training import TeacherConfig
from zskd.data.datasets import Dataset, load_data
from zskd.distillation.build import build_student, passes_of
from zskd.distillation.spec import StudentSpec
from zskd.evaluation.metrics import accuracy, agreement
from zskd.models.chain import read_layers
from zskd.models.checkpoint import CARD, Card, Origin, save_checkpoint
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import Architecture, Layers, build, describe, fresh_weights
from zskd.models.networks.parts import he_weights
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.real import build_real_set
from zskd.synthesis.spec import SetSpec
from zskd.teacher.opening import open_teacher
from zskd.teacher.training import train_teacher
from zskd.transfer_set.dataset import TransferSet

LINES = RESULTS / "colour.json"
STUDENT = "narrow:0.5"
SIZE = 16
VALIDATION = 0.2
"""Share of the training digits; enough of them to tell differences of a point or two."""
TEACHER = TeacherConfig(steps=1500, batch_size=64)
TRAINING = DistillConfig(steps=600, batch_size=64)
"""The default's but for its length."""
NETWORKS = ("resnet8", "depthwise")
STEM, BLOCKS = 24, ((48, 1), (96, 2), (96, 1), (128, 2))
"""Channels of the first convolution; channels and stride of each depthwise convolution with its 1×1 one."""


@dataclass(frozen=True)
class Setting:
    """What a teacher learns from, and how its students begin."""

    data: DataName = "digits-colour"
    norm: str = "batch"
    start: str = "teacher"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the images."""
        return 1 if self.data == "digits" else 3, SIZE, SIZE


SETTINGS = {
    "base": Setting(),
    "grey": Setting(data="digits"),
    "no_norm": Setting(norm="none"),
    "random": Setting(start="random"),
}


@dataclass(frozen=True)
class Arm:
    """One source of pictures."""

    count: int | None = None
    """Images of the set; None: all real ones of the training set."""
    preset: str | None = None
    """Of the method; None: start images as they are, or real images."""
    start: str = "shapes"
    noise_share: float | None = None
    """Share of start images in the set; None: that of the preset."""
    generator: str | None = None
    """Preset of a generator that makes half of each batch; the rest is the set of start images."""
    norm_only: bool = False
    """Whether the method reads batch-norm statistics."""


ARMS = {
    "real": Arm(),
    "shapes": Arm(4000),
    "procedural": Arm(4000, start="procedural"),
    "default": Arm(2000, "default"),
    "zskd": Arm(500, "default", noise_share=0.0),
    "zskd_bn": Arm(500, "zskd_bn", noise_share=0.0, norm_only=True),
    "conditional": Arm(4000, start="procedural", generator="conditional", norm_only=True),
}


@cache
def load_images(setting: Setting) -> Dataset:
    """Return the digits of a setting."""
    return load_data(DataConfig(name=setting.data, validation=VALIDATION), setting.shape)


def depthwise(channels: int, norm: str) -> nn.Sequential:
    """Return a chain of depthwise and 1×1 convolutions: MobileNet's blocks, but fewer for small images."""
    layers = _convolution(channels, STEM, norm)
    before = STEM
    for after, stride in BLOCKS:
        layers += _convolution(before, before, norm, stride=stride, groups=before)
        layers += _convolution(before, after, norm, kernel=1)
        before = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


def _convolution(
    before: int, after: int, norm: str, *, kernel: int = 3, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    bias = norm == "none"
    convolution = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, groups=groups, bias=bias)
    return [convolution, *([] if bias else [nn.BatchNorm2d(after)]), nn.ReLU()]


def describe_teacher(network: str, setting: Setting) -> Architecture:
    """Return how the network of a teacher is built."""
    if network == "depthwise":
        return Layers(layers=tuple(read_layers(depthwise(setting.shape[0], setting.norm))))
    return describe(f"resnet8(norm={setting.norm})", shape=setting.shape, classes=10)


def build_teacher(architecture: Architecture) -> nn.Module:
    """Return the network of a teacher; a chain gets the initial weights of the built-in networks."""
    network = build(architecture, run_code=False)
    return he_weights(network) if isinstance(architecture, Layers) else network


@cache
def open_or_train(network: str, data: DataName, norm: str, out: Path) -> Classifier:
    """Return a teacher, which is trained once."""
    setting, folder = Setting(data, norm), out / f"teacher-{network}-{data}-{norm}"
    if not (folder / CARD).is_file():
        architecture = describe_teacher(network, setting)
        module = fresh_weights(lambda: build_teacher(architecture), seed=0)
        spec = InputSpec(shape=setting.shape, mean=(0.5,), std=(0.3,))
        trained = train_teacher(Classifier(module, spec=spec), load_images(setting), TEACHER, seed=0)
        card = Card(architecture=architecture, origin=Origin(how="trained", seed=0))
        save_checkpoint(trained, card, folder)
    return open_teacher(folder)[0]


def make_set(arm: Arm, teacher: Classifier, images: Dataset, folder: Path, seed: int) -> TransferSet:
    """Return the transfer set of an arm."""
    if arm.count is None:
        return build_real_set(teacher, images.train, folder, count=len(images.train), seed=seed)
    if arm.preset is None:
        config = SynthesisConfig(start=arm.start)
        spec = SetSpec(method="noise", count=arm.count, seed=seed, synthesis=config)
    else:
        recipe = load_recipe(None, {"preset": arm.preset})
        config = recipe.synthesis
        if arm.noise_share is not None:
            config = replace(config, noise_share=arm.noise_share)
        if arm.norm_only:  # mirrored digits are no digits
            config = replace(config, warp=replace(config.warp, flip=0.0))
        spec = SetSpec(
            method=recipe.method,
            method_settings=recipe.method_settings,
            count=arm.count,
            seed=seed,
            targets=recipe.targets,
            synthesis=config,
        )
    return build_transfer_set(teacher, spec, folder, workers=1)


def training(arm: Arm, start: str) -> DistillConfig:
    """Return the training of a student: the same for all arms, but for the start and a generator."""
    config = replace(TRAINING, start=start)
    if arm.generator is None:
        return config
    generator = load_recipe(None, {"preset": arm.generator}).distill.generator
    return replace(config, generator=replace(generator, share=0.5))


def study(network: str, name: str, title: str, seed: int, out: Path) -> Line:
    """Return agreement and accuracy of one student, the passes that it took, and the core seconds."""
    setting, arm = SETTINGS[name], ARMS[title]
    images = load_images(setting)
    teacher = open_or_train(network, setting.data, setting.norm, out)
    place, began = f"{network}-{setting.data}-{setting.norm}-{title}", time.process_time()
    of_set = make_set(arm, teacher, images, out / f"set-{place}-{seed}", seed)
    set_seconds, began = time.process_time() - began, time.process_time()
    folder = out / f"{place}-{setting.start}-{seed}"
    spec = StudentSpec(student=STUDENT, seed=seed, distill=training(arm, setting.start))
    student = build_student(teacher, spec, of_set, folder)
    seconds = time.process_time() - began
    found = agreement(teacher, student, images.validation.images)
    passes = {"set": of_set.manifest.passes, "student": passes_of(folder)}
    return {
        "images": len(of_set),
        "agreement": found.percent,
        "accuracy": accuracy(student, images.validation).percent,
        "n": found.n,
        "teacher_accuracy": accuracy(teacher, images.validation).percent,
        "teacher_test_accuracy": accuracy(teacher, images.test).percent,
        "parameters": student.parameters_count,
        "teacher_parameters": teacher.parameters_count,
        "passes": {
            part: {stage: counts.to_json() for stage, counts in (of or {}).items()}
            for part, of in passes.items()
        },
        "set_cpu_seconds": round(set_seconds, 1),
        "student_cpu_seconds": round(seconds, 1),
    }


def place_in_record(line: Line) -> tuple[int, ...]:
    """Return the key that lines are sorted by."""
    names = (("network", NETWORKS), ("setting", SETTINGS), ("arm", ARMS))
    return (*(list(known).index(line[key]) for key, known in names), line["seed"])


def main() -> None:
    """Train the students that have no line yet, and write a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/colour"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--only", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--record", type=Path, default=LINES)
    given = parser.parse_args()
    for seed, setting, network, arm in itertools.product(
        given.seeds, given.settings, given.networks, given.only
    ):
        if ARMS[arm].norm_only and SETTINGS[setting].norm == "none":
            continue
        cell = {"network": network, "setting": setting, "arm": arm, "seed": seed}
        lines = read_lines(given.record)
        if any(cell.items() <= line.items() for line in lines):
            continue
        line = cell | study(network, setting, arm, seed, given.out) | {"student": STUDENT} | made_with()
        write_lines(given.record, sorted([*lines, line], key=place_in_record))
        shown = (*cell, "agreement", "accuracy", "teacher_test_accuracy", "set_cpu_seconds")
        print(json.dumps({key: line[key] for key in (*shown, "student_cpu_seconds")}), flush=True)


if __name__ == "__main__":
    main()
