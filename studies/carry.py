"""Which pictures carry over? Each source of pictures alone, beside procedural ones, and with features pulled.

    python studies/carry.py --teachers teachers --cifar cifar --out runs/carry
    python studies/carry.py --out runs/carry --steps 3000 --only real zskd_bn

The public ResNet-20 (`resnet20-12fca82f.th` of github.com/akamaster/pytorch_resnet_cifar10) and a student
`narrow:0.5` with the start from the teacher. All students have the same training, but for a loss of features
in the cells `features`. Agreement with the teacher
is measured on the validation images, a fixed tenth of the training folder of CIFAR-10; its test folder is not
opened. `real` and the noises are controls. What is finished is not made again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

from records import RESULTS, made_with, read_lines, write_lines
from zskd.config.data import DataConfig
from zskd.config.distillation import DistillConfig, FeaturesConfig, GeneratorConfig
from zskd.config.loading import load_recipe
from zskd.config.sources import FreshConfig
from zskd.config.synthesis import SynthesisConfig
from zskd.config.transforms import AugmentConfig
from zskd.core.precision import Precision
from zskd.data.datasets import Dataset, load_data
from zskd.distillation.build import build_student, passes_of
from zskd.distillation.spec import StudentSpec
from zskd.evaluation.metrics import agreement
from zskd.models.classifier import Classifier
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.real import build_real_set
from zskd.synthesis.spec import SetSpec
from zskd.teacher.opening import open_teacher
from zskd.transfer_set.dataset import TransferSet

LINES = RESULTS / "carry.json"
STUDENT = "narrow:0.5"
WEIGHTS = "resnet20-12fca82f.th"
SHAPE = (3, 32, 32)
MANY, FEW, MORE = 10_000, 1_000, 3_000
"""Images of a set that is drawn, of one that is optimised, and of one in a third of the steps."""
BESIDE = 0.5
"""Share of procedural pictures, drawn anew for every batch, beside a source."""
WEIGHT = 100.0
"""Of the loss `aligned` of features."""
HOW = ("alone", "procedural", "features", "both", "jpeg")
"""Only this source; half of each batch procedural; only this source, and features are pulled; both; features
are pulled, and each image was saved as JPEG."""
PULLED = ("features", "both", "jpeg")


@dataclass(frozen=True)
class Arm:
    """One source of pictures."""

    count: int
    preset: str | None = None
    """Of the method; None: start images as they are, or real images."""
    start: str = "shapes"
    candidates: int = 1
    generator: str | None = None
    """Preset of a generator that makes three quarters of each batch; the rest is the set of start images."""
    against: str | None = None
    """Arm with the student that the images are made against: the one with features, after 600 steps."""


ARMS = {
    "real": Arm(MANY),
    "white": Arm(MANY, start="uniform"),
    "shapes": Arm(MANY),
    "procedural": Arm(MANY, start="procedural"),
    "balanced": Arm(MANY, start="procedural", candidates=4),
    "boundary": Arm(MANY, "boundary", start="procedural", candidates=4),
    "zskd": Arm(FEW, "default"),
    "zskd_bn": Arm(FEW, "zskd_bn"),
    "short": Arm(MORE, "batch_norm", start="procedural"),
    "deepinversion": Arm(FEW, "deepinversion"),
    "adi": Arm(FEW, "adi", against="deepinversion"),
    "dfq": Arm(MANY, start="procedural", generator="dfq"),
    "conditional": Arm(MANY, start="procedural", generator="conditional"),
}
NOISE = ("white", "shapes", "procedural", "balanced", "dfq", "conditional")
"""Arms whose set is start images."""


def set_spec(name: str, seed: int, precision: Precision, out: Path) -> SetSpec:
    """Return the transfer set of an arm that is not `real`; `out` has the students."""
    arm = ARMS[name]
    if arm.preset is None or name in NOISE:
        config = SynthesisConfig(start=arm.start, candidates=arm.candidates, precision=precision)
        return SetSpec(method="noise", count=arm.count, seed=seed, synthesis=config)
    recipe = load_recipe(None, {"preset": arm.preset})
    config = replace(
        recipe.synthesis, start=arm.start, candidates=arm.candidates, noise_share=0.0, precision=precision
    )
    settings = dict(recipe.method_settings)
    if arm.against is not None:
        settings["student"] = str(student_folder(arm.against, "features", 600, seed, precision, out))
    return SetSpec(
        method=recipe.method,
        method_settings=settings,
        count=arm.count,
        seed=seed,
        targets=recipe.targets,
        synthesis=config,
    )


def training(name: str, steps: int, how: str, precision: Precision) -> DistillConfig:
    """Return the training of a student: the same for all arms, but for the sources of its batches.

    Args:
        name: of the arm.
        steps: of the training.
        how: one of `HOW`.
        precision: of both networks.
    """
    generator = GeneratorConfig()
    if ARMS[name].generator is not None:
        of = load_recipe(None, {"preset": ARMS[name].generator}).distill.generator
        generator = replace(of, share=0.75)
    return DistillConfig(
        steps=steps,
        batch_size=64,
        precision=precision,
        tau=4.0,
        augment=AugmentConfig(crop=0.125, flip=0.5, mixup=0.5, jpeg=1.0 if how == "jpeg" else 0.0),
        generator=generator,
        fresh=FreshConfig(share=BESIDE if how in ("procedural", "both") else 0.0, start="procedural"),
        features=FeaturesConfig(loss="aligned", weight=WEIGHT if how in PULLED else 0.0),
    )


@cache
def load_images(cifar: Path) -> Dataset:
    """Return CIFAR-10 from its folders."""
    return load_data(DataConfig(name="folder", dir=cifar), SHAPE)


@cache
def load_teacher(teachers: Path) -> Classifier:
    """Return the public network with the normalisation that its authors give."""
    source = f"resnet20@{teachers / WEIGHTS}"
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return open_teacher(source, shape=SHAPE, mean=mean, std=std)[0]


def make_set(name: str, seed: int, given: argparse.Namespace) -> TransferSet:
    """Return the transfer set of an arm."""
    teacher, folder = load_teacher(given.teachers), given.out / f"set-{name}-{given.precision}-{seed}"
    if name == "real":
        train = load_images(given.cifar).train
        return build_real_set(teacher, train, folder, count=MANY, seed=seed)
    return build_transfer_set(teacher, set_spec(name, seed, given.precision, given.out), folder, workers=1)


def student_folder(name: str, how: str, steps: int, seed: int, precision: Precision, out: Path) -> Path:
    """Return where a student lies."""
    middle = "" if how == "alone" else f"-{how}"
    return out / f"{name}{middle}-{steps}-{precision}-{seed}"


def study(name: str, how: str, steps: int, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Return the agreement of one student, the passes that it took, and the core seconds."""
    teacher, began = load_teacher(given.teachers), time.process_time()
    images = make_set(name, seed, given)
    set_seconds, began = time.process_time() - began, time.process_time()
    folder = student_folder(name, how, steps, seed, given.precision, given.out)
    spec = StudentSpec(student=STUDENT, seed=seed, distill=training(name, steps, how, given.precision))
    student = build_student(teacher, spec, images, folder)
    seconds = time.process_time() - began
    found = agreement(teacher, student, load_images(given.cifar).validation.images)
    passes = {"set": images.manifest.passes, "student": passes_of(folder)}
    return {
        "images": len(images),
        "agreement": found.percent,
        "n": found.n,
        "passes": {
            part: {stage: counts.to_json() for stage, counts in (of or {}).items()}
            for part, of in passes.items()
        },
        "set_cpu_seconds": round(set_seconds, 1),
        "student_cpu_seconds": round(seconds, 1),
    }


