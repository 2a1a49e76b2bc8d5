"""What 20 networks of torchvision, timm and transformers give as teachers, from `inspect` to a student.

    python studies/teachers.py --out runs/teachers
    python studies/teachers.py --out runs/teachers --only resnet18 "deit tiny, distilled"

Each network gets random weights, which its own library saves; zskd then opens them by name, as a user does.
So the lines tell which networks can be used and how long it takes, not how good a student becomes. Nothing is
downloaded. Use a new folder for times that count: what is finished in it is not made again.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from records import RESULTS, Line, read_lines, write_lines
from zskd.config.distillation import DistillConfig
from zskd.config.synthesis import SynthesisConfig
from zskd.core.code import format_call
from zskd.core.device import processor
from zskd.core.errors import ZskdError, one_line
from zskd.core.extras import import_extra
from zskd.core.versions import source_commit, versions
from zskd.distillation.build import build_student
from zskd.distillation.spec import StudentSpec
from zskd.evaluation.inspection import inspect_teacher
from zskd.evaluation.metrics import agreement
from zskd.models.classifier import Classifier
from zskd.models.factory import build, fresh_weights
from zskd.models.libraries.timm import TimmNetwork
from zskd.models.libraries.torchvision import TorchvisionNetwork
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.spec import SetSpec
from zskd.teacher.opening import open_teacher
from zskd.transfer_set.dataset import TransferSet

LINES = RESULTS / "teachers.json"
CLASSES, COUNT, STEPS = 10, 24, 20
"""Classes of each teacher, images of each set, steps of each student."""
METHODS = ("zskd", "noise")
"""The second is used where a network has no head for the first."""
LIBRARIES = ("timm", "torchvision", "transformers")


@dataclass(frozen=True)
class Case:
    """One network."""

    title: str
    library: str
    name: str
    """Name in the library; for transformers, the stem of its classes: "ViT"."""
    size: int
    """Height and width of its images."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments of the network, or its configuration."""


CASES = (
    Case("resnet18", "torchvision", "resnet18", 64),
    Case("resnet50", "torchvision", "resnet50", 64),
    Case("mobilenet v2", "torchvision", "mobilenet_v2", 64),
    Case("mobilenet v3 small", "torchvision", "mobilenet_v3_small", 64),
    Case("efficientnet b0", "torchvision", "efficientnet_b0", 64),
    Case("densenet121", "torchvision", "densenet121", 64),
    Case("squeezenet 1.1", "torchvision", "squeezenet1_1", 64),
    Case("shufflenet v2 x0.5", "torchvision", "shufflenet_v2_x0_5", 64),
    Case("mnasnet 0.5", "torchvision", "mnasnet0_5", 64),
    Case("vgg11, batch-norm", "torchvision", "vgg11_bn", 64),
    Case("googlenet, auxiliary outputs", "torchvision", "googlenet", 64),
    Case("convnext tiny", "torchvision", "convnext_tiny", 64),
    Case("swin tiny", "torchvision", "swin_t", 64),
    Case("resnet10t", "timm", "resnet10t", 64),
    Case("vit tiny", "timm", "vit_tiny_patch16_224", 64, {"img_size": 64}),
    Case("deit tiny, distilled", "timm", "deit_tiny_distilled_patch16_224", 64, {"img_size": 64}),
    Case("mobilevit xxs", "timm", "mobilevit_xxs", 64),
    Case(
        "vit of transformers",
        "transformers",
        "ViT",
        32,
        {
            "image_size": 32,
            "patch_size": 4,
            "hidden_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 128,
        },
    ),
    Case(
        "convnext v2 of transformers",
        "transformers",
        "ConvNextV2",
        64,
        {"image_size": 64, "depths": [2, 2, 6, 2], "hidden_sizes": [40, 80, 160, 320]},
    ),
    Case("mobilenet v2 of transformers", "transformers", "MobileNetV2", 64, {"image_size": 64}),
)


