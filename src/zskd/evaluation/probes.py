"""What is measured of a student on images made for this alone, to estimate its agreement on real ones.

The images are of two kinds. On class impressions, also under random affine maps, the teacher's margins are
large; on structured noise they are small. Real images lie between. The impressions of a teacher
with batch-norm have its statistics, and soft targets.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.config.transforms import AugmentConfig, WarpConfig
from zskd.core.engines.base import Engine
from zskd.core.engines.local import LocalEngine
from zskd.core.errors import ZskdError
from zskd.core.passes import Passes, count_elsewhere, counting, uncounted
from zskd.core.rng import torch_stream
from zskd.core.types import Images, Logits
from zskd.data.transforms import augment
from zskd.evaluation.inspection import count_multiply_adds
from zskd.evaluation.sanity import UNREACHED, is_reached
from zskd.evaluation.statistics import share_of
from zskd.models.classifier import Classifier
from zskd.models.many_images import logits_in_parts
from zskd.models.modes import frozen
from zskd.synthesis.build import seconds_per_image
from zskd.synthesis.inversion.initial import draw_initial
from zskd.synthesis.methods.base import make_method
from zskd.synthesis.room import fit_workers, need_on
from zskd.synthesis.shard import make_shard
from zskd.synthesis.sizes import fit_spec, in_files
from zskd.synthesis.spec import HELD_OUT, SetSpec

_IMPRESSIONS, _NOISE = 400, 1000
"""Numbers of images per start image, for sets of at least `_USUAL_COUNT` images and teachers that are cheap
enough; others get a share of them, …"""
_WITH_STATISTICS = 300
"""Number of impressions with statistics; they begin as procedural pictures."""
_FEWEST_IMPRESSIONS, _FEWEST_NOISE = 8, 50
"""… and at least these."""
_USUAL_COUNT = 1000
_MULTIPLY_ADDS = 2e12
"""What the impressions may cost: about a minute or two of one core."""
_PASSES = 3
"""Cost of a forward and a backward pass, in forward passes."""
_RESAMPLES = 200
_STARTS: tuple[Literal["smooth", "shapes"], ...] = ("smooth", "shapes")
_WARP = WarpConfig(rotation=15.0, scale=(0.84, 1.2), shift=0.06, shear=0.18)
_MOVED = AugmentConfig(rotation=15.0, scale=(0.84, 1.2), shift=0.06, shear=0.18)
_CUT = AugmentConfig(cutmix=1.0)
_SYNTHESIS = SynthesisConfig(
    noise_share=0.0, steps=50, tolerance=0.05, learning_rate=0.1, tau=10.0, warp=_WARP, batch_size=100
)
"""Fixed, also when the defaults change: the estimate was fitted on these images."""
_STATISTICS = replace(
    _SYNTHESIS, start="procedural", tolerance=0.0, learning_rate=0.02, tau=4.0, warp=WarpConfig()
)
_METHOD = "zskd_bn"
_STATISTICS_TARGETS = TargetsConfig(concentration_floor=0.05, redraws=100)
"""The same for teachers with batch-norm."""
_FEW = 10
"""A class of fewer images is not measured."""
_BATCH = 500
"""Images per forward pass, fewer of large ones."""


@dataclass(frozen=True)
class Probes:
    """Images in [0, 1], a function of the teacher alone, that no student is trained on."""

    still: Images
    """Class impressions (N, C, H, W)."""
    moved: Images
    """The same under random affine maps (N, C, H, W)."""
    noise: tuple[Tensor, ...]
    """Six batches (M, C, H, W): smooth noise and random shapes, each as drawn, moved, and with CutMix."""
    teacher_sha256: str
    """Fingerprint of the teacher that they were made for."""
    share: float = 1.0
    """Number of class impressions, in terms of the number that the law was fitted with; at most 1."""
    statistics: bool = False
    """Whether the impressions have the statistics of the teacher's batch-norm, and soft targets."""


@dataclass(frozen=True)
class Signals:
    """What is measured of a student and its teacher on the probes."""

    unexplained: float
    """Share of the teacher's squared margins on moved class impressions that no multiple of the student's
    margins explains, 0 to 1."""
    fragility: float
    """Share of the mean margin that the teacher's class impressions lose when they are moved, at most 1."""
    noise: float
    """Disagreement in percent on the kind of noise where it is largest: upper end of its 95 % interval."""
    by_class: tuple[float | None, ...]
    """`unexplained` on noise, for each of the K classes that the teacher predicts, 0 or more; None where it
    predicts the class for fewer than 10 images."""
    with_statistics: tuple[float, float, float] | None = None
    """Agreement in percent on impressions with statistics of batch-norm, with its 95 % interval: low, value,
    high; None for teachers without batch-norm."""