def main() -> None:
    """Train the students that have no line yet, and write a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/carry"))
    parser.add_argument("--teachers", type=Path, default=Path("teachers"))
    parser.add_argument("--cifar", type=Path, default=Path("cifar"))
    parser.add_argument("--steps", type=int, nargs="+", default=[600])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--how", nargs="+", choices=HOW, default=HOW)
    parser.add_argument("--precision", choices=get_args(Precision), default="bfloat16")
    parser.add_argument("--record", type=Path, default=LINES)
    given = parser.parse_args()
    for seed, steps, how, name in itertools.product(given.seeds, given.steps, given.how, given.only):
        cell = {
            "arm": name,
            "how": how,
            "steps": steps,
            "seed": seed,
            "precision": given.precision,
        }
        lines = read_lines(given.record)
        if any(cell.items() <= line.items() for line in lines):
            continue
        line = cell | study(name, how, steps, seed, given) | made_with()
        order = list(ARMS)
        write_lines(
            given.record,
            sorted(
                [*lines, line],
                key=lambda one: (
                    order.index(one["arm"]),
                    HOW.index(one["how"]),
                    one["steps"],
                    one["precision"],
                    one["seed"],
                ),
            ),
        )
        shown = (*cell, "agreement", "set_cpu_seconds", "student_cpu_seconds")
        print(json.dumps({key: line[key] for key in shown}), flush=True)


if __name__ == "__main__":
    main()
