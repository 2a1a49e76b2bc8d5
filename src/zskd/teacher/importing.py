"""Import of a trained teacher: `.safetensors`, a plain `state_dict`, or the reproduction's MATLAB file.

No code in such a file is run. Without data, only a golden file (inputs with the logits of the original
network) can reveal a wrong mean or standard deviation.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zskd.core.errors import ZskdError, one_line
from zskd.core.files import sha256_file
from zskd.core.tensors import read_tensors
from zskd.models.checkpoint import Card, Golden, Origin, load_weights
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import build, describe
from zskd.models.modes import frozen

_GOLDEN_TOLERANCE = 1e-3
"""Largest difference of two logits, relative to the largest golden logit, that counts as agreement."""
_MATLAB_LAYERS = ("conv0", "conv1", "fc0", "fc1", "fc2")


def import_teacher(
    path: Path,
    *,
    model: str,
    spec: InputSpec,
    classes: int | None = None,
    class_names: tuple[str, ...] | None = None,
    head: str | None = None,
    golden: Path | None = None,
) -> tuple[Classifier, Card]:
    """Read a trained network from a file and check it.

    Args:
        path: `.safetensors`, `.pt`/`.pth` with a plain state_dict, or `.mat` of the reproduction.
        model: built-in name or `package.module:factory`; a `.mat` file holds a LeNet-5.
        spec: size, normalisation and box of its input.
        classes: number of classes of a built-in network; if absent, that of the names or the last tensor.
        class_names: one per class.
        head: dotted name of the last linear layer; needed when it cannot be found.
        golden: `.safetensors` or `.npz` with `inputs` (N, C, H, W) in [0, 1] and `logits` (N, K).

    Returns:
        The classifier, frozen, and its card.

    Raises:
        ZskdError: unreadable or unsafe file, another architecture, non-finite values, or golden pairs
            that disagree.
    """
    tensors = _read_weights(path)
    known = classes or (len(class_names) if class_names else None) or _count_classes(tensors)
    architecture = describe(model, shape=spec.shape, classes=known)
    module = build(architecture, run_code=True)
    load_weights(module, tensors, path)
    classifier = Classifier(module, spec=spec, class_names=class_names, head=head, copy=False).freeze()
    checked = check_golden(classifier, golden) if golden else None
    origin = Origin(how="imported", file=path.name, file_sha256=sha256_file(path))
    return classifier, Card(architecture=architecture, origin=origin, golden=checked)


def check_golden(classifier: Classifier, path: Path) -> Golden:
    """Compare the classifier's logits with recorded ones and return the result for the card.

    Args:
        classifier: any; its modes are restored.
        path: `.safetensors` or `.npz` with `inputs` (N, C, H, W) in [0, 1] and `logits` (N, K).

    Raises:
        ZskdError: unreadable file, other shapes, or logits that differ by more than 0.1 % of the largest.
    """
    pairs = _read_golden(path)
    inputs, expected = pairs["inputs"], pairs["logits"]
    if tuple(inputs.shape[1:]) != classifier.spec.shape or expected.shape != (
        len(inputs),
        classifier.classes,
    ):
        raise ZskdError(
            f"{path}: inputs {tuple(inputs.shape)} and logits {tuple(expected.shape)} do not fit a network "
            f"of input {classifier.spec.shape} and {classifier.classes} classes"
        )
    if not 0 <= float(inputs.min()) <= float(inputs.max()) <= 1:
        raise ZskdError(f"{path}: inputs must be pixels in [0, 1], before mean and std are applied")
    with frozen(classifier), torch.no_grad():
        found = classifier(inputs)
    scale = max(1.0, float(expected.abs().max()))
    worst = float((found - expected).abs().max())
    if not worst <= _GOLDEN_TOLERANCE * scale:
        raise ZskdError(
            f"the network disagrees with the golden pairs of {path} by up to {worst:.3g}: mean, std, "
            "channel order or architecture are not those of the original"
        )
    return Golden(pairs=len(inputs), largest_difference=worst, file_sha256=sha256_file(path))


def _read_golden(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as archive:
                pairs = {key: torch.from_numpy(np.asarray(archive[key])) for key in archive.files}
        except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
            raise ZskdError(f"{path} is no readable .npz of plain arrays ({one_line(error)})") from error
    else:
        pairs = read_tensors(path)
    shapes = {key: pairs[key].ndim for key in ("inputs", "logits") if key in pairs}
    if shapes != {"inputs": 4, "logits": 2} or not len(pairs["inputs"]):
        raise ZskdError(f"{path} must hold `inputs` (N, C, H, W) in [0, 1] and `logits` (N, K), N at least 1")
    if any(pairs[key].is_complex() or not bool(torch.isfinite(pairs[key]).all()) for key in shapes):
        raise ZskdError(f"{path}: inputs and logits must be real, finite numbers")
    return {key: pairs[key].float() for key in shapes}


def _read_weights(path: Path) -> dict[str, Tensor]:
    readers = {
        ".safetensors": read_tensors,
        ".pt": _read_state_dict,
        ".pth": _read_state_dict,
        ".bin": _read_state_dict,
        ".mat": _read_matlab,
    }
    if not path.is_file():
        raise ZskdError(f"there is no file {path}")
    if path.suffix not in readers:
        raise ZskdError(f"{path}: teachers are read from {', '.join(readers)}, not from {path.suffix!r}")
    return readers[path.suffix](path)


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a `torch.save`d dict of tensors with the restricted unpickler."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ZskdError(
            f"{path} is refused: it is a pickle that would run code or holds more than tensors. Save only "
            "the weights in the program that made it: torch.save(model.state_dict(), 'teacher.pt')"
        ) from error
    except Exception as error:  # a damaged file fails in many ways
        raise ZskdError(f"{path} is not a complete state_dict file ({one_line(error)[:200]})") from error
    for wrapper in ("state_dict", "model", "model_state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    plain = isinstance(loaded, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided
        for name, value in loaded.items()
    )
    if not plain:
        raise ZskdError(f"{path} holds no plain state_dict: save model.state_dict() alone")
    prefix = "module."  # torch.nn.DataParallel
    if all(name.startswith(prefix) for name in loaded):
        loaded = {name.removeprefix(prefix): value for name, value in loaded.items()}
    return dict(loaded)


def _read_matlab(path: Path) -> dict[str, Tensor]:
    """Read LeNet-5 from the reproduction's MATLAB file.

    Its convolutions are height, width, in, out; its linear weights in, out; and the 400 rows of `fc0`
    follow a 5×5×16 height-width-channel flattening and ours is channel-height-width.
    """
    from scipy.io import loadmat

    try:
        arrays = loadmat(path)
    except Exception as error:  # scipy raises many kinds for a damaged file
        raise ZskdError(f"{path} is no readable MATLAB file ({one_line(error)})") from error
    scope = "Teacher" if "Teacher/conv0/weights" in arrays else "Student"
    tensors: dict[str, Tensor] = {}
    try:
        for layer in _MATLAB_LAYERS:
            weight = torch.from_numpy(np.asarray(arrays[f"{scope}/{layer}/weights"], dtype=np.float32))
            bias = torch.from_numpy(np.asarray(arrays[f"{scope}/{layer}/biases"], dtype=np.float32))
            if layer == "fc0":
                channels = tensors["conv1.weight"].shape[0]
                weight = weight.reshape(5, 5, channels, -1).permute(2, 0, 1, 3).reshape(25 * channels, -1)
            weight = weight.permute(3, 2, 0, 1) if weight.ndim == 4 else weight.T
            tensors[f"{layer}.weight"], tensors[f"{layer}.bias"] = weight.contiguous(), bias.reshape(-1)
    except KeyError as error:
        raise ZskdError(f"{path} is no file of the reproduction: {error} is missing") from error
    except (RuntimeError, TypeError, ValueError) as error:
        raise ZskdError(f"{path}: a layer has not the shape of the reproduction's LeNet-5") from error
    return tensors


def _count_classes(tensors: dict[str, Tensor]) -> int:
    """Classes of a built-in network: rows of the last two-dimensional tensor."""
    rows = [int(tensor.shape[0]) for tensor in tensors.values() if tensor.ndim == 2]
    return rows[-1] if rows else 10
