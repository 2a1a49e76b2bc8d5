"""What narrower copies of 20 networks of torchvision, timm and transformers, and of a public ResNet-20, are.

    python studies/narrow.py --resnet20 resnet20-12fca82f.th --out runs/narrow
    python studies/narrow.py --out runs/narrow --only resnet18 "swin tiny" --student params:0.25

Networks and sizes are those of `teachers.py`, with random weights. Each gets the student `narrow:0.5`,
untrained, which is timed in turns with its teacher; its checkpoint is opened in a fresh process, which
compares the logits. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from records import RESULTS, Line, read_lines, write_lines
from teachers import CASES, LIBRARIES, Case, made_with, save_weights
from zskd.config.sizes import Share, read_size
from zskd.core.errors import ZskdError, one_line
from zskd.distillation.architecture import fresh_student
from zskd.evaluation.gain import measure_gain
from zskd.evaluation.inspection import count_multiply_adds
from zskd.models.checkpoint import Card, load_checkpoint, save_checkpoint
from zskd.models.classifier import Classifier
from zskd.models.narrow.copies import copy_teacher
from zskd.teacher.opening import open_teacher

LINES = RESULTS / "narrow.json"
PUBLIC = Case("resnet20, public weights", "zskd", "resnet20", 32)
EVERY = (*CASES, PUBLIC)


def open_case(case: Case, folder: Path, resnet20: Path) -> Classifier:
    """Return a network as a teacher, opened by name from a file of weights."""
    if case is PUBLIC:
        normalisation = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
        return open_teacher(f"resnet20@{resnet20}", **normalisation)[0]
    return open_teacher(save_weights(case, folder), shape=(3, case.size, case.size))[0]


def study(case: Case, teacher: Classifier, size: Share, folder: Path) -> Line:
    """Make a narrower copy, keep it, open it in a fresh process; return what it is, or why there is none."""
    line: Line = {
        "network": case.title,
        "library": case.library,
        "name": case.name,
        "size": case.size,
        "student": size.name,
        "parameters": teacher.parameters_count,
        "multiply_adds": count_multiply_adds(teacher),
    }
    started = time.process_time()
    try:
        copy = copy_teacher(teacher, size)
        line["seconds"] = round(time.process_time() - started, 2)
        assert copy.architecture is not None
        student = fresh_student(copy.architecture, teacher, seed=0).freeze()
        save_checkpoint(student, Card(architecture=copy.architecture), folder)
        line |= {
            "how": copy.how,
            "student_parameters": student.parameters_count,
            "student_multiply_adds": count_multiply_adds(student),
            "card_bytes": (folder / "card.json").stat().st_size,
            "us_per_image": times(teacher, student),
        }
        images = torch.rand(4, *teacher.spec.shape, generator=torch.Generator().manual_seed(0))
        torch.save({"images": images, "logits": student(images)}, folder / "pair.pt")
        command = [sys.executable, __file__, "--compare", str(folder)]
        told = subprocess.run(command, capture_output=True, text=True, check=True)
        line["difference"] = json.loads(told.stdout)
    except ZskdError as error:
        line["seconds"] = round(time.process_time() - started, 2)
        line["why_not"] = str(error)
    except Exception as error:  # a fault of zskd, which the record should show
        line["fault"] = f"{type(error).__name__}: {one_line(error)[:300]}"
    return line


def times(teacher: Classifier, student: Classifier) -> list[Line]:
    """Return the median µs per image of teacher and student, timed in turns, for one image and for many."""
    gain = measure_gain(teacher, student)
    pairs = zip(gain.teacher.latency, gain.student.latency, strict=True)
    return [{"batch": one.batch, "teacher": one.median, "student": two.median} for one, two in pairs]


def compare(folder: Path) -> float:
    """Return the largest difference of a checkpoint's logits from those that its maker saved beside it."""
    pair = torch.load(folder / "pair.pt")
    student, _ = load_checkpoint(folder)
    with torch.no_grad():
        return float((student.freeze()(pair["images"]) - pair["logits"]).abs().max())


def main() -> None:
    """Study all networks, or those that are named, and write one line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/narrow"))
    parser.add_argument("--student", default="narrow:0.5")
    parser.add_argument("--resnet20", type=Path, default=Path("resnet20-12fca82f.th"))
    parser.add_argument("--only", nargs="+", choices=[case.title for case in EVERY], default=None)
    parser.add_argument("--record", type=Path, default=LINES)
    parser.add_argument("--compare", type=Path, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.compare is not None:
        print(json.dumps(compare(given.compare)))
        return
    size = read_size(given.student)
    if not isinstance(size, Share):
        parser.error("the student must be a share of its teacher, such as narrow:0.5")
    order = [case.title for case in EVERY]
    facts = made_with(LIBRARIES)
    for number, case in enumerate(EVERY):
        if given.only and case.title not in given.only:
            continue
        folder = given.out / str(number)
        line = (
            study(case, open_case(case, folder / "source", given.resnet20), size, folder / "student") | facts
        )
        others = [one for one in read_lines(given.record) if one["network"] != case.title]
        write_lines(given.record, sorted([*others, line], key=lambda one: order.index(one["network"])))
        print(json.dumps({key: value for key, value in line.items() if key not in facts}), flush=True)


if __name__ == "__main__":
    main()
