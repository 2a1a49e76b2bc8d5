"""What do exported networks cost, and what do they lose? Writes results/exports.json.

    python studies/exports.py --out runs/exports

Networks of five kinds are trained on digits for some epochs, and exported in every format. The 8-bit file
is calibrated on a set of random shapes; test accuracy is that of each ONNX file in onnxruntime. Times are
those of one thread, where the float32 and the 8-bit network take turns.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from records import RESULTS, Line, made_with, read_lines, write_lines
from zskd.config.data import DataConfig
from zskd.config.synthesis import SynthesisConfig
from zskd.config.training import TeacherConfig
from zskd.core.extras import import_extra
from zskd.data.datasets import Dataset, Split, load_data
from zskd.distillation.architecture import describe_student
from zskd.export.check import Comparison
from zskd.export.folder import export_torch
from zskd.export.int8 import export_onnx_int8
from zskd.export.onnx import export_onnx
from zskd.export.pt2 import export_pt2
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.exported import ExportedNetwork
from zskd.models.factory import Architecture, build, describe, fresh_weights
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.spec import SetSpec
from zskd.teacher.training import train_teacher

SHAPE, CLASSES, EPOCHS = (1, 32, 32), 10, 5
NETWORKS = (
    "lenet5",
    "resnet8",
    "mobilenet(width=0.5)",
    "narrow:0.5 of resnet20",
    "timm:test_vit(img_size=32)",
)
SET = SetSpec(
    method="noise", count=1500, synthesis=SynthesisConfig(start="shapes", noise_share=1.0, shard_size=500)
)


def architecture_of(name: str) -> Architecture:
    """Return the architecture of a name, or of a narrower copy of one."""
    student, _, of = name.rpartition(" of ")
    described = describe(of, shape=SHAPE, classes=CLASSES)
    if not student:
        return described
    original = Classifier(build(described, run_code=False), spec=InputSpec(shape=SHAPE))
    original.architecture = described
    return describe_student(student, original)


def trained(name: str, data: Dataset) -> Classifier:
    """Return a network that was trained on digits."""
    architecture = architecture_of(name)
    module = fresh_weights(lambda: build(architecture, run_code=False), seed=0)
    untrained = Classifier(module, spec=InputSpec(shape=SHAPE), class_names=data.class_names)
    return train_teacher(untrained, data, TeacherConfig(epochs=EPOCHS, batch_size=32), seed=0)


def accuracy(file: Path, test: Split) -> float:
    """Return the test accuracy of an ONNX file in percent."""
    network = ExportedNetwork(file)
    return 100 * float((network(test.images).argmax(1) == test.labels).float().mean())


def measure(name: str, data: Dataset, out: Path) -> Line:
    """Export a network in every format and return what was found."""
    network, folder = trained(name, data), out / name.replace(":", "-").replace(" ", "-")
    images = build_transfer_set(network, SET, folder / "set")
    files = {to: folder / f"{to}.onnx" for to in ("onnx", "onnx-int8")}
    compared = {
        "onnx": export_onnx(network, files["onnx"]),
        "pt2": export_pt2(network, folder / "a.pt2"),
        "torch": export_torch(network, folder / "torch", title=name),
    }
    int8 = export_onnx_int8(network, images, files["onnx-int8"])
    return {
        "network": name,
        "parameters": network.parameters_count,
        "differences": {to: _difference(one) for to, one in compared.items()},
        "bytes": {to: file.stat().st_size for to, file in files.items()},
        "bytes_pt2": (folder / "a.pt2").stat().st_size,
        "latency": {
            to: [one.to_json() for one in times]
            for to, times in (("onnx", int8.float_latency), ("onnx-int8", int8.latency))
        },
        "agreement": {"percent": round(int8.agreement.percent, 2), "n": int8.agreement.n},
        "test_accuracy": {to: round(accuracy(file, data.test), 2) for to, file in files.items()},
        "test_images": len(data.test),
        "epochs": EPOCHS,
        "onnxruntime": import_extra("onnxruntime").__version__,
        **made_with(),
    }


def _difference(one: Comparison) -> dict[str, Any]:
    return {"pictures": one.pictures, "difference": one.difference, "largest": one.largest}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--record", type=Path, default=RESULTS / "exports.json")
    parser.add_argument("--only", choices=NETWORKS, help="one network, to try it")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.out.is_dir() and any(given.out.iterdir()):
        parser.error(f"{given.out} is not empty: give another --out")
    data = load_data(DataConfig(name="digits"), SHAPE)
    lines = {one["network"]: one for one in read_lines(given.record)} if given.only else {}
    for name in (given.only,) if given.only else NETWORKS:
        lines[name] = measure(name, data, given.out)
        write_lines(given.record, list(lines.values()))
        print(lines[name], flush=True)


if __name__ == "__main__":
    main()
