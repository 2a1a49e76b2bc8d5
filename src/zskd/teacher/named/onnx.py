"""Find the network of an ONNX file: `onnx:FILE`, or a path that ends in `.onnx`."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from zskd.core.errors import ZskdError, one_line
from zskd.core.extras import import_extra
from zskd.models.exported import described, is_exported
from zskd.models.libraries.onnx import ConvertedOnnx, OnnxNetwork, filled
from zskd.models.modes import in_mode
from zskd.teacher.named.facts import Fact, Facts, Found, Given
from zskd.teacher.named.source import Source

_TOLERANCE = 1e-3
"""Largest difference from onnxruntime, relative to its largest output, that counts as agreement."""
_OF_INTEGERS = re.compile(r"QuantizeLinear|^QLinear|Integer$")
"""Operators of quantised networks."""


def find(source: Source, given: Given) -> Found:
    """Convert an ONNX file and compare the result with onnxruntime.

    Args:
        source: the file.
        given: channels, height and width, where the file leaves them open.

    Raises:
        ZskdError: no ONNX file of a network for images, an operator that cannot be converted, or outputs
            that differ from those of onnxruntime.
    """
    path = Path(source.name)
    model, metadata = _read(path)
    network = ConvertedOnnx(model, str(path))
    architecture = OnnxNetwork(onnx_sha256=hashlib.sha256(model).hexdigest())
    shape = given.known_shape
    sizes = [own or (shape[i] if shape else None) for i, own in enumerate(network.shape)]
    if None in sizes:
        open_sides = ", ".join(
            n for n, s in zip(("channels", "height", "width"), sizes, strict=True) if not s
        )
        raise ZskdError(
            f"{path} leaves {open_sides} of its images open: give --shape, such as --shape 3 224 224"
        )
    used = (int(sizes[0] or 0), int(sizes[1] or 0), int(sizes[2] or 0))
    facts = Facts(
        shape=Fact(used, "input of the ONNX file"), others={"conversion": compare(network, used, path)}
    )
    if is_exported(metadata):  # the normalisation is inside
        told, own = "metadata of zskd export", described(metadata, str(path))
        facts = replace(facts, mean=Fact((0.0,), told), std=Fact((1.0,), told))
        facts = replace(facts, class_names=Fact(own.class_names, told), box=own.box and Fact(own.box, told))
    return Found(network, architecture, facts)


def _read(path: Path) -> tuple[bytes, dict[str, str]]:
    """Return an ONNX file with the weights that lie in files beside it, and its metadata.

    Raises:
        ZskdError: it is no such file, or its network is quantised.
    """
    onnx = import_extra("onnx")
    if not path.is_file():
        raise ZskdError(f"there is no file {path}")
    try:
        model = onnx.load(path)
        whole = bytes(model.SerializeToString())
    except Exception as error:  # protobuf and onnx raise many kinds
        raise ZskdError(
            f"{path} is no complete ONNX file of at most 2 GiB ({one_line(error)[:150]})"
        ) from error
    # outputs of integers differ from those of any network of floats
    integers = sorted({node.op_type for node in model.graph.node if _OF_INTEGERS.search(node.op_type)})
    if integers:
        raise ZskdError(
            f"{path} holds a quantised network ({', '.join(integers)}): give the network before quantisation"
        )
    return whole, {one.key: one.value for one in model.metadata_props}


def compare(network: ConvertedOnnx, shape: tuple[int, int, int], path: Path) -> str:
    """Compare a converted network with onnxruntime on random images, and return the result in words.

    Args:
        network: made of the file.
        shape: channels, height and width.
        path: of the file, for messages.

    Raises:
        ZskdError: the outputs differ, or onnxruntime cannot run the file.
    """
    runtime = import_extra("onnxruntime")
    images = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = runtime.InferenceSession(network.model, options, providers=["CPUExecutionProvider"])
        name, runs = session.get_inputs()[0].name, []
        for part in torch.split(images, network.file_batch or len(images)):
            inputs = filled(part, network.file_batch or len(part))
            inputs = inputs.permute(0, 2, 3, 1) if network.channels_last else inputs
            runs.append(session.run(None, {name: np.ascontiguousarray(inputs.numpy())}))
    except Exception as error:  # the runtime raises many kinds
        advice = ": it may take only as many images as its export had: export it again with one image"
        advice = advice if network.batch else ""
        raise ZskdError(f"onnxruntime cannot run {path} ({one_line(error)[:150]}){advice}") from error
    outputs = (one for one in zip(*runs, strict=True) if one[0].ndim and one[0].dtype.kind == "f")
    expected = [torch.from_numpy(np.concatenate(one)[: len(images)]) for one in outputs]
    with torch.no_grad(), in_mode(network, training=False):
        try:
            answer = network(images)
        except Exception as error:  # converted operators raise many kinds
            raise ZskdError(
                f"{path}: the converted network fails ({one_line(error)[:150]}): export it with another "
                "opset, or give the code of the network with its weights (net.py:build@weights.pt)"
            ) from error
    worst = 0.0
    for found, meant in zip(answer if isinstance(answer, tuple) else (answer,), expected, strict=True):
        difference = float((found - meant).abs().max()) if found.shape == meant.shape else float("inf")
        if not difference <= _TOLERANCE * max(1.0, float(meant.abs().max())):
            raise ZskdError(
                f"{path}: the network that onnx2fx made of it differs from onnxruntime by {difference:.3g}: "
                "export it with another opset"
            )
        worst = max(worst, difference)
    return f"onnx2fx; agrees with onnxruntime {runtime.__version__} on random images to {worst:.0e}"
