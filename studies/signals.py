"""Measure the students of experiments for the agreement estimate, and fit its law.

    python studies/signals.py measure mnist --data-dir data --runs runs/mnist-experiment
    python studies/signals.py measure better-mnist --twin inverted --data-dir data
    python studies/signals.py measure-carry --teachers teachers --data-dir cifar --runs runs/carry
    python studies/signals.py fit

`measure` adds a line to results/signal.json for each student that has none yet; run it once for each
experiment. `measure-carry` does so for students of studies/carry.py, on the images that they were compared
on. `fit` writes src/zskd/evaluation/agreement.json: the law from the lines of digits and MNIST alone, all
other data sets are only for testing; the range for teachers with batch-norm from all lines of such teachers.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from carry import load_images, load_teacher
from records import RESULTS, ROOT, Line, read_lines, write_lines
from zskd.core.files import write_json
from zskd.core.types import Images
from zskd.core.versions import source_commit
from zskd.data.datasets import load_data
from zskd.evaluation.agreement import Estimate, Law, Multiples, conclude, weakest_classes
from zskd.evaluation.metrics import predict
from zskd.evaluation.probes import Probes, Signals, make_probes, measure
from zskd.experiment.definition import Experiment, load_experiment, on_twin
from zskd.experiment.plan import plan_cells
from zskd.experiment.record import Record, read_records
from zskd.models.checkpoint import load_checkpoint
from zskd.models.classifier import Classifier
from zskd.transfer_set.manifest import REAL

LINES, FITTED = RESULTS / "signal.json", ROOT / "src" / "zskd" / "evaluation" / "agreement.json"
MULTIPLES = FITTED.with_name("multiples.json")
STATISTICS_TITLES = {
    "cifar10-train": "CIFAR-10",
    "digits-colour": "coloured digits",
    "digits-textured": "textured digits",
    "digits-pairs": "pairs of digits",
    "fashion-mnist": "Fashion-MNIST",
    "folder": "CIFAR-10, test images",
}
"""Data sets of teachers with batch-norm."""
TASKS = {
    "carry": "ResNet-20, CIFAR-10",
    "bench-colour-resnet8": "ResNet-8, coloured digits",
    "bench-colour-depthwise": "depthwise chain, coloured digits",
    "bench-colour-mobilenet": "MobileNet, coloured digits",
    "bench-colour-vgg8": "VGG-8, coloured digits",
    "bench-textured-resnet8": "ResNet-8, textured digits",
    "bench-pairs-resnet8": "ResNet-8, pairs of digits, 43 classes",
    "bench-fashion-bn": "LeNet-5 with batch-norm, Fashion-MNIST",
}
"""Experiments with teachers with batch-norm: a network and its data."""
CARRY = "cifar10-train"
"""Name of the data set of studies/carry.py: images held out of the training folder."""
FIT = ("digits", "mnist")
"""Data sets that the law is fitted on. The others must not influence it."""
NEAR = 5.0
"""The fit uses the students without data at most so many points below the best of them."""
CONFIDENCE = 0.9
"""Weight of the left-out errors that the interval covers."""
SLACK = 1.1
"""The law holds up to so many times the largest values of the fit."""


def measured_lines() -> list[Line]:
    """Return the lines of all measured students."""
    return read_lines(LINES)


def near(lines: Sequence[Line]) -> list[Line]:
    """Return the lines of students without data that are near the best of their data set."""
    free = [line for line in lines if not line["real"]]
    best: dict[str, float] = {}
    for line in free:
        best[line["dataset"]] = max(best.get(line["dataset"], 0.0), line["agreement"])
    return [line for line in free if line["agreement"] > best[line["dataset"]] - NEAR]


def log_ratio(line: Line) -> float:
    """Return log(true disagreement / missed share of the margins); no disagreement is half an image."""
    disagreement = max(1 - line["agreement"] / 100, 0.5 / line["test_images"])
    return math.log(disagreement / line["signals"]["unexplained"])


def left_out(lines: Sequence[Line]) -> list[tuple[float, float]]:
    """Return for each line the error (natural log) of a law fitted on the other data sets, and a weight."""
    groups = {name: [log_ratio(one) for one in lines if one["dataset"] == name] for name in FIT}
    found = []
    for name, ratios in groups.items():
        others = float(np.mean([np.mean(groups[other]) for other in FIT if other != name]))
        found += [(ratio - others, 1 / (len(FIT) * len(ratios))) for ratio in ratios]
    return found


def of_statistics(lines: Sequence[Line]) -> list[Line]:
    """Return the lines of students without data whose teacher has batch-norm."""
    return [line for line in lines if line["signals"].get("with_statistics") and not line["real"]]


def statistics_ratio(line: Line) -> float:
    """Return the disagreement on real images in multiples of that on impressions with statistics."""
    true = max(100 - line["agreement"], 50 / line["test_images"])
    return true / max(100 - line["signals"]["with_statistics"][1], 0.1)


def fit_multiples(lines: Sequence[Line]) -> Multiples:
    """Return what the ratios of all tasks are in: the middle nine tenths of each one, and some slack."""
    by_task: dict[str, list[float]] = {}
    used = of_statistics(lines)
    for line in used:
        by_task.setdefault(line["experiment"], []).append(statistics_ratio(line))
    ends = [np.quantile(ratios, [0.05, 0.95]) for ratios in by_task.values()]
    low, high = min(one[0] for one in ends), max(one[1] for one in ends)
    data = tuple(dict.fromkeys(STATISTICS_TITLES.get(line["dataset"], line["dataset"]) for line in used))
    return Multiples(round(float(low) / SLACK, 2), round(float(high) * SLACK, 2), data)


def fit(lines: Sequence[Line]) -> Law:
    """Fit the law: a factor, each data set with equal weight, and a spread covering the left-out errors."""
    used = [line for line in near(lines) if line["dataset"] in FIT]
    means = [np.mean([log_ratio(one) for one in used if one["dataset"] == name]) for name in FIT]
    errors = sorted((abs(error), weight) for error, weight in left_out(used))
    covered = np.cumsum([weight for _, weight in errors])
    missed = [line["signals"]["unexplained"] for line in used]
    return Law(
        factor=round(math.exp(float(np.mean(means))), 4),
        spread=round(math.exp(errors[int(np.searchsorted(covered, CONFIDENCE - 1e-9))][0]), 4),
        unexplained=(round(min(missed), 5), round(SLACK * max(missed), 5)),
        fragility=round(SLACK * max(line["signals"]["fragility"] for line in used), 4),
        classes=tuple(sorted({line["classes"] for line in used})),
        channels=tuple(sorted({line["channels"] for line in used})),
        data=("digits", "MNIST"),
    )


def concluded(line: Line, law: Law, multiples: Multiples | None = None) -> Estimate:
    """Return the estimate for a line."""
    signals = Signals(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in line["signals"].items()}
    )
    return conclude(signals, tuple(map(str, range(line["classes"]))), line["channels"], law, multiples)


def measured(record: Record, teacher: Classifier, student: Classifier, probes: Probes, test: Images) -> Line:
    """Return the line of one student; its true agreement must be that of its record.

    Args:
        record: of the student.
        teacher: of the student.
        student: read from the experiment's folder.
        probes: made for the teacher.
        test: test images (N, C, H, W) in [0, 1].
    """
    of_teacher = predict(teacher, test)
    same = predict(student, test) == of_teacher
    if abs(100 * float(same.double().mean()) - record.teacher_agreement) > 0.05:
        raise SystemExit(
            f"{record.cell}: the record is of other images or another student: check --runs and --data-dir"
        )
    return {
        "dataset": record.dataset,
        "experiment": record.experiment,
        "cell": record.cell,
        "arm": record.arm,
        "seed": record.seed,
        "real": record.method == REAL,
    } | facts(teacher, student, probes, same, of_teacher)


def facts(teacher: Classifier, student: Classifier, probes: Probes, same: Tensor, of_teacher: Tensor) -> Line:
    """Return the part of a line that is measured.

    Args:
        teacher: of the student.
        student: to be measured.
        probes: made for the teacher.
        same: whether both predict the same class of each real image (N,).
        of_teacher: the classes that the teacher predicts (N,).
    """
    by_class = [float(same[of_teacher == k].double().mean()) for k in range(teacher.classes)]
    signals = {
        key: value for key, value in asdict(measure(teacher, student, probes)).items() if value is not None
    }
    return {
        "agreement": 100 * float(same.double().mean()),
        "test_images": len(same),
        "worst_class": int(np.nanargmin(by_class)),
        "classes": teacher.classes,
        "channels": teacher.spec.shape[0],
        "signals": {
            key: [one if one is None else round(one, 6) for one in value]
            if isinstance(value, tuple)
            else round(value, 6)
            for key, value in signals.items()
        },
        "teacher_sha256": teacher.fingerprint(),
        "student_sha256": student.fingerprint(),
        "commit": source_commit(),
    }


def measure_carry(teachers: Path, cifar: Path, runs: Path) -> None:
    """Add the lines of the students of studies/carry.py."""
    teacher, images = load_teacher(teachers).freeze(), load_images(cifar).validation.images
    probes, of_teacher, lines = make_probes(teacher), predict(teacher, images), measured_lines()
    known = {line["student_sha256"] for line in lines}
    for folder in sorted(card.parent for card in runs.glob("*/card.json")):
        student = load_checkpoint(folder)[0].freeze()
        if student.fingerprint() in known:
            continue
        arm, seed = folder.name.split("-")[0], int(folder.name.rpartition("-")[2])
        same = predict(student, images) == of_teacher
        line = {"dataset": CARRY, "experiment": "carry", "cell": folder.name, "arm": arm, "seed": seed}
        line |= {"real": arm == "real"}
        lines.append(line | facts(teacher, student, probes, same, of_teacher))
    save(lines)


def save(lines: list[Line]) -> None:
    """Write all lines."""
    lines.sort(key=lambda line: (line["dataset"], line["cell"], line["student_sha256"]))
    write_lines(LINES, lines)
    print(f"{len(lines)} students in {LINES.name}")


def measure_experiment(experiment: Experiment, runs: Path, results: Path) -> None:
    """Add the lines of an experiment's students."""
    recipe = plan_cells(experiment)[0].recipe
    test = load_data(recipe.data, recipe.teacher.shape).test.images
    lines = measured_lines()
    known = {line["student_sha256"] for line in lines}
    students = [one for one in read_records(results, experiment.name) if one.arm != "teacher"]
    todo = [one for one in students if one.student_sha256 not in known]
    for folder in sorted((runs / "teachers").glob("*/card.json")):
        teacher = load_checkpoint(folder.parent)[0].freeze()
        own = [one for one in todo if one.teacher_sha256 == teacher.fingerprint()]
        probes = make_probes(teacher) if own else None
        for record in own:
            made = runs / "cells" / f"{record.cell}-{record.key[:8]}" / "student"
            if probes is not None and (made / "card.json").is_file():
                student = load_checkpoint(made)[0].freeze()
                lines.append(measured(record, teacher, student, probes, test))
    save(lines)