def save_weights(case: Case, folder: Path) -> str:
    """Save random weights with the library of a network, and return the name under which zskd opens them."""
    if case.library == "transformers":
        library = import_extra("transformers")
        labels = {number: f"class {number}" for number in range(CLASSES)}
        config = getattr(library, f"{case.name}Config")(id2label=labels, **case.arguments)
        network = fresh_weights(
            lambda: getattr(library, f"{case.name}ForImageClassification")(config), seed=0
        )
        network.save_pretrained(folder)
        side = {"height": case.size, "width": case.size}
        library.ViTImageProcessor(size=side).save_pretrained(folder)
        return f"hf:{folder}"
    arguments = {"num_classes": CLASSES, **case.arguments}
    architecture = (
        TimmNetwork(timm=case.name, arguments=arguments)
        if case.library == "timm"
        else TorchvisionNetwork(torchvision=case.name, arguments=arguments)
    )
    folder.mkdir(parents=True, exist_ok=True)
    network = fresh_weights(lambda: build(architecture, run_code=False), seed=0)
    torch.save(network.state_dict(), folder / "weights.pth")
    return f"{case.library}:{format_call(case.name, arguments)}@{folder / 'weights.pth'}"


def study(case: Case, folder: Path, student: str) -> Line:
    """Take a network from its file to a student, and return what each stage gave, or why it did not."""
    line: Line = {"network": case.title, "library": case.library, "name": case.name, "student": student}
    seconds: dict[str, float] = {}

    def stage(name: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        line["stage"] = name
        try:
            return work()
        finally:
            seconds[name] = round(time.perf_counter() - started, 2)

    try:
        source = stage("save", lambda: save_weights(case, folder / "source"))
        shape = (3, case.size, case.size)
        teacher, card = stage("open", lambda: open_teacher(source, shape=shape))
        line |= {"facts": card.origin.facts, "parameters": teacher.parameters_count, "size": case.size}
        found = stage("inspect", lambda: inspect_teacher(teacher))
        line |= {
            "head": found.head,
            "batch_norms": found.batch_norms,
            "multiply_adds": found.multiply_adds,
            "warnings": list(found.warnings),
        }
        made = stage("set", lambda: make_set(teacher, folder / "set", line))
        spec = StudentSpec(student=student, distill=DistillConfig(steps=STEPS, batch_size=COUNT))
        small = stage("student", lambda: build_student(teacher, spec, made, folder / "student"))
        shares = agreement(teacher, small, made.all_images())
        line |= {"student_parameters": small.parameters_count, "agreement_on_set": shares.percent}
        line["stage"] = "done"
    except ZskdError as error:
        line["why_not"] = str(error)
    except Exception as error:  # a fault of zskd, which the record should show
        line["fault"] = f"{type(error).__name__}: {one_line(error)[:300]}"
    return line | {"seconds": seconds}


def make_set(teacher: Classifier, folder: Path, line: Line) -> TransferSet:
    """Make a small set with the first method that the teacher allows."""
    synthesis = SynthesisConfig(steps=10, noise_share=0.5, batch_size=COUNT)
    for method in METHODS:
        try:
            spec = SetSpec(method=method, count=COUNT, synthesis=synthesis)
            made = build_transfer_set(teacher, spec, folder / method)
        except ZskdError as error:
            if method == METHODS[-1]:
                raise
            line["method_refused"] = str(error)
        else:
            line |= {"method": method, "images": len(made), "missed": made.manifest.missed}
            return made
    raise AssertionError("the last method raises or returns")


def made_with(libraries: Sequence[str]) -> Line:
    """Return versions, processor, commit and command, for a record."""
    return {
        "versions": versions() | {name: version(name) for name in libraries},
        "processor": processor(),
        "commit": source_commit(),
        "command": shlex.join(["python", *sys.argv]),
    }


def main() -> None:
    """Study all networks, or those that are named, and write one line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/teachers"))
    parser.add_argument("--student", default="lenet5_half")
    parser.add_argument("--only", nargs="+", choices=[case.title for case in CASES], default=None)
    parser.add_argument("--record", type=Path, default=LINES)
    given = parser.parse_args()
    order = [case.title for case in CASES]
    facts = made_with(LIBRARIES)
    for number, case in enumerate(CASES):
        if given.only and case.title not in given.only:
            continue
        line = study(case, given.out / str(number), given.student) | facts
        others = [one for one in read_lines(given.record) if one["network"] != case.title]
        write_lines(given.record, sorted([*others, line], key=lambda one: order.index(one["network"])))
        told = ("network", "stage", "why_not", "fault", "method", "missed", "seconds")
        print(json.dumps({key: line[key] for key in told if key in line}), flush=True)


if __name__ == "__main__":
    main()
