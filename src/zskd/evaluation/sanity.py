"""What is wrong with a teacher, as far as it can be seen without data, before any work is done with it.

A teacher loaded with the wrong normalisation, or one whose answers depend on chance, makes sets and students
like any other, and bad ones. Each finding says what was seen and what to try. They are warnings, not proofs,
apart from answers that are not finite.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zskd.core.errors import ZskdError, one_line
from zskd.core.progress import Progress
from zskd.core.rng import keep_global_rng
from zskd.core.types import Images, Logits
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.counting import not_alone
from zskd.models.hooks import before_runs
from zskd.models.modes import frozen
from zskd.models.products import Recorder
from zskd.synthesis.inversion.initial import draw_initial

_NOISE = ("uniform", "smooth", "shapes")
"""Kinds of random images that the teacher receives, equally many of each."""
_IMAGES, _STATISTICS, _PIXELS = 64, 128, 32 * 32
"""Images of each kind, and images for the statistics, if they have so many pixels; fewer of larger ones, …"""
_FEWEST = 32
"""… and at least these."""
_AT_ONCE = 32
"""Images in one forward pass."""
_ONE_CLASS = 0.97
"""Share of the random images that get the same class, from which on the teacher is suspect."""
_CONTRADICTION = 1.8
"""Mean |log ratio| of two variances from which on the normalisation is suspect. Measured: 0.9 to 1.4 with the
right one, 2.1 and more with wrong ones."""
_SAME = 1e-4
"""Largest difference of logits, relative to the largest, that counts as rounding."""
_NORMALISATIONS: tuple[tuple[int | None, tuple[float, ...], tuple[float, ...]], ...] = (
    (None, (0.0,), (1.0,)),
    (None, (0.5,), (0.5,)),
    (None, (0.0,), (0.00392157,)),
    (1, (0.1307,), (0.3081,)),
    (3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    (3, (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
)
"""Channels, mean and std that are often used: of [0, 1], [-1, 1], 0 to 255, MNIST, ImageNet and CIFAR-10."""
UNREACHED = "no gradient of the teacher's logits reaches its images"
"""Why neither impressions nor an estimate can be made."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a teacher."""

    text: str
    """What was seen and what to try, in one line."""
    fatal: bool = False
    """Whether any work with this teacher is pointless."""


def check_teacher(teacher: Classifier) -> tuple[Finding, ...]:
    """Return what is wrong with a teacher; nothing for a right one.

    Args:
        teacher: run in evaluation mode on some hundred random images; not changed.
    """
    with frozen(teacher), torch.no_grad(), keep_global_rng():
        return tuple(_findings(teacher))


def log_findings(teacher: Classifier, progress: Progress) -> None:
    """Log what is wrong with a teacher, before any work is done with it.

    Args:
        teacher: run in evaluation mode; not changed.
        progress: receives the lines.

    Raises:
        ZskdError: work with this teacher is pointless.
    """
    for finding in check_teacher(teacher):
        if finding.fatal:
            raise ZskdError(finding.text)
        progress.log(f"warning: {finding.text}")


def _findings(teacher: Classifier) -> Iterator[Finding]:
    yield from _of_weights(teacher)
    yield from _of_pixels(teacher.spec)
    if teacher.returned.multi_label:
        yield Finding(
            f"multi-label: each of the {teacher.classes} outputs is a probability of its own, and they do "
            "not sum to one; targets and students take a softmax of them, in which one class wins: use the "
            "order of the student's classes, not their probabilities"
        )
    noise = {kind: _draw(teacher, kind, _IMAGES) for kind in _NOISE}
    try:
        _logits(teacher, noise["smooth"][:1])
    except ValueError as error:  # of torch's batch-norm; two images ran when the classifier was made
        yield Finding(str(not_alone(error)), fatal=True)
        return
    logits = torch.cat([_logits(teacher, images) for images in noise.values()])
    finite = torch.isfinite(logits).all(1)
    if not bool(finite.all()):
        share = 100 * float((~finite).double().mean())
        yield Finding(
            f"the teacher gives logits that are not finite for {share:.0f} % of random images: check its "
            "weights, mean and std",
            fatal=not bool(finite.any()),
        )
        return
    yield from _of_answers(logits)
    yield from _of_repeats(teacher, noise["smooth"][:8])
    yield from _of_gradients(teacher, noise["smooth"][:2])
    yield from _of_statistics(teacher)


