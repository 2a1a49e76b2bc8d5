"""Digits: a teacher, pictures that are made from it alone, and a student that learns from these pictures.

python examples/newcomer.py
"""

from pathlib import Path

from torch import nn

import zskd

SHAPE = (1, 16, 16)


def main(
    folder: Path = Path("runs/newcomer"), *, epochs: int = 20, count: int = 500, steps: int = 500
) -> zskd.Share:
    """Train both networks, save pictures, and return the accuracy of the student."""
    digits = zskd.load_data(zskd.DataConfig(name="digits"), SHAPE)
    network = nn.Sequential(
        *(nn.Conv2d(1, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(16 * 6 * 6, 64), nn.ReLU(), nn.Linear(64, 10)),
    )
    settings = zskd.TeacherConfig(epochs=epochs, batch_size=32)
    untrained = zskd.Classifier(network, spec=zskd.InputSpec(shape=SHAPE), class_names=digits.class_names)
    teacher = zskd.train_teacher(untrained, digits, settings, seed=0)
    print("The teacher saw real digits. Its accuracy:", zskd.accuracy(teacher, digits.test))

    # from here on no real digit is used, until the student is tested
    print("How alike are the classes?", zskd.class_similarity(teacher.head.weight).round(1), sep="\n")
    images = zskd.build_transfer_set(teacher, zskd.SetSpec(count=count), folder / "set")
    zskd.export_imagefolder(teacher, images, folder / "pictures")
    print(f"Look at what was made: {folder / 'pictures'}")

    initial = zskd.initialise_from_teacher(teacher, zskd.half(network), images)
    student = zskd.distill(teacher, initial.student, images, zskd.DistillConfig(steps=steps))
    found = zskd.accuracy(student, digits.test)
    print("The student saw only these pictures. Its accuracy:", found)
    return found


if __name__ == "__main__":
    main()
