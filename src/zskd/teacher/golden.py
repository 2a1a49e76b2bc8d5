"""Golden pairs: images, and the logits of the original program for them.

Without data, only these can reveal a wrong mean or standard deviation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from zskd.core.arrays import read_arrays
from zskd.core.errors import ZskdError
from zskd.core.files import sha256_file
from zskd.core.reading import one_line_errors, opened
from zskd.core.tensors import read_tensors
from zskd.core.types import Images, Logits
from zskd.models.checkpoint import Golden
from zskd.models.classifier import Classifier
from zskd.models.modes import frozen
from zskd.models.output import Output, rows_of, two_classes

AT_ONCE = 64
"""Pairs in a pass through the network."""
_ZIP = b"PK\x03\x04"
"""First bytes of a `.npz` file, whatever its name."""
_GOLDEN_TOLERANCE = 1e-3
"""Largest difference of two logits, relative to the largest golden logit, that counts as agreement."""
_ROUNDINGS = 4
"""Relative roundings of the stored weights that the logits may differ by, if they are in low precision."""


def check_golden(classifier: Classifier, path: Path, *, epsilon: float = 0.0) -> Golden:
    """Compare the classifier's logits with recorded ones and return the result for the card.

    Args:
        classifier: any; its modes are restored.
        path: a safetensors or `.npz` file with `inputs` (N, C, H, W) in [0, 1] and `logits` (N, K): what the
            network returned (of a tuple or a mapping, the class scores alone; also (N,) or (N, K, 1, 1)), or
            the logits of a network that ends in a softmax.
        epsilon: relative spacing of the type of number in which the weights were stored.

    Raises:
        ZskdError: unreadable file, other shapes, or logits that differ by more than 0.1 % of the largest, and
            by more than four roundings of weights in low precision.
    """
    pairs = _read_golden(path)
    inputs, expected = pairs["inputs"], pairs["logits"]
    if tuple(inputs.shape[1:]) != classifier.spec.shape or expected.shape not in (
        (len(inputs), classifier.classes),
        (len(inputs), classifier.returned.width),
    ):
        raise ZskdError(
            f"{path}: inputs {tuple(inputs.shape)} and logits {tuple(expected.shape)} do not fit a network "
            f"of input {classifier.spec.shape} and {classifier.classes} classes"
        )
    if not 0 <= float(inputs.min()) <= float(inputs.max()) <= 1:
        raise ZskdError(f"{path}: inputs must be pixels in [0, 1], before mean and std are applied")
    tolerance = max(_GOLDEN_TOLERANCE, _ROUNDINGS * epsilon)
    worst, scale = _apart(classifier, inputs, expected, AT_ONCE)
    if not worst <= tolerance * scale and len(inputs) > AT_ONCE:  # a network may depend on its batch
        worst, scale = _apart(classifier, inputs, expected, len(inputs))
    if not worst <= tolerance * scale:
        raise ZskdError(
            f"the network disagrees with the golden pairs of {path} by up to {worst:.3g}: mean, std, "
            "channel order or architecture are not those of the original"
        )
    return Golden(pairs=len(inputs), largest_difference=worst, file_sha256=sha256_file(path))


def _apart(classifier: Classifier, inputs: Images, expected: Tensor, batch: int) -> tuple[float, float]:
    """Return the largest difference from recorded logits, and their scale, in batches of some images."""
    parts = torch.split(inputs, batch)
    with frozen(classifier), torch.no_grad():
        answers = [torch.cat([classifier(part) for part in parts])]
        if not classifier.reads_whole:  # the pairs hold what the network returns, after its named head
            returned = ((classifier.module(classifier.normalise(part)), len(part)) for part in parts)
            answers.append(torch.cat([classifier.returned.logits(*one) for one in returned]))
    return min(
        _difference(found, meant, classifier.returned)
        for found in answers
        for meant in _meanings(expected, classifier.returned)
    )


def _meanings(recorded: Tensor, output: Output) -> Iterator[Logits]:
    """Yield the logits (N, K) that recorded values may be: themselves, or what the network returned."""
    if two_classes(recorded).shape[1] == output.classes:
        yield two_classes(recorded)
    if recorded.shape[1] == output.width:
        yield replace(output, part=None).logits(recorded, len(recorded))  # the part alone is recorded


def _difference(found: Logits, expected: Logits, output: Output) -> tuple[float, float]:
    """Return the largest difference, and the largest expected logit, at least 1.

    Of a network that ends in a softmax, logits are known but for a constant of each image.
    """
    if output.kind in ("probabilities", "log-probabilities"):
        found, expected = found.log_softmax(1), expected.log_softmax(1)
    return float(output.apart(found, expected).max()), max(1.0, float(expected.abs().max()))


def _read_golden(path: Path) -> dict[str, Tensor]:
    with opened(path) as stream:
        is_zip = stream.read(len(_ZIP)) == _ZIP
    if is_zip or path.suffix == ".npz":
        arrays = read_arrays(path, ("inputs", "logits"))
        with one_line_errors(f"{path} is no readable .npz of plain arrays"):
            pairs = {key: torch.from_numpy(one) for key, one in arrays.items()}
    else:
        pairs = read_tensors(path)
    found = [pairs[key] for key in ("inputs", "logits") if key in pairs]
    if any(one.is_complex() or not bool(torch.isfinite(one).all()) for one in found):
        raise ZskdError(f"{path}: inputs and logits must be real, finite numbers")
    several = len(found) == 2 and found[0].ndim == 4
    rows = rows_of(found[1].float(), len(found[0])) if several else None
    if rows is None:
        raise ZskdError(
            f"{path} must hold `inputs` (N, C, H, W) in [0, 1] and `logits` (N, K), N at least 1; it holds "
            f"{' and '.join(str(tuple(one.shape)) for one in found) or 'neither'}"
        )
    return {"inputs": found[0].float(), "logits": rows}
