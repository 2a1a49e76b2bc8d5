"""What does the start from the teacher bring, on real images? Four networks, numbers of steps and seeds.

    python studies/starts.py --teachers teachers --cifar cifar --out runs/starts
    python studies/starts.py --teachers teachers --cifar cifar --out runs/starts --steps 3000 --batch-size 64

A student `narrow:0.5` of each teacher is distilled on real images, from the teacher's weights and from random
ones; nothing is synthesised. The folder of teachers holds `resnet20-12fca82f.th`
(github.com/akamaster/pytorch_resnet_cifar10), that of CIFAR-10 has `train` and `test` with one folder of
pictures for each class. The other teachers are trained here, on digits in colours. What is finished is not
made again. Cells of 0 steps show students before they are distilled.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Generator

from records import RESULTS, Line, made_with, read_lines, write_lines
from zskd.config.data import DataConfig
from zskd.config.distillation import DistillConfig
from zskd.config.training import TeacherConfig
from zskd.data.datasets import Dataset, Split, load_data
from zskd.distillation.architecture import describe_student, fresh_student
from zskd.distillation.build import build_student
from zskd.distillation.initialisation.from_teacher import initialise_from_teacher
from zskd.distillation.spec import StudentSpec
from zskd.evaluation.metrics import accuracy, agreement
from zskd.models.checkpoint import CARD, Card, Origin, save_checkpoint
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import build, describe, fresh_weights
from zskd.synthesis.real import build_real_set
from zskd.teacher.opening import open_teacher
from zskd.teacher.training import train_teacher

LINES = RESULTS / "starts.json"
STUDENT = "narrow:0.5"
STARTS = ("teacher", "random")


@dataclass(frozen=True)
class Case:
    """One teacher."""

    title: str
    network: str
    """Name of the network."""
    data: str
    """Its images: cifar10 or digits."""
    size: int
    """Height and width of these images."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of its inputs."""
        return 3, self.size, self.size


CASES = (
    Case("resnet20", "resnet20", "cifar10", 32),
    Case("chain", "lenet5", "digits", 32),
    Case("depthwise", "mobilenet(width=0.25)", "digits", 32),
    Case(
        "vit",
        "timm:vit_tiny_patch16_224(depth=4,embed_dim=96,img_size=16,patch_size=2)",
        "digits",
        16,
    ),
)
WEIGHTS = "resnet20-12fca82f.th"
TEACHER = TeacherConfig(epochs=40.0, batch_size=32)
"""Training of the teachers on digits."""
FEW = {"cifar10": 10_000, "digits": 1_100}
"""Images of each transfer set, drawn from the training images."""


@cache
def load_images(case: Case, folder: Path | None) -> Dataset:
    """Return CIFAR-10 from its folders, or digits, each in a colour of its own on a dark ground."""
    if case.data == "cifar10":
        return load_data(DataConfig(name="folder", dir=folder), case.shape)
    grey = load_data(DataConfig(name="digits"), (1, case.size, case.size))
    splits = (grey.train, grey.validation, grey.test)
    train, validation, test = (_in_colour(split, seed) for seed, split in enumerate(splits))
    return Dataset(train, validation, test, grey.class_names, grey.train_size)


def _in_colour(split: Split, seed: int) -> Split:
    colours = 0.3 + 0.7 * torch.rand(len(split), 3, 1, 1, generator=Generator().manual_seed(seed))
    return Split(split.images * colours, split.labels)


def open_or_train(case: Case, folder: Path, given: argparse.Namespace) -> Classifier:
    """Return a teacher; one for digits is trained once."""
    if case.data == "cifar10":
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        source = f"{case.network}@{given.teachers / WEIGHTS}"
        return open_teacher(source, shape=case.shape, mean=mean, std=std)[0]
    if not (folder / CARD).is_file():
        data = load_images(case, None)
        architecture = describe(case.network, shape=case.shape, classes=10)
        network = fresh_weights(lambda: build(architecture, run_code=True), seed=0)
        classifier = Classifier(network, spec=InputSpec(shape=case.shape, mean=(0.2,), std=(0.3,)))
        trained = train_teacher(classifier, data, TEACHER, seed=0)
        save_checkpoint(
            trained, Card(architecture=architecture, origin=Origin(how="trained", seed=0)), folder
        )
    return open_teacher(folder)[0]


def study(case: Case, start: str, steps: int, seed: int, given: argparse.Namespace) -> Line:
    """Return agreement and accuracy of one student; of 0 steps, before it is distilled."""
    data = load_images(case, given.cifar)
    teacher = open_or_train(case, given.out / case.title / "teacher", given)
    count = given.images or FEW[case.data]
    real = build_real_set(
        teacher, data.train, given.out / case.title / f"set-{count}-{seed}", count=count, seed=seed
    )
    config = DistillConfig(start=start, steps=steps or 600, batch_size=given.batch_size)
    began = time.process_time()
    if steps:
        folder = given.out / case.title / f"{start}-{steps}-{count}-{given.batch_size}-{seed}"
        spec = StudentSpec(student=STUDENT, seed=seed, distill=config)
        student = build_student(teacher, spec, real, folder)
    else:
        fresh = fresh_student(describe_student(STUDENT, teacher), teacher, seed)
        if start == "teacher":
            begun = initialise_from_teacher(teacher, fresh.module, real, seed=seed, training=config)
            fresh = Classifier(begun.student, spec=teacher.spec, class_names=teacher.class_names)
        student = fresh.freeze()
    return {
        "images": count,
        "agreement": agreement(teacher, student, data.test.images).percent,
        "accuracy": accuracy(student, data.test).percent,
        "teacher_accuracy": accuracy(teacher, data.test).percent,
        "parameters": student.parameters_count,
        "teacher_parameters": teacher.parameters_count,
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def main() -> None:
    """Train the students that have no line yet, and write a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/starts"))
    parser.add_argument("--teachers", type=Path, default=Path("teachers"))
    parser.add_argument("--cifar", type=Path, default=Path("cifar"))
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 600])
    parser.add_argument("--batch-size", type=int, default=DistillConfig().batch_size)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=None, help="images of each set")
    parser.add_argument("--only", nargs="+", choices=[case.title for case in CASES], default=None)
    parser.add_argument("--record", type=Path, default=LINES)
    given = parser.parse_args()
    chosen = [case for case in CASES if given.only is None or case.title in given.only]
    for case, steps, seed, start in itertools.product(chosen, given.steps, given.seeds, STARTS):
        cell = {
            "network": case.title,
            "steps": steps,
            "batch_size": given.batch_size,
            "seed": seed,
            "start": start,
            "student": STUDENT,
        }
        lines = read_lines(given.record)
        if any(cell.items() <= line.items() for line in lines):
            continue
        line = cell | study(case, start, steps, seed, given) | made_with()
        order = [one.title for one in CASES]
        lines = sorted(
            [*lines, line],
            key=lambda one: (order.index(one["network"]), one["steps"], one["batch_size"], one["seed"]),
        )
        write_lines(given.record, lines)
        print(
            json.dumps({key: line[key] for key in (*cell, "agreement", "accuracy", "cpu_seconds")}),
            flush=True,
        )


if __name__ == "__main__":
    main()
