"""Draw the pictures of docs/idea.md from a teacher of digits that is trained here, in about a minute.

python studies/idea.py
"""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure

import zskd
from records import ROOT
from zskd.evaluation.figures import caption, filmstrip_figure, grid_figure, save_figure, similarity_figure
from zskd.models.factory import build, describe, fresh_weights

IMAGES = ROOT / "docs" / "images"
SHAPE = (1, 32, 32)
CLASS, SCALES, DRAWS = 3, (1.0, 0.1), 4
"""Class of the targets that are shown, and β of the two rows."""


def main() -> None:
    """Train the teacher and draw."""
    torch.set_num_threads(1)
    teacher = trained()
    assert teacher.head is not None
    names = teacher.class_names
    values = zskd.class_similarity(teacher.head.weight)
    figure = similarity_figure(values, names, "class similarity of a LeNet-5 for digits")
    figure.set_size_inches(5.4, 4.7)
    save_figure(figure, IMAGES / "idea-similarity.png")
    save_figure(targets_figure(zskd.concentration(values), names), IMAGES / "idea-targets.png")
    draw_impressions(teacher)


def trained() -> zskd.Classifier:
    """Return a LeNet-5 for digits."""
    architecture = describe("lenet5", shape=SHAPE, classes=10)
    module = fresh_weights(lambda: build(architecture, run_code=False), seed=0)
    digits = zskd.load_data(zskd.DataConfig(name="digits"), SHAPE)
    teacher = zskd.Classifier(module, spec=zskd.InputSpec(shape=SHAPE))
    teacher = zskd.train_teacher(teacher, digits, zskd.TeacherConfig(epochs=20, batch_size=32), seed=0)
    print("accuracy on test digits:", zskd.accuracy(teacher, digits.test))
    return teacher


def targets_figure(concentration: np.ndarray, names: tuple[str, ...]) -> Figure:
    """Draw targets of one class as bars: a row for each β."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    grid = figure.subplots(len(SCALES), DRAWS, sharex=True, sharey=True)
    for row, beta in zip(grid, SCALES, strict=True):
        entries = [zskd.PlanEntry(index, CLASS, beta, True) for index in range(DRAWS)]
        targets = zskd.draw_targets(concentration, entries, zskd.TargetsConfig(), seed=0)
        for axes, target in zip(row, targets, strict=True):
            colors = ["#1b6ca8" if k == CLASS else "#b8c4cc" for k in range(len(names))]
            axes.bar(names, target, color=colors)
            axes.set_ylim(0, 1)
        row[0].set_ylabel(f"β = {beta:g}")
    figure.suptitle(f"four targets of class {names[CLASS]} for each β: the answers that images are made for")
    return figure


def draw_impressions(teacher: zskd.Classifier) -> None:
    """Draw how one impression grows, and one impression of each class."""
    spec = zskd.SetSpec(
        count=10, seed=0, synthesis=zskd.SynthesisConfig(steps=200, noise_share=0.0, start="shapes")
    )
    traces = zskd.trace_impressions(teacher, spec, range(10), frames=7)
    names = teacher.class_names
    frames = next(trace for trace in traces.values() if trace[-1].target.argmax() == CLASS)
    captions = [f"step {frame.step}  KL {frame.kl:.2g}" for frame in frames]
    title = f"an impression grows; its target is {caption(frames[-1].target, names)}"
    images = torch.stack([frame.image for frame in frames])
    save_figure(filmstrip_figure(images, captions, title), IMAGES / "idea-filmstrip.png")
    last = [trace[-1] for trace in traces.values()]
    grid = grid_figure(
        torch.stack([frame.image for frame in last]),
        [caption(frame.target, names) for frame in last],
        "ten impressions and the two largest entries of their targets",
        columns=5,
    )
    save_figure(grid, IMAGES / "idea-impressions.png")


if __name__ == "__main__":
    main()
