"""A network as an ONNX file with 8-bit weights and activations, calibrated on a transfer set."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zskd.core.errors import ZskdError, one_line, readable_errors
from zskd.core.extras import import_extra
from zskd.core.files import whole_file
from zskd.core.memory import at_once
from zskd.core.rng import numpy_stream
from zskd.core.types import Images
from zskd.evaluation.gain import Latency, measure_latency
from zskd.evaluation.statistics import Share, share_of
from zskd.export.check import check_ending, check_shape, network_logits
from zskd.export.onnx import ENDING, finished, onnx_model
from zskd.export.recording import quiet
from zskd.models.class_names import check_classes
from zskd.models.classifier import Classifier
from zskd.models.exported import INPUT, Description, ExportedNetwork
from zskd.transfer_set.dataset import TransferSet

_CALIBRATION, _COMPARED = 500, 1000
"""Most images of a set for the ranges of the activations, and most others for the agreement."""
_BATCH = 50
_FINE = ["Gemm"]
"""Operations whose outputs stay float32: 256 different logits give ties between classes."""


@dataclass(frozen=True)
class Quantised:
    """What an int8 network costs and answers beside the same network in float32, both in onnxruntime."""

    agreement: Share
    """Images of the set for which both predict the same class; none of them were used for the calibration."""
    calibration: int
    """Images of the set that the ranges of the activations were read from."""
    bytes: int
    """Size of the file."""
    float_bytes: int
    """Size of the float32 file."""
    latency: tuple[Latency, ...]
    """By batch: of one image, and of 64 or fewer."""
    float_latency: tuple[Latency, ...]

    def lines(self) -> list[str]:
        """Return the agreement for people."""
        return [
            f"calibrated on {self.calibration:,} images of the set",
            f"agreement with float32 on others of the set  {self.agreement}",
        ]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return heading and rows of a table: float32, then int8."""
        head = ["network", "bytes", *(f"µs per image, batch {one.batch}" for one in self.latency)]
        rows = (("float32", self.float_bytes, self.float_latency), ("int8", self.bytes, self.latency))
        return head, [
            [name, f"{size:,}", *(f"{one.median:.3g}" for one in times)] for name, size, times in rows
        ]


def export_onnx_int8(
    classifier: Classifier, transfer_set: TransferSet, path: str | Path, *, seconds: float = 2.0
) -> Quantised:
    """Write a network as an ONNX file with 8-bit integers, and compare it with float32.

    Static quantisation of onnxruntime: QuantizeLinear and DequantizeLinear around each operation, weights per
    channel with 7 bits (all 8 overflow on x86 processors without VNNI), activations between the least and
    the largest value that up to 500 images of the set give.

    Args:
        classifier: not changed.
        transfer_set: of the classifier's shape and classes: best the one that it was trained with.
        path: of the file, which ends in .onnx.
        seconds: that each network is timed for, at most; a pass is never cut short.

    Returns:
        Agreement with float32 on up to 1,000 other images of the set, sizes, and times on one thread.

    Raises:
        ZskdError: the extra is not installed, the set has other classes, another shape or only one image, the
            path does not end in .onnx or cannot be written, or the network cannot be exported or quantised.
    """
    path = check_ending(path, ENDING)
    calibration, others = _rows(classifier, transfer_set)
    original = onnx_model(classifier)
    model = _quantised(original, Description.of(classifier, "int8"), _batches(transfer_set, calibration))
    networks = ExportedNetwork(original), ExportedNetwork(model)
    same = 0
    for images in _batches(transfer_set, others):
        predicted = network_logits(classifier, images).argmax(1)
        same += int((networks[1](images).argmax(1) == predicted).sum())
    float_latency, latency = measure_latency(networks, classifier.spec, seconds=seconds)
    with whole_file(path) as temporary:
        temporary.write_bytes(model)
    return Quantised(
        agreement=share_of(same, len(others)),
        calibration=len(calibration),
        bytes=len(model),
        float_bytes=len(original),
        latency=latency,
        float_latency=float_latency,
    )


def _rows(classifier: Classifier, transfer_set: TransferSet) -> tuple[Tensor, Tensor]:
    """Return rows of the set for the calibration, at most half of it, and others to compare on.

    Raises:
        ZskdError: the set does not fit the network, or holds one image.
    """
    check_classes(classifier.class_names, transfer_set.class_names)
    check_shape(classifier, transfer_set)
    if len(transfer_set) < 2:
        raise ZskdError(f"{transfer_set.folder} holds one image: give a set of at least two")
    order = torch.from_numpy(numpy_stream(0, "calibration", 0).permutation(len(transfer_set)))
    count = min(_CALIBRATION, len(order) // 2)
    return order[:count], order[count : count + _COMPARED]


def _batches(transfer_set: TransferSet, rows: Tensor) -> Iterator[Images]:
    """Yield the images of some rows, so many at a time as fit well into memory."""
    for part in torch.split(rows, at_once(_BATCH, transfer_set.shape)):
        yield transfer_set.images(part)


class _Calibration:
    """Images of the calibration, as onnxruntime asks for them."""

    def __init__(self, batches: Iterator[Images]) -> None:
        self._left = batches

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch; None at the end."""
        part = next(self._left, None)
        return None if part is None else {INPUT: part.numpy()}


def _quantised(original: bytes, description: Description, batches: Iterator[Images]) -> bytes:
    """Return the bytes of an ONNX model in 8 bits.

    Args:
        original: bytes of the float32 model.
        description: of the result.
        batches: images of the calibration (N, C, H, W).

    Raises:
        ZskdError: onnxruntime cannot quantise it.
    """
    onnx, quantization = import_extra("onnx"), _quantization()
    with (
        readable_errors(Path(tempfile.gettempdir()), "write temporary files to"),
        tempfile.TemporaryDirectory(prefix="zskd-") as folder,
    ):
        prepared, result = Path(folder, "prepared.onnx"), Path(folder, "int8.onnx")
        try:
            with quiet():
                quantization.shape_inference.quant_pre_process(onnx.load_from_string(original), prepared)
                quantization.quantize_static(
                    prepared,
                    result,
                    _Calibration(batches),
                    quant_format=quantization.QuantFormat.QDQ,
                    per_channel=True,
                    reduce_range=True,
                    activation_type=quantization.QuantType.QUInt8,
                    weight_type=quantization.QuantType.QInt8,
                    extra_options={"OpTypesToExcludeOutputQuantization": _FINE},
                )
            model = onnx.load(result)
        except OSError:  # a full disk is no fault of the network
            raise
        except Exception as error:  # the quantiser raises many kinds
            raise ZskdError(
                f"onnxruntime cannot quantise this network ({one_line(error)[:200]}): give --to onnx"
            ) from error
    return finished(model, description)


def _quantization() -> Any:
    import_extra("onnxruntime")
    import onnxruntime.quantization
    import onnxruntime.quantization.shape_inference

    return onnxruntime.quantization
