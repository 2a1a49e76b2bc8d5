"""Small measurements behind settings of methods: each takes minutes, and none trains a student.

    python studies/choices.py --teachers teachers --cifar cifar

On the public ResNet-20 (`resnet20-12fca82f.th` of github.com/akamaster/pytorch_resnet_cifar10): images of
DeepInversion with several settings, how many steps reach the teacher's decision, and how often its class
changes when an image is changed; the last also on a LeNet-5 that is trained here on digits. Whether
impressions keep their class when they are mirrored is measured on teachers of coloured digits, too
(`studies/colour.py`), and the objective of the preset `batch_norm` at several learning rates also on two
teachers of digits that are trained here. Real images are of the training folder of CIFAR-10. `--only`
measures some parts again and keeps the lines of the others.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import torch

import colour
from carry import load_images, load_teacher
from records import RESULTS, Line, made_with, read_lines, write_lines
from zskd.config.data import DataConfig
from zskd.config.loading import load_recipe
from zskd.config.synthesis import SynthesisConfig
from zskd.config.training import TeacherConfig
from zskd.config.transforms import AugmentConfig, WarpConfig
from zskd.core.device import use_threads
from zskd.core.progress import Progress
from zskd.core.types import Images
from zskd.data.datasets import load_data
from zskd.distillation.invariance import measure_changes
from zskd.models.batch_statistics import reading_statistics
from zskd.models.classifier import Classifier
from zskd.models.factory import build, describe, fresh_weights
from zskd.synthesis.inversion.initial import draw_initial
from zskd.synthesis.learning_rate import try_rate
from zskd.synthesis.methods.boundary import Boundary
from zskd.synthesis.settling import share_mirrored, some_impressions
from zskd.synthesis.shard import make_shard
from zskd.synthesis.spec import SetSpec
from zskd.teacher.training import train_teacher

LINES = RESULTS / "choices.json"
PARTS = ("inversion", "pairs", "changes", "mirrors", "rates")
IMAGES = 100
"""Of a batch of DeepInversion, and of real ones beside it."""
PAIRS = 500
ASKED = 1000
"""Images that are changed."""
INVERSIONS = (
    (0.05, 1.0, "absolute", 1.0, 0.0, 0.0),
    (0.05, 1.0, "absolute", 5.0, 0.5, 0.0),
    (0.05, 1.0, "absolute", 50.0, 0.5, 0.0),
    (0.05, 1.0, "relative", 5.0, 0.5, 0.0625),
    (0.05, 10.0, "relative", 50.0, 0.5, 0.0),
    (0.03, 0.3, "absolute", 3.0, 0.5, 0.0),
    (0.02, 0.3, "absolute", 10.0, 0.5, 0.0),
    (0.02, 0.3, "absolute", 40.0, 0.5, 0.0),
    (0.03, 0.3, "absolute", 60.0, 0.5, 0.0),
)
"""Learning rate, weight and scale of the statistics, weight of the total variation, flip and shift."""
RATES = (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16)
"""Learning rates: the preset's, and those that its search may reach."""
CHANGES = AugmentConfig(
    flip=0.5,
    flip_vertical=0.5,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    rotation=15.0,
    crop=0.125,
    shift=0.1,
    share=1.0,
)


def inversions(teacher: Classifier, real: Images) -> Iterator[Line]:
    """Yield what images of DeepInversion are like with each setting, and what real images are like."""
    yield {"part": "inversion", "images": "real", "n": IMAGES} | facts(teacher, real[:IMAGES])
    for rate, weight, scale, variation, flip, shift in INVERSIONS:
        config = SynthesisConfig(
            start="shapes",
            steps=150,
            learning_rate=rate,
            tau=1.0,
            tolerance=0.0,
            noise_share=0.0,
            warp=WarpConfig(flip=flip, shift=shift),
        )
        settings = {"statistics": weight, "scale": scale, "variation": variation}
        spec = SetSpec(
            method="deepinversion", method_settings=settings, count=IMAGES, seed=0, synthesis=config
        )
        made = make_shard(teacher, spec, 0)
        yield (
            {"part": "inversion", "images": "made", "n": IMAGES, "learning_rate": rate, "flip": flip}
            | {"shift": shift}
            | settings
            | facts(teacher, made.images, made.anchors)
        )


