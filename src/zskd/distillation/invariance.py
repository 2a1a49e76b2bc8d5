"""Which changes of an image leave the teacher's answers as they are: the others can be left out of a recipe.

A flip or another colour makes another digit, another traffic sign or another cell; whether it does is asked
of the teacher, on images of the transfer set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from math import prod
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from zskd.config.distillation import DistillConfig
from zskd.config.transforms import AugmentConfig, WarpConfig
from zskd.core.artefact import Artefact, Sha256, read_artefact, write_artefact
from zskd.core.files import sha256_json
from zskd.core.progress import Progress
from zskd.core.rng import torch_stream
from zskd.core.types import Images
from zskd.data.transforms import augment
from zskd.distillation.losses import divergences
from zskd.models.classifier import Classifier
from zskd.models.many_images import logits_in_parts
from zskd.models.modes import frozen
from zskd.transfer_set.dataset import TransferSet

CHANGES: Final = {
    "horizontal flip": ("flip",),
    "vertical flip": ("flip_vertical",),
    "colour": ("brightness", "contrast", "saturation", "hue"),
    "rotation": ("rotation",),
    "crop": ("crop",),
    "shift": ("shift",),
    "scale": ("scale",),
    "shear": ("shear",),
    "saving as JPEG": ("jpeg",),
}
"""Name of a change -> its settings in `AugmentConfig`."""
_CERTAIN = frozenset({"flip", "flip_vertical", "jpeg"})
"""Settings that are probabilities; the answers are compared where the change happens."""
_NONE = AugmentConfig()
"""No change."""
_MAPS = frozenset(one.name for one in fields(WarpConfig))
"""Settings of affine maps, which only a share of the images gets."""

ENOUGH: Final = 60.0
"""Least agreement, in percent, of the teacher's answers before and after a change that is used."""
_IMAGES = 1000
"""Images of the transfer set that the teacher is asked about at most, …"""
_VALUES = 2**26
"""… and pixel values of all of them together."""
ASKED: Final = "changes.json"


class AskedChange(Artefact):
    """How much the teacher's answers change under a change of its images."""

    change: str
    """A key of `CHANGES`."""
    agreement: float
    """Percentage of the images with the same predicted class, 0 to 100."""
    divergence: float
    """Mean KL(T(x) ‖ T(changed x)) in nats."""

    @property
    def used(self) -> bool:
        """Whether images are changed so: the answers stay the same for enough of them."""
        return self.agreement >= ENOUGH

    @property
    def words(self) -> str:
        """What was measured, and what follows."""
        return (
            f"{self.change} {'is used' if self.used else 'is left out'}: the teacher predicts the same class "
            f"for {self.agreement:.1f} % of the images (KL {self.divergence:.3f})"
        )


class AskedChanges(Artefact):
    """What was measured on the images of one set, kept so that a training that is resumed uses the same."""

    key: Sha256
    """Hash of the teacher, the set, the settings and the seed."""
    changes: tuple[AskedChange, ...]


def settle_changes(
    teacher: Classifier,
    transfer_set: TransferSet | None,
    config: DistillConfig,
    file: Path | None,
    *,
    seed: int = 0,
    progress: Progress,
) -> DistillConfig:
    """Return the settings without the changes under which the teacher's answers change, if they ask for it.

    Args:
        teacher: run in evaluation mode; left as it is.
        transfer_set: of which evenly spaced images are changed; None where a generator makes all images.
        config: settings. With `changes: all`, or without a set, they are returned as they are.
        file: that the measurements are read from, or written to; None: they are not kept.
        seed: of the random changes.
        progress: receives a line for each change.
    """
    if config.changes == "all" or transfer_set is None:
        return config
    identity = {"teacher": teacher.fingerprint(), "set": transfer_set.fingerprint()}
    key = sha256_json(identity | {"augment": repr(config.augment), "seed": seed})
    kept = None
    if file is not None and file.is_file():
        kept = read_artefact(file, AskedChanges, "what the teacher was asked", "delete it")
    if kept is None or kept.key != key:
        count = min(_IMAGES, len(transfer_set), _VALUES // prod(transfer_set.shape))
        # evenly spaced, as the first may all be of one class
        images = transfer_set.images(torch.arange(count) * len(transfer_set) // count)
        asked = measure_changes(teacher, images, config.augment, seed=seed)
        kept = AskedChanges(key=key, changes=tuple(asked))
        if file is not None:
            write_artefact(file, kept)
    found = kept.changes
    for one in found:
        progress.log(f"distill: {one.words}")
    unfit = [one.change for one in found if not one.used]
    return replace(config, changes="all", augment=without(config.augment, unfit))


def read_changes(file: Path) -> tuple[AskedChange, ...]:
    """Return what the teacher was asked before a training; nothing without the file.

    Args:
        file: as for `settle_changes`.

    Raises:
        ZskdError: it is damaged.
    """
    if not file.is_file():
        return ()
    return read_artefact(file, AskedChanges, "what the teacher was asked", "delete it").changes


def measure_changes(
    teacher: Classifier, images: Images, config: AugmentConfig, *, seed: int = 0
) -> list[AskedChange]:
    """Return how much the teacher's answers change under each change that the settings use.

    Args:
        teacher: run in evaluation mode; left as it is.
        images: (N, C, H, W), at least one.
        config: the strength of each change; a flip is measured on every image, whatever its probability.
        seed: of the random changes.
    """
    found: list[AskedChange] = []
    images = images.to(teacher.device)
    with frozen(teacher), torch.no_grad():
        before = logits_in_parts(teacher, images, len(images))
        for name, settings in CHANGES.items():
            used: dict[str, Any] = {
                one: getattr(config, one)
                for one in settings
                if getattr(config, one) != getattr(_NONE, one) and (config.share or one not in _MAPS)
            }
            if used:
                used |= dict.fromkeys(used.keys() & _CERTAIN, 1.0)
                alone = AugmentConfig(outside=config.outside, jpeg_quality=config.jpeg_quality, **used)
                changed = augment(images, alone, teacher.spec.box, torch_stream(seed, f"change {name}", 0))
                if torch.equal(changed, images):  # as hue of grey images
                    continue
                after = logits_in_parts(teacher, changed, len(images))
                found.append(_compared(name, before, after))
    return found


def without(config: AugmentConfig, names: Sequence[str]) -> AugmentConfig:
    """Return the settings without some changes.

    Args:
        config: all of them.
        names: of `CHANGES`.
    """
    left_out = {setting: getattr(_NONE, setting) for name in names for setting in CHANGES[name]}
    return replace(config, **left_out)


def _compared(name: str, before: Tensor, after: Tensor) -> AskedChange:
    same = (before.argmax(1) == after.argmax(1)).float().mean()
    return AskedChange(
        change=name, agreement=100 * float(same), divergence=float(divergences(after, before).mean())
    )
