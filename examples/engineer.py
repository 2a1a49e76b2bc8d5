"""From a checkpoint of your own to an ONNX file, without data: student, estimate, export.

    python examples/engineer.py

Put your own network, weights, shape, mean and std in the place of those below. Random weights
only show the way. The network is named by this file and the function that builds it, so that its
student can be built again from its folder, whatever kind of network it is.
"""

from pathlib import Path

import torch
from torch import nn

import zskd


def my_network() -> nn.Module:
    """Return the network that the weights are of."""
    torch.manual_seed(0)  # of the random weights
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(16 * 4 * 4, 10)),
    )


def main(
    folder: Path = Path("runs/engineer"),
    *,
    weights: Path | None = None,
    count: int = 1000,
    steps: int = 1000,
) -> Path:
    """Make the student in a folder and return the ONNX file."""
    source = f"{__file__}:my_network" + ("" if weights is None else f"@{weights}")
    teacher, _ = zskd.open_teacher(source, shape=(1, 16, 16), mean=(0.5,), std=(0.25,))

    # what fits this teacher: its preset, its method and its student
    recipe = zskd.recipe_for(teacher, "my-teacher", {"count": count, "distill": {"steps": steps}})
    wanted = zskd.SetSpec(
        method=recipe.method,
        method_settings=recipe.method_settings,
        count=count,
        targets=recipe.targets,
        synthesis=recipe.synthesis,
    )
    images = zskd.build_transfer_set(teacher, wanted, folder / "set")
    of_student = zskd.StudentSpec(student=recipe.student, distill=recipe.distill)
    student = zskd.build_student(teacher, of_student, images, folder / "student")

    gain = zskd.measure_gain(teacher, student)
    print(f"parameters: {gain.teacher.parameters:,} -> {gain.student.parameters:,}")
    print(*zskd.estimate_agreement(teacher, student).lines(), sep="\n")
    file = folder / "student.onnx"
    print(zskd.export_onnx(student, file))
    return file


if __name__ == "__main__":
    main()