def facts(teacher: Classifier, images: Images, classes: torch.Tensor | None = None) -> dict[str, float]:
    """Return R, the total variation V, and with classes cross-entropy and the shares that have their class.

    R = Σ_l ‖μ̂ − μ‖₂ + ‖σ̂² − σ²‖₂ and V, the mean of |x_i − x_j| over neighbours, are computed here without
    the terms of the objective.
    """
    with torch.no_grad(), reading_statistics(teacher) as layers:
        logits = teacher(images)
    distance = sum(
        float((one.mean - one.running_mean).norm() + (one.var - one.running_var).norm()) for one in layers
    )
    across, down = (images.diff(dim=side).abs() for side in (3, 2))
    pairs = across[0].numel() + down[0].numel()
    found = {
        "statistics_distance": distance,
        "total_variation": float((across.sum() + down.sum()) / (pairs * len(images))),
    }
    if classes is None:
        return found
    with torch.no_grad():
        flipped = teacher(images.flip(3))
    return found | {
        "cross_entropy": float(torch.nn.functional.cross_entropy(logits, classes)),
        "class_percent": percent(logits.argmax(1) == classes),
        "flipped_percent": percent(flipped.argmax(1) == classes),
    }


def percent(mask: torch.Tensor) -> float:
    """Return the share of true entries."""
    return 100 * float(mask.float().mean())


def pairs(teacher: Classifier) -> Iterator[Line]:
    """Yield how many pairs a number of steps finds, and how far they are from a tie."""
    method = Boundary()
    for start in ("procedural", "shapes"):
        images = draw_initial(start, range(PAIRS), seed=0, shape=teacher.spec.shape, box=teacher.spec.box)
        with torch.no_grad():
            at_start = gap(teacher, images)
            own = teacher(images).argmax(1)
        for steps in (1, 2, 3):
            with torch.no_grad():
                before, beyond = method.both_sides(teacher, images, steps)
                met = teacher(beyond).argmax(1) != own
            way = (beyond - images).square().mean((1, 2, 3)).sqrt()
            yield {
                "part": "pairs",
                "start": start,
                "n": PAIRS,
                "steps": steps,
                "found_percent": percent(met),
                "gap_at_start": float(at_start.median()),
                "gap_before": float(gap(teacher, before)[met].median()),
                "gap_beyond": float(gap(teacher, beyond)[met].median()),
                "way": float(way[met].median()),
            }


def gap(teacher: Classifier, images: Images) -> torch.Tensor:
    """Return the difference of the two largest probabilities of each image (N,)."""
    with torch.no_grad():
        first, second = teacher(images).softmax(1).topk(2).values.T
    return first - second


def changes(teacher: Classifier, name: str, real: Images) -> Iterator[Line]:
    """Yield how often a teacher predicts the same class after each change, on real images and on shapes."""
    colour = {} if teacher.spec.shape[0] == 3 else {"saturation": 0.0, "hue": 0.0}
    shapes = draw_initial("shapes", range(ASKED), seed=0, shape=teacher.spec.shape, box=teacher.spec.box)
    for kind, images in (("real", real[:ASKED]), ("shapes", shapes)):
        asked = measure_changes(teacher, images, replace(CHANGES, **colour))
        same = {one.change: one.agreement for one in asked}
        yield {"part": "changes", "teacher": name, "images": kind, "n": len(images), "same_class": same}


