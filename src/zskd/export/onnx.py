"""A network as an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from zskd.core.errors import ZskdError, one_line
from zskd.core.extras import import_extra
from zskd.core.files import whole_file
from zskd.core.types import Images
from zskd.export.check import Comparison, check_ending, check_pictures, compare
from zskd.export.recording import quiet, record
from zskd.models.classifier import Classifier
from zskd.models.exported import INPUT, OUTPUT, Description, ExportedNetwork

ENDING = ".onnx"


def export_onnx(classifier: Classifier, path: str | Path, *, images: Images | None = None) -> Comparison:
    """Write a network as an ONNX file: input `images` (N, C, H, W) in [0, 1], output `logits` (N, K).

    N is open, the normalisation is inside, and the metadata tell the class names, the shape of the images and
    the network's fingerprint. The file is run by onnxruntime and compared with the network before it is
    written.

    Args:
        classifier: not changed.
        path: of the file, which ends in .onnx.
        images: to compare on (N, C, H, W) in [0, 1]; 1,000 random shapes when absent, 64 if they are large.

    Returns:
        The comparison.

    Raises:
        ZskdError: the extra is not installed, the path does not end in .onnx or cannot be written, the
            network cannot be exported, or the file's logits differ by more than rounding.
    """
    path = check_ending(path, ENDING)
    pictures = check_pictures(classifier, images)
    model = onnx_model(classifier)
    comparison = compare(ExportedNetwork(model), classifier, pictures, what=str(path))
    with whole_file(path) as temporary:
        temporary.write_bytes(model)
    return comparison


def onnx_model(classifier: Classifier) -> bytes:
    """Return a network as the bytes of an ONNX file; the same network gives the same bytes.

    Raises:
        ZskdError: the extra is not installed, or the network cannot be exported.
    """
    import_extra("onnxscript")
    import_extra("onnx")
    program = record(classifier)
    try:
        with quiet(), torch.no_grad():
            exported = torch.onnx.export(
                program,
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter raises many kinds
        raise ZskdError(f"torch.onnx.export cannot export this network ({one_line(error)[:200]})") from error
    assert exported is not None
    model = exported.model_proto
    _name_batch(model)
    return finished(model, Description.of(classifier))


def finished(model: Any, description: Description) -> bytes:
    """Return the bytes of an ONNX model with a description, without the source lines that it was made of.

    Args:
        model: protocol buffer; changed in place.
        description: for its metadata.
    """
    graph = model.graph
    for one in (
        model,
        graph,
        *graph.node,
        *graph.initializer,
        *graph.input,
        *graph.output,
        *graph.value_info,
    ):
        del one.metadata_props[:]
        one.doc_string = ""
    import_extra("onnx").helper.set_model_props(model, description.metadata())
    written: bytes = model.SerializeToString(deterministic=True)
    return written


def _name_batch(model: Any) -> None:
    """Name the open number of images; torch gives it a number that differs from export to export."""
    name = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for one in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for size in one.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = size.dim_param.replace(name, "batch")
