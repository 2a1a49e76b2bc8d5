"""What do students show of the training images? Writes results/audit.json.

    python studies/audit.py --out runs/audit
    python studies/audit.py --out runs/audit --only mnist-few

The cells:

- `mnist`: teacher, student and impressions of the arm `default` of `zskd reproduce better-mnist`, seed 0.
- `mnist-test`: the same with test images as others, which are from other writers.
- `mnist-few`: a teacher that was trained on 2,000 images alone, the members, until it knew them by heart, and
  a student on impressions of it.
- `cifar`: a public ResNet-20 and a student of `studies/carry.py` on its impressions (`zskd_bn-features`).
- `cifar-real`, a control of the distances: the same on real training images, of which many are members.

Cells of MNIST are tested with and without a reference: a LeNet-5 that was trained on as many other training
images as `mnist-few`. Members and others are labelled. Others are training images that were held out, but
test images in `mnist-test` and of CIFAR-10: such a line is a use of a test set; nothing was chosen by it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from carry import WEIGHTS, load_teacher
from records import RESULTS, Line, made_with, read_lines, write_lines
from zskd.config.data import DataConfig
from zskd.config.distillation import DistillConfig
from zskd.config.loading import load_recipe
from zskd.config.training import TeacherConfig
from zskd.data.datasets import Dataset, Split, load_data
from zskd.data.folder import class_folders, read_image
from zskd.distillation.build import build_student
from zskd.distillation.spec import StudentSpec
from zskd.evaluation.audit import Audit, audit_student
from zskd.models.checkpoint import CARD, Card, load_checkpoint, save_checkpoint
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import build, describe, fresh_weights
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.spec import SetSpec
from zskd.teacher.training import train_teacher
from zskd.transfer_set.dataset import TransferSet

LINES = RESULTS / "audit.json"
GREY, RGB = (1, 32, 32), (3, 32, 32)
FEW = 2_000
"""Members, and others, of MNIST; also the training images of `mnist-few`."""
PER_CLASS = 500
"""Members of each class of CIFAR-10, and others."""
BY_HEART = TeacherConfig(epochs=100, batch_size=64, learning_rate=1e-3)
STUDENT = StudentSpec(distill=DistillConfig(steps=1_000))


@dataclass(frozen=True)
class Cell:
    """What is tested."""

    teacher: Classifier
    student: Classifier
    impressions: TransferSet
    members: Split
    others: Split
    trained_on: int
    """Training images of the teacher."""
    reference: Classifier | None = None


@cache
def mnist(data_dir: Path) -> Dataset:
    """Return MNIST without the validation images that no teacher is trained on."""
    return load_data(DataConfig(name="mnist", dir=data_dir), GREY)


def part(split: Split, first: int, count: int) -> Split:
    """Return some images that follow each other."""
    rows = slice(first, first + count)
    return Split(split.images[rows], split.labels[rows])


def lenet(given: argparse.Namespace, first: int) -> Classifier:
    """Return a LeNet-5 that knows some training images by heart, from `first` on."""
    folder = given.out / f"lenet-{first}"
    if not (folder / CARD).is_file():
        data, architecture = mnist(given.data_dir), describe("lenet5", shape=GREY, classes=10)
        module = fresh_weights(lambda: build(architecture, run_code=False), seed=first)
        untrained = Classifier(module, spec=InputSpec(shape=GREY), class_names=data.class_names)
        own = Dataset(part(data.train, first, FEW), data.validation, data.test, data.class_names, FEW)
        network = train_teacher(untrained, own, BY_HEART, seed=first)
        save_checkpoint(network, Card(architecture=architecture, origin={"how": "trained"}), folder)
    return load_checkpoint(folder)[0].freeze()


def of_mnist(given: argparse.Namespace, others: str) -> Cell:
    """Return the experiment's teacher and student."""
    data = mnist(given.data_dir)

    def found(pattern: str) -> Path:
        (folder,) = given.mnist.glob(pattern)
        return folder

    return Cell(
        load_checkpoint(found("teachers/seed-0-*"))[0],
        load_checkpoint(found("cells/default-40-0-*/student"))[0],
        TransferSet(found("sets/zskd-24000-*[0-9a-f]")),
        part(data.train, 0, FEW),
        part(getattr(data, others), 0, FEW),
        len(data.train),
        lenet(given, FEW),
    )


