"""What is measured of a student on images made for this alone, to estimate its agreement on real ones.

Two kinds of images stand for the two ends of what real ones may be. Class impressions, moved about, are what
the teacher is surest of; on structured noise it is hardly sure of anything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.config.transforms import AugmentConfig, WarpConfig
from zskd.core.errors import ZskdError
from zskd.core.rng import torch_stream
from zskd.core.types import Images, Logits
from zskd.data.transforms import augment
from zskd.evaluation.statistics import share_of
from zskd.models.classifier import Classifier
from zskd.models.modes import frozen
from zskd.synthesis.inversion.initial import draw_initial
from zskd.synthesis.shard import make_shard
from zskd.synthesis.spec import HELD_OUT, SetSpec

_IMPRESSIONS, _NOISE = 400, 1000
"""Images of each start."""
_STARTS: tuple[Literal["smooth", "shapes"], ...] = ("smooth", "shapes")
_WARP = WarpConfig(rotation=15.0, scale=(0.84, 1.2), shift=0.06, shear=0.18)
_MOVED = AugmentConfig(rotation=15.0, scale=(0.84, 1.2), shift=0.06, shear=0.18)
_CUT = AugmentConfig(cutmix=1.0)
_SYNTHESIS = SynthesisConfig(
    noise_share=0.0, steps=50, tolerance=0.05, learning_rate=0.1, tau=10.0, warp=_WARP, batch_size=100
)
"""Fixed here, whatever the defaults become: the estimate was fitted on these images."""
_FEW = 10
"""On fewer images nothing is said of a class."""
_BATCH = 500


@dataclass(frozen=True)
class Probes:
    """Images of one teacher, always the same, that no student learns from."""

    still: Images
    """Class impressions (N, C, H, W)."""
    moved: Images
    """The same under random affine maps."""
    noise: tuple[Tensor, ...]
    """Batches like these: smooth noise and random shapes, each as drawn, moved, and cut into one another."""
    teacher_sha256: str
    """Fingerprint of the teacher that they were made for."""


@dataclass(frozen=True)
class Signals:
    """What a student does with the probes."""

    unexplained: float
    """Share of the teacher's squared margins on moved class impressions that no multiple of the student's
    accounts for, 0 to 1."""
    fragility: float
    """Share of their margin that the teacher's class impressions lose when they are moved."""
    noise: float
    """Percentage of the worst kind of noise on which student and teacher differ: upper end of its 95 %
    interval."""
    by_class: tuple[float | None, ...]
    """`unexplained` on noise, for each class that the teacher gives; None where it hardly ever does."""


def make_probes(teacher: Classifier) -> Probes:
    """Make the images: a function of the teacher alone, some seconds for a small network.

    Args:
        teacher: asked in evaluation mode; left as it is.

    Returns:
        Images (N, C, H, W) inside the teacher's input box, in the processor's memory.

    Raises:
        ZskdError: the teacher's answers are not finite.
    """
    box, still, moved, noise = teacher.spec.box, [], [], []
    for number, start in enumerate(_STARTS):
        spec = SetSpec(
            method="class_impressions",
            count=_IMPRESSIONS,
            first_index=HELD_OUT,
            targets=TargetsConfig(),
            synthesis=replace(_SYNTHESIS, start=start),
        )
        made = torch.cat([make_shard(teacher, spec, k).images for k in range(spec.shards(teacher.classes))])
        indices = [HELD_OUT + i for i in range(_NOISE)]
        drawn = draw_initial(start, indices, seed=0, shape=teacher.spec.shape, box=box)
        still.append(made)
        moved.append(augment(made, _MOVED, box, torch_stream(0, "probe impressions", number)))
        noise.append(drawn)
        noise.append(augment(drawn, _MOVED, box, torch_stream(0, "probe moved", number)))
        noise.append(augment(drawn, _CUT, box, torch_stream(0, "probe cut", number)))
    return Probes(torch.cat(still), torch.cat(moved), tuple(noise), teacher.fingerprint())


def measure(teacher: Classifier, student: Classifier, probes: Probes) -> Signals:
    """Return what the estimate is made of.

    Args:
        teacher: asked in evaluation mode; left as it is.
        student: of the teacher's input size and number of classes; likewise.
        probes: made for this teacher.

    Raises:
        ZskdError: networks of other numbers of classes or other inputs, or probes of another teacher.
    """
    if student.classes != teacher.classes or student.spec.shape != teacher.spec.shape:
        raise ZskdError(
            f"the student takes {student.spec.shape} and has {student.classes} classes, its teacher takes "
            f"{teacher.spec.shape} and has {teacher.classes}: they are no pair"
        )
    if probes.teacher_sha256 != teacher.fingerprint():
        raise ZskdError("the probes were made for another teacher: is the student in the teacher's place?")
    moved = _margins(_logits(teacher, probes.moved))[0].mean()
    still = _margins(_logits(teacher, probes.still))[0].mean()
    theirs = [(_logits(student, images), _logits(teacher, images)) for images in probes.noise]
    differ = [share_of(int((s.argmax(1) != t.argmax(1)).sum()), len(s)) for s, t in theirs]
    return Signals(
        unexplained=unexplained(_logits(student, probes.moved), _logits(teacher, probes.moved)),
        fragility=float(1 - moved / still.clamp_min(1e-12)),
        noise=float(max(one.high for one in differ)),
        by_class=_by_class(torch.cat([s for s, _ in theirs]), torch.cat([t for _, t in theirs])),
    )


def unexplained(student: Logits, teacher: Logits) -> float:
    """Return the share of the teacher's squared margins that no multiple of the student's accounts for.

    Args:
        student: logits (N, K). They come first, as in `zskd.distillation.losses`.
        teacher: logits (N, K) for the same images.

    Returns:
        0 to 1. A margin is the difference between the logits of the teacher's first class and its second:
        0 for a student whose margins are a positive multiple of the teacher's, 1 for one that knows nothing
        of them.
    """
    theirs, pairs = _margins(teacher)
    own = _own_margins(student, pairs)
    explained = (own * theirs).sum().clamp_min(0).square() / (own.square().sum() * theirs.square().sum())
    return float((1 - explained.nan_to_num(0)).clamp(0, 1))


def _by_class(student: Logits, teacher: Logits) -> tuple[float | None, ...]:
    theirs, pairs = _margins(teacher)
    own = _own_margins(student, pairs)
    scale = (own * theirs).sum() / own.square().sum().clamp_min(1e-30)
    missed = (scale * own - theirs).square()
    found: list[float | None] = []
    for k in range(teacher.shape[1]):
        of_class = pairs[:, 0] == k
        enough = int(of_class.sum()) >= _FEW
        found.append(float(missed[of_class].sum() / theirs[of_class].square().sum()) if enough else None)
    return tuple(found)


def _margins(logits: Logits) -> tuple[Tensor, Tensor]:
    """The lead of each row's first class over its second (N,), and which two they are (N, 2)."""
    best = logits.double().topk(2, dim=1)
    return best.values[:, 0] - best.values[:, 1], best.indices


def _own_margins(student: Logits, pairs: Tensor) -> Tensor:
    both = student.double().gather(1, pairs)
    return both[:, 0] - both[:, 1]


def _logits(classifier: Classifier, images: Images) -> Logits:
    device = classifier.device
    with frozen(classifier), torch.no_grad():
        return torch.cat([classifier(batch.to(device)).cpu() for batch in torch.split(images, _BATCH)])