def named_worst(line: Line) -> bool:
    """Return whether the class with the lowest agreement is among the classes that the estimate lists."""
    names = tuple(map(str, range(line["classes"])))
    return str(line["worst_class"]) in weakest_classes(line["signals"]["by_class"], names)


def main() -> None:
    """Measure, or fit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("measure", "measure-carry", "fit"))
    parser.add_argument("experiment", nargs="?")
    parser.add_argument("--twin", choices=("transposed", "inverted", "permuted"))
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--runs", type=Path, help="folder of the experiment; absent: runs/NAME-experiment")
    parser.add_argument("--teachers", type=Path, default=Path("teachers"))
    parser.add_argument("--results", type=Path, default=Path("results"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "fit":
        write_json(FITTED, asdict(fit(measured_lines())))
        write_json(MULTIPLES, asdict(fit_multiples(measured_lines())))
    elif args.what == "measure-carry":
        measure_carry(args.teachers, Path(args.data_dir or "cifar"), args.runs or Path("runs/carry"))
    elif args.experiment is None:
        parser.error("name the experiment to measure")
    else:
        settings = {"data": {"dir": args.data_dir}} if args.data_dir else {}
        experiment = load_experiment(args.experiment, settings)
        if args.twin:
            experiment = on_twin(experiment, args.twin)
        runs = args.runs or Path("runs") / f"{experiment.name}-experiment"
        measure_experiment(experiment, runs, args.results)


if __name__ == "__main__":
    main()
