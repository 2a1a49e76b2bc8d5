"""An ONNX file that `zskd export` wrote, run by onnxruntime, and what its metadata say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

import torch
from pydantic import Field

from zskd.core.artefact import Artefact, ClassNames, Sha256, Shape, parse
from zskd.core.errors import ZskdError
from zskd.core.extras import import_extra
from zskd.core.reading import one_line_errors, opened
from zskd.core.types import Images, Logits
from zskd.models.checkpoint import Number
from zskd.models.classifier import Classifier
from zskd.models.preparation import check_image_shape

INPUT, OUTPUT = "images", "logits"
"""Names of the input and the output of an exported network."""
_ADVICE: Final = "give a file that zskd export wrote"
_KEY: Final = "zskd"
"""Key of the metadata of an ONNX file whose value describes the network, as JSON."""


class Description(Artefact):
    """What an exported file tells of its network."""

    format: Literal["zskd-export/1"] = "zskd-export/1"
    class_names: Annotated[ClassNames, Field(min_length=2)]
    shape: Shape
    """Channels, height and width of the images, whose pixels are in [0, 1]."""
    network_sha256: Sha256
    """Fingerprint of the network that was exported (`Classifier.fingerprint`)."""
    box: tuple[Number, Number] | None = None
    """Least and largest pixel value of a valid image; absent: 0 and 1."""
    weights: Literal["float32", "int8"] = "float32"

    @classmethod
    def of(cls, classifier: Classifier, weights: Literal["float32", "int8"] = "float32") -> Description:
        """Return the description of a network."""
        return cls(
            format="zskd-export/1",
            class_names=classifier.class_names,
            shape=classifier.spec.shape,
            network_sha256=classifier.fingerprint(),
            weights=weights,
            **({} if classifier.spec.box == (0, 1) else {"box": classifier.spec.box}),
        )

    def metadata(self) -> dict[str, str]:
        """Return the metadata of an ONNX file: one key with JSON."""
        return {_KEY: json.dumps(self.to_json(), ensure_ascii=False)}


class ExportedNetwork:
    """A network in an ONNX file that `zskd export` wrote, float32 or int8, on one or more threads of the CPU.

    Args:
        source: the file, or its bytes.
        threads: that compute; 0 for one per core.

    Raises:
        ZskdError: onnxruntime is not installed, the file is missing or no ONNX file that it can run, or
            `zskd export` did not write it.
    """

    def __init__(self, source: str | Path | bytes, *, threads: int = 1) -> None:
        runtime = import_extra("onnxruntime")
        source = Path(source) if isinstance(source, str) else source
        name, advice = "the exported network", "export it with --to pt2"
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # errors are raised as well
        if isinstance(source, Path):
            name, advice = str(source), _ADVICE
            with opened(source) as stream:
                source = stream.read()
        with one_line_errors(f"onnxruntime cannot run {name}", advice):
            self._session = runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        self.description = described(self._session.get_modelmeta().custom_metadata_map, name)
        with one_line_errors(f"{name} is not what it says of itself", _ADVICE):
            logits = self(torch.rand(2, *self.shape))
            if logits.shape != (2, len(self.class_names)):
                raise ValueError(f"it returns {tuple(logits.shape)} for two images")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.description.class_names

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        return self.description.shape

    def __call__(self, images: Images) -> Logits:
        """Return logits (N, K) of images (N, C, H, W) in [0, 1].

        Raises:
            ZskdError: the images have another shape.
        """
        check_image_shape(images, self.shape)
        (logits,) = self._session.run([OUTPUT], {INPUT: images.cpu().contiguous().numpy()})
        return torch.from_numpy(logits)


def is_exported(metadata: Mapping[str, str]) -> bool:
    """Return whether the metadata of an ONNX file are those that `zskd export` writes."""
    return _KEY in metadata


def described(metadata: Mapping[str, str], name: str) -> Description:
    """Return what the metadata of an ONNX file say.

    Raises:
        ZskdError: nothing, or something else than `zskd export` writes.
    """
    try:
        values = json.loads(metadata.get(_KEY, ""))
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise ZskdError(f"{name} does not tell its classes and the shape of its images: {_ADVICE}")
    return parse(values, Description, f"the description in {name}", _ADVICE)
