"""Does an exported file return what the network returns? Compared on pictures in batches of several sizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from zskd.core.errors import ZskdError, one_line
from zskd.core.memory import at_once, is_large
from zskd.core.passes import uncounted
from zskd.core.rng import numpy_stream
from zskd.core.types import Images, Logits
from zskd.data.drawn import draw_start_images
from zskd.evaluation.gain import Run
from zskd.evaluation.metrics import checked_images
from zskd.models.classifier import Classifier
from zskd.models.modes import frozen
from zskd.transfer_set.dataset import TransferSet

BATCHES = (1, 7, 64)
"""Images in a pass of the comparison, fewer of more than 64×64 pixels; all pictures go through in batches of
each size."""
_PICTURES, _LARGE_PICTURES = 1000, 64
"""Pictures that are compared; fewer of more than 64×64 pixels, where a pass takes long."""
_BOUND = 1e-4
"""Largest difference of two logits, relative to the largest logit, that counts as rounding."""


@dataclass(frozen=True)
class Comparison:
    """How far the logits of an exported file are from those of its network."""

    pictures: int
    difference: float
    """Largest absolute difference of two logits; of a sigmoid near 0 or 1, that of logits which float32 tells
    apart."""
    largest: float
    """Largest absolute logit of the network."""
    batches: tuple[int, ...]
    """Images in a pass."""

    def __str__(self) -> str:
        *first, last = map(str, self.batches)
        sizes = " and ".join([", ".join(first), last] if first else [last])
        return (
            f"on {self.pictures:,} pictures in batches of {sizes} its logits differ by {self.difference:.1e} "
            f"at most from those of the network, which are up to {self.largest:.3g}"
        )


def check_ending(path: str | Path, ending: str) -> Path:
    """Return the path of a file whose name ends as those of its format do.

    Raises:
        ZskdError: it does not.
    """
    path = Path(path)
    if path.suffix != ending:
        raise ZskdError(f"{path} does not end in {ending}: give a file name that does")
    return path


def check_pictures(classifier: Classifier, given: Images | TransferSet | None = None) -> Images:
    """Return pictures to compare on (N, C, H, W): those given, the first of a set, or random shapes.

    Args:
        classifier: tells shape and box.
        given: images in [0, 1], or a set; None: random shapes.

    Raises:
        ZskdError: the images have another shape or pixels of another kind, or there are none.
    """
    count = _LARGE_PICTURES if is_large(classifier.spec.shape) else _PICTURES
    if isinstance(given, TransferSet):
        check_shape(classifier, given)
        return given.images(torch.arange(min(count, len(given))))
    if given is not None:
        images = checked_images(given, classifier.spec).cpu()
        if not len(images):
            raise ZskdError("there are no images to compare on: give some, or leave images out")
        return images
    streams = [numpy_stream(0, "export", number) for number in range(count)]
    return draw_start_images("shapes", streams, classifier.spec.shape, classifier.spec.box, option="shapes")


def check_shape(classifier: Classifier, transfer_set: TransferSet) -> None:
    """Check that a network takes the images of a set.

    Raises:
        ZskdError: it does not.
    """
    if transfer_set.shape != classifier.spec.shape:
        raise ZskdError(
            f"the images of {transfer_set.folder} are {transfer_set.shape}, and the network takes "
            f"{classifier.spec.shape}: give a set of that shape"
        )


def network_logits(classifier: Classifier, images: Images, batch: int = BATCHES[-1]) -> Logits:
    """Return the logits (N, K) of the network in batches, in evaluation mode, on the CPU."""
    parts, device = torch.split(images, batch), classifier.device
    with frozen(classifier), uncounted(), torch.no_grad():
        return torch.cat([classifier(part.to(device)) for part in parts]).cpu()


def compare(run: Run, classifier: Classifier, images: Images, *, what: str) -> Comparison:
    """Compare an exported network with the original in batches of several sizes.

    Args:
        run: the exported network.
        classifier: the original; not changed.
        images: (N, C, H, W) in [0, 1].
        what: name of the exported file, for messages.

    Raises:
        ZskdError: the exported network fails, or differs by more than rounding.
    """
    largest, worst = 0.0, 0.0
    batches = tuple(sorted({at_once(batch, images.shape) for batch in BATCHES}))
    for batch in batches:
        # a network without running statistics answers otherwise in another batch
        expected = network_logits(classifier, images, batch)
        largest = max(largest, float(expected.abs().max()))
        try:
            with torch.inference_mode():
                found = torch.cat([run(part) for part in torch.split(images, batch)])
        except Exception as error:  # runtimes raise many kinds
            raise ZskdError(
                f"{what} was not written: it fails in batches of {batch} ({one_line(error)[:150]}): choose "
                "another format with --to"
            ) from error
        same = found.shape == expected.shape
        difference = float(classifier.returned.apart(found, expected).max()) if same else float("nan")
        if not difference <= _BOUND * largest:
            again = network_logits(classifier, images, batch)
            if not float(classifier.returned.apart(again, expected).max()) <= _BOUND * largest:
                raise ZskdError(
                    f"{what} was not written: the network's logits depend on chance: switch dropout and "
                    "other random layers off in evaluation mode"
                )
            raise ZskdError(
                f"{what} was not written: in batches of {batch} its logits differ from the network's by "
                f"{difference:.2g}, and the largest is {largest:.3g}: choose another format with --to"
            )
        worst = max(worst, difference)
    return Comparison(len(images), worst, largest, batches)