def mirrors(teacher: Classifier, name: str, real: Images) -> Iterator[Line]:
    """Yield how often a teacher predicts the same class for mirrored images: real ones, and impressions."""
    with torch.no_grad():
        same = teacher(real).argmax(1) == teacher(real.flip(3)).argmax(1)
    line = {"part": "mirrors", "teacher": name}
    yield line | {"images": "real", "n": len(real), "same_class": percent(same)}
    spec = default_spec()
    assert spec.asks_about_flips, "the preset asks no teacher about flips"
    share = share_mirrored(teacher, make_shard(teacher, some_impressions(spec), 0).images)
    yield line | {"images": "impressions", "n": IMAGES, "same_class": 100 * share}


def default_spec() -> SetSpec:
    """Return images of the preset for teachers with batch-norm."""
    recipe = load_recipe(None, {"preset": "batch_norm"})
    return SetSpec(
        method=recipe.method,
        method_settings=recipe.method_settings,
        count=IMAGES,
        targets=recipe.targets,
        synthesis=recipe.synthesis,
    )


def rates(teacher: Classifier, name: str) -> Iterator[Line]:
    """Yield the objective of some impressions of the preset after all steps, at each learning rate."""
    question = some_impressions(default_spec())
    for rate in RATES:
        value = try_rate(teacher, question, rate, Progress()).value
        yield {"part": "rates", "teacher": name, "n": IMAGES, "learning_rate": rate, "objective": value}


def of_colours(out: Path) -> Iterator[tuple[Classifier, str]]:
    """Yield the teachers of coloured digits, and their names."""
    base = colour.SETTINGS["base"]
    for network in colour.NETWORKS:
        yield colour.open_or_train(network, base.data, base.norm, out).freeze(), network


def coloured_digits() -> Images:
    """Return coloured digits that none of their teachers was trained on."""
    return colour.load_images(colour.SETTINGS["base"]).validation.images[:ASKED]


def digits_teacher(name: str = "lenet5") -> tuple[Classifier, str, Images]:
    """Return a network that is trained on digits, its name, and the training images."""
    data = load_data(DataConfig(name="digits"), (1, 32, 32))
    architecture = describe(name, shape=(1, 32, 32), classes=10)
    untrained = Classifier(fresh_weights(lambda: build(architecture, run_code=False), seed=0))
    trained = train_teacher(untrained, data, TeacherConfig(epochs=30.0, batch_size=64), seed=0)
    return trained.freeze(), name, data.train.images


def main() -> None:
    """Measure all, and write a line for each row of the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teachers", type=Path, default=Path("teachers"))
    parser.add_argument("--cifar", type=Path, default=Path("cifar"))
    parser.add_argument("--out", type=Path, default=Path("runs/colour"))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    given = parser.parse_args()
    with use_threads(1):
        teacher = load_teacher(given.teachers).freeze()
        train = load_images(given.cifar).train
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
        real = train.images[order[:ASKED]]
        measured: dict[str, Callable[[], Iterator[Line]]] = {
            "inversion": lambda: inversions(teacher, real),
            "pairs": lambda: pairs(teacher),
            "changes": lambda: chain(changes(teacher, "resnet20", real), changes(*digits_teacher())),
            "mirrors": lambda: chain(
                mirrors(teacher, "resnet20", real),
                *(mirrors(*one, coloured_digits()) for one in of_colours(given.out)),
            ),
            "rates": lambda: chain(
                rates(teacher, "resnet20"),
                *(rates(*one) for one in of_colours(given.out)),
                *(rates(*digits_teacher(name)[:2]) for name in ("lenet5_bn", "mobilenet(width=0.25)")),
            ),
        }
        made = [line | made_with() for part in given.only for line in measured[part]()]
    kept = [line for line in read_lines(LINES) if line["part"] not in given.only]
    write_lines(LINES, sorted([*kept, *made], key=lambda line: PARTS.index(line["part"])))


if __name__ == "__main__":
    main()