def of_few(given: argparse.Namespace) -> Cell:
    """Return a teacher that knows its training images by heart, and its student."""
    data, teacher = mnist(given.data_dir), lenet(given, 0)
    recipe = load_recipe("mnist", {})
    spec = SetSpec(count=FEW, targets=recipe.targets, synthesis=recipe.synthesis)
    impressions = build_transfer_set(teacher, spec, given.out / "set", workers=1)
    student = build_student(teacher, STUDENT, impressions, given.out / "student")
    members, others = part(data.train, 0, FEW), part(data.validation, 0, FEW)
    return Cell(teacher, student, impressions, members, others, FEW, lenet(given, FEW))


def of_cifar(given: argparse.Namespace, source: str) -> Cell:
    """Return the public network and a student on one source of images."""
    members, others = (pictures(given.cifar / name) for name in ("train", "test"))
    return Cell(
        load_teacher(given.teachers),
        load_checkpoint(given.carry / f"{source}-features-600-bfloat16-0")[0],
        TransferSet(given.carry / f"set-{source}-bfloat16-0"),
        members,
        others,
        50_000,
    )


@cache
def pictures(root: Path) -> Split:
    """Read the first images of each class."""
    names = class_folders(root)
    files = [path for name in names for path in sorted((root / name).iterdir())[:PER_CLASS]]
    pixels = np.stack([read_image(path, RGB) for path in files])
    return Split(torch.from_numpy(pixels), torch.arange(len(names)).repeat_interleave(PER_CLASS))


CELLS: dict[str, Callable[[argparse.Namespace], Cell]] = {
    "mnist": lambda given: of_mnist(given, "validation"),
    "mnist-test": lambda given: of_mnist(given, "test"),
    "mnist-few": of_few,
    "cifar": lambda given: of_cifar(given, "zskd_bn"),
    "cifar-real": lambda given: of_cifar(given, "real"),
}


def measured(name: str, cell: Cell, reference: Classifier | None) -> Line:
    """Return the line of a cell."""
    found = audit_student(
        cell.teacher,
        cell.student,
        cell.members.images,
        cell.others.images,
        (cell.members.labels, cell.others.labels),
        reference=reference,
        transfer_set=cell.impressions,
    )
    return {
        "cell": name,
        "reference": reference is not None,
        "members": len(cell.members),
        "others": len(cell.others),
        "trained_on": cell.trained_on,
        "impressions": len(cell.impressions),
        "audit": found.to_json(),
        **made_with(),
    }


def main() -> None:
    """Measure the cells that have no line yet, and write a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/audit"))
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument(
        "--mnist", type=Path, default=Path("runs/better-mnist"), help="folder of the experiment"
    )
    parser.add_argument("--carry", type=Path, default=Path("runs/carry"), help="folder of studies/carry.py")
    parser.add_argument("--teachers", type=Path, default=Path("teachers"), help=f"folder of {WEIGHTS}")
    parser.add_argument("--cifar", type=Path, default=Path("cifar"))
    parser.add_argument("--only", nargs="+", choices=list(CELLS), default=list(CELLS))
    parser.add_argument("--record", type=Path, default=LINES)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.only:
        if any(line["cell"] == name for line in read_lines(given.record)):
            continue
        cell = CELLS[name](given)
        references = [None] if cell.reference is None else [None, cell.reference]
        lines = [measured(name, cell, reference) for reference in references]
        order = list(CELLS)
        write_lines(
            given.record,
            sorted([*read_lines(given.record), *lines], key=lambda line: order.index(line["cell"])),
        )
        for line in lines:
            told = Audit.model_validate(line["audit"]).sentences
            print(name, "with a reference" if line["reference"] else "", *told, sep="\n  ", flush=True)


if __name__ == "__main__":
    main()