def make_probes(
    teacher: Classifier, *, count: int | None = None, workers: int = 1, engine: Engine | None = None
) -> Probes:
    """Make the probes of a teacher: some seconds for a small network, a minute or two for a large one.

    Args:
        teacher: run in evaluation mode; not changed.
        count: size of the student's transfer set, for which the probes should not cost more than the set:
            below 1,000 there are fewer probes; None: as many as the teacher's cost allows.
        workers: processes that make them, as for `build_transfer_set`, with the same result.
        engine: where they are; None: this machine.

    Returns:
        Images (N, C, H, W) inside the teacher's input box, on the CPU.

    Raises:
        ZskdError: the teacher's logits are not finite, or do not tell how to change an image.
    """
    if not is_reached(teacher):
        raise ZskdError(f"{UNREACHED}: none can be made for an estimate")
    box, share, statistics = teacher.spec.box, _share(teacher, count), _has_statistics(teacher)
    specs = _with_statistics(share) if statistics else _class_impressions(share)
    still, moved, noise = [], [], []
    for number, spec in enumerate(specs):
        made = _made(teacher, spec, workers, engine or LocalEngine())
        still.append(made)
        moved.append(augment(made, _MOVED, box, torch_stream(0, "probe impressions", number)))
    indices = [HELD_OUT + i for i in range(max(_FEWEST_NOISE, int(share * _NOISE)))]
    for number, start in enumerate(_STARTS):
        drawn = draw_initial(start, indices, seed=0, shape=teacher.spec.shape, box=box)
        noise.append(drawn)
        noise.append(augment(drawn, _MOVED, box, torch_stream(0, "probe moved", number)))
        noise.append(augment(drawn, _CUT, box, torch_stream(0, "probe cut", number)))
    return Probes(
        torch.cat(still),
        torch.cat(moved),
        tuple(noise),
        teacher.fingerprint(),
        specs[0].count / (_WITH_STATISTICS if statistics else _IMPRESSIONS),
        statistics,
    )


def _made(teacher: Classifier, spec: SetSpec, workers: int, engine: Engine) -> Images:
    """Return the images of a spec, a batch in each task: one after the other, batches give the same."""
    spec = fit_spec(teacher, spec)
    spec = in_files(spec, spec.synthesis.batch_size)
    shards = spec.shards(teacher.classes)
    with uncounted():  # each task tells its passes, also one in this process
        seconds = spec.count * seconds_per_image(teacher, spec) if shards > 1 and workers != 1 else 0.0
        workers = fit_workers(teacher, spec, workers, shards=shards, seconds=seconds, engine=engine)
        done = engine.each_done(
            _make_one,
            (teacher, spec),
            range(shards),
            workers=workers,
            need=need_on(engine, teacher, spec),
            on_progress=lambda _: None,
        )
        parts = dict(done)
    for _, passes in parts.values():
        count_elsewhere(passes)
    return torch.cat([parts[number][0] for number in range(shards)])


def _make_one(
    shared: tuple[Classifier, SetSpec], number: int, on_progress: Callable[[int], None]
) -> tuple[Images, Passes]:
    """Return the images of one shard, and the passes for them, in a worker."""
    teacher, spec = shared
    with counting("evaluation", teacher=teacher) as tally:
        shard = make_shard(teacher, spec, number, on_progress=on_progress)
    return shard.images, tally.passes()


def _has_statistics(teacher: Classifier) -> bool:
    """Return whether impressions can have the statistics of the teacher's batch-norm."""
    try:
        make_method(_METHOD, {}).check_teacher(teacher)
    except ZskdError:  # no batch-norm, or no last linear layer
        return False
    return True


def _class_impressions(share: float) -> list[SetSpec]:
    """Return the specs of class impressions: one for each kind of start images."""
    count = max(_FEWEST_IMPRESSIONS, int(share * _IMPRESSIONS))
    lanes = min(_SYNTHESIS.batch_size, count)
    return [
        SetSpec(
            method="class_impressions",
            count=count,
            first_index=HELD_OUT,
            targets=TargetsConfig(),
            synthesis=replace(_SYNTHESIS, start=start, batch_size=lanes),
        )
        for start in _STARTS
    ]


def _with_statistics(share: float) -> list[SetSpec]:
    """Return the spec of impressions with statistics of batch-norm."""
    count = max(_FEWEST_IMPRESSIONS, int(share * _WITH_STATISTICS))
    lanes = min(_STATISTICS.batch_size, count)
    return [
        SetSpec(
            method=_METHOD,
            count=count,
            first_index=HELD_OUT,
            targets=_STATISTICS_TARGETS,
            synthesis=replace(_STATISTICS, batch_size=lanes),
        )
    ]


def _share(teacher: Classifier, count: int | None) -> float:
    """Return the share of the usual probes to make, 0 to 1, whatever the speed of the machine."""
    passes = len(_STARTS) * _IMPRESSIONS * _SYNTHESIS.steps * _PASSES
    cost = passes * count_multiply_adds(teacher)
    return min(1.0, (count or _USUAL_COUNT) / _USUAL_COUNT, _MULTIPLY_ADDS / max(1, cost))