def _of_weights(teacher: Classifier) -> Iterator[Finding]:
    matrices = [p for p in teacher.module.parameters() if p.ndim > 1 and p.numel() >= 16]
    for name, kind in (("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        if matrices and all(torch.equal(p, p.to(kind).float()) for p in matrices):
            yield Finding(
                f"all weights are rounded to half precision ({name}), so that logits differ a little from "
                "those of the original: give the weights in float32 if there are any"
            )
            return


def _of_pixels(spec: InputSpec) -> Iterator[Finding]:
    if max(spec.mean) <= 1 and max(spec.std) <= 1.5:
        return
    mean, std = (", ".join(f"{value / 255:.3g}" for value in values) for values in (spec.mean, spec.std))
    yield Finding(
        f"mean {spec.mean} and std {spec.std} are for pixels of 0 to 255, and pixels here are in [0, 1]: try "
        f"mean {mean} and std {std}"
    )


def _of_answers(logits: Logits) -> Iterator[Finding]:
    """Judge the logits of random images (N, K)."""
    advice = "check mean, std, the order of the channels and whether the weights were loaded"
    if float(logits.std(0).max()) <= 1e-6 * max(1.0, float(logits.abs().max())):
        yield Finding(f"all random images give the same logits: is the normalisation right? {advice}")
        return
    counts = logits.argmax(1).bincount(minlength=logits.shape[1])
    share = float(counts.max() / len(logits))
    if share >= _ONE_CLASS:
        most = int(counts.argmax())
        yield Finding(f"the teacher gives class {most} to {100 * share:.0f} % of random images: {advice}")


def _of_repeats(teacher: Classifier, images: Images) -> Iterator[Finding]:
    """Compare the answers for the same images again, and beside other images."""
    images = images.to(teacher.device)
    first, again = teacher(images), teacher(images)
    limit = _SAME * max(1e-6, float(first.abs().max()))
    if float((again - first).abs().max()) > limit:
        yield Finding(
            f"the teacher's logits depend on chance{_where(teacher, images, 'drew')}, so that one seed gives "
            "different sets: switch dropout and other random layers off in evaluation mode"
        )
        return
    turned = torch.cat([images[:4], 1 - images[4:]])
    if float((teacher(turned)[:4] - first[:4]).abs().max()) > limit:
        yield Finding(
            "the teacher's logits for an image depend on the other images of its batch"
            f"{_where(teacher, images, 'mixed')}: use running statistics (track_running_stats=True) in "
            "evaluation mode"
        )


def _of_gradients(teacher: Classifier, images: Images) -> Iterator[Finding]:
    try:
        reached = _tells_changes(teacher, images)
    except ZskdError as error:
        yield Finding(str(error), fatal=True)
        return
    if not reached:
        yield Finding(
            f"{UNREACHED}, so that none can be optimised: take torch.no_grad, detach and rounding out of its "
            "forward pass, or take noise for images "
            "(zskd run --method noise)"
        )


def is_reached(teacher: Classifier) -> bool:
    """Return whether the logits tell how to change an image, so that images can be optimised.

    Args:
        teacher: run in evaluation mode; not changed.

    Raises:
        ZskdError: the network does not run while gradients are recorded.
    """
    with frozen(teacher):
        return _tells_changes(teacher, _draw(teacher, "smooth", _IMAGES)[:2])


def _tells_changes(teacher: Classifier, images: Images) -> bool:
    leaf = images.to(teacher.device).requires_grad_(True)
    with torch.enable_grad():
        try:
            value = teacher(leaf).square().sum()
        except RuntimeError as error:  # of NumPy's way into tensors, among others
            if "requires grad" not in str(error):
                raise
            raise ZskdError(
                f"the network does not run while gradients are recorded ({one_line(error)}): where it needs "
                "no gradient, let its forward pass call detach() first"
            ) from error
        found = torch.autograd.grad(value, leaf, allow_unused=True) if value.requires_grad else (None,)
    return found[0] is not None and bool(found[0].any())


def _where(teacher: Classifier, images: Images, what: str) -> str:
    recorder = Recorder(teacher.module, len(images))
    with recorder:
        teacher.module(teacher.normalise(images))
    names = list(recorder.drew if what == "drew" else recorder.mixed)
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f" (layers {', '.join(names[:4])}{more})" if names else ""


def _of_statistics(teacher: Classifier) -> Iterator[Finding]:
    """Compare the variance of what enters the first batch-norm with its running variance."""
    spec, images = teacher.spec, _draw(teacher, "smooth", _STATISTICS)
    found = _contradiction(teacher, images, spec.mean, spec.std)
    if found is None or found < _CONTRADICTION:
        return
    fits = [
        (_contradiction(teacher, images, mean, std) or 0.0, mean, std)
        for channels, mean, std in _NORMALISATIONS
        if channels in (None, spec.shape[0])
    ]
    value, mean, std = min(fits)
    better = f"; mean {mean} and std {std} fit better ({value:.1f})" if value < found - 0.5 else ""
    yield Finding(
        f"the statistics of the first batch-norm contradict mean {spec.mean} and std {spec.std}: its "
        f"variances differ by {found:.1f} in the logarithm, by less than {_CONTRADICTION} where they fit: "
        f"check mean, std and the order of the channels{better}"
    )


class _Entered(Exception):
    """Ends a forward pass at the first batch-norm: nothing behind it needs to run."""


def _contradiction(
    teacher: Classifier, images: Images, mean: tuple[float, ...], std: tuple[float, ...]
) -> float | None:
    """Return the mean |log ratio| of the variance of the first batch-norm's inputs and its running variance.

    None if there is none, or it has no statistics or has seen no images.
    """
    entered: list[tuple[_BatchNorm, Tensor]] = []

    def enter(layer: nn.Module, inputs: Tensor) -> None:
        if isinstance(layer, _BatchNorm) and inputs.ndim == 4:
            entered.append((layer, inputs))
            raise _Entered

    normalised = (images - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    with ExitStack() as undo:
        for layer in teacher.module.modules():
            if isinstance(layer, _BatchNorm):
                undo.enter_context(before_runs(layer, enter))
        for batch in torch.split(normalised, _AT_ONCE):
            with suppress(_Entered):
                teacher.module(batch.to(teacher.device))
            if not entered:
                return None
    norm = entered[0][0]
    if norm.running_mean is None or norm.running_var is None:
        return None
    if bool((norm.running_mean == 0).all() and (norm.running_var == 1).all()):
        return None
    found = torch.cat([value.transpose(0, 1).flatten(1) for _, value in entered], 1).var(1)
    ratio = (found + norm.eps) / (norm.running_var + norm.eps)
    return float(ratio.log().abs().mean())


def _draw(teacher: Classifier, kind: str, most: int) -> Images:
    """Return random images: `most` of a small size, fewer of a large one."""
    _, height, width = teacher.spec.shape
    count = max(_FEWEST, min(most, most * _PIXELS // (height * width)))
    return draw_initial(kind, list(range(count)), seed=0, shape=teacher.spec.shape, box=teacher.spec.box)


def _logits(teacher: Classifier, images: Images) -> Logits:
    return torch.cat([teacher(batch.to(teacher.device)).cpu() for batch in torch.split(images, _AT_ONCE)])