def measure(teacher: Classifier, student: Classifier, probes: Probes) -> Signals:
    """Return the measurements that the estimate is computed from.

    Args:
        teacher: run in evaluation mode; not changed.
        student: run in evaluation mode; not changed. It has the teacher's input shape and number of classes.
        probes: made for this teacher.

    Raises:
        ZskdError: the networks have different numbers of classes or input shapes, or the probes were made for
            another teacher.
    """
    if student.classes != teacher.classes or student.spec.shape != teacher.spec.shape:
        raise ZskdError(
            f"the student takes {student.spec.shape} and has {student.classes} classes, its teacher takes "
            f"{teacher.spec.shape} and has {teacher.classes}: they are no pair: give its own student"
        )
    if probes.teacher_sha256 != teacher.fingerprint():
        raise ZskdError("the probes were made for another teacher: is the student in the teacher's place?")
    moved = _margins(_logits(teacher, probes.moved))[0].mean()
    still = _margins(_logits(teacher, probes.still))[0].mean()
    logits = [(_logits(student, images), _logits(teacher, images)) for images in probes.noise]
    differ = [share_of(int((s.argmax(1) != t.argmax(1)).sum()), len(s)) for s, t in logits]
    return Signals(
        unexplained=unexplained(_logits(student, probes.moved), _logits(teacher, probes.moved)),
        fragility=float(1 - moved / still.clamp_min(1e-12)),
        noise=float(max(one.high for one in differ)),
        by_class=_by_class(torch.cat([s for s, _ in logits]), torch.cat([t for _, t in logits])),
        with_statistics=_agreement(teacher, student, probes.still) if probes.statistics else None,
    )


def _agreement(teacher: Classifier, student: Classifier, images: Images) -> tuple[float, float, float]:
    """Return the agreement in percent: low end of its 95 % interval, value, high end."""
    same = _logits(student, images).argmax(1) == _logits(teacher, images).argmax(1)
    found = share_of(int(same.sum()), len(same))
    return float(found.low), float(found.percent), float(found.high)


def sampling_error(teacher: Classifier, student: Classifier, probes: Probes, least: float) -> float:
    """Return the standard error of ln(unexplained) that is due to the number of probes, by resampling them.

    Args:
        teacher: as for `measure`; so are the next two.
        student: not changed.
        probes: made for this teacher.
        least: smaller values count as this one; above 0.
    """
    ours, theirs = _logits(student, probes.moved), _logits(teacher, probes.moved)
    rng = torch_stream(0, "probe resamples", 0)
    found = []
    for _ in range(_RESAMPLES):
        rows = torch.randint(len(ours), (len(ours),), generator=rng)
        found.append(math.log(max(least, unexplained(ours[rows], theirs[rows]))))
    return float(torch.tensor(found).std())


def unexplained(student: Logits, teacher: Logits) -> float:
    """Return the share of the teacher's squared margins that no multiple of the student's explains.

    Args:
        student: logits (N, K). They come first, as in `zskd.distillation.losses`.
        teacher: logits (N, K) for the same images.

    Returns:
        0 to 1: 0 for a student whose margins are a positive multiple of the teacher's, 1 for one whose
        margins are unrelated. A margin is the difference between the logits of the teacher's first class and
        its second.
    """
    target, pairs = _margins(teacher)
    margins = _student_margins(student, pairs)
    explained = (margins * target).sum().clamp_min(0).square()
    explained = explained / (margins.square().sum() * target.square().sum())
    return float((1 - explained.nan_to_num(0)).clamp(0, 1))


def _by_class(student: Logits, teacher: Logits) -> tuple[float | None, ...]:
    target, pairs = _margins(teacher)
    margins = _student_margins(student, pairs)
    scale = (margins * target).sum() / margins.square().sum().clamp_min(1e-30)
    missed = (scale * margins - target).square()
    found: list[float | None] = []
    for k in range(teacher.shape[1]):
        of_class = pairs[:, 0] == k
        enough = int(of_class.sum()) >= _FEW
        found.append(float(missed[of_class].sum() / target[of_class].square().sum()) if enough else None)
    return tuple(found)


def _margins(logits: Logits) -> tuple[Tensor, Tensor]:
    """Return each row's largest logit minus its second (N,), and the classes of the two (N, 2)."""
    best = logits.double().topk(2, dim=1)
    return best.values[:, 0] - best.values[:, 1], best.indices


def _student_margins(student: Logits, pairs: Tensor) -> Tensor:
    both = student.double().gather(1, pairs)
    return both[:, 0] - both[:, 1]


def _logits(classifier: Classifier, images: Images) -> Logits:
    with frozen(classifier):
        return logits_in_parts(classifier, images, _BATCH).cpu()
