"""A network from an ONNX file, converted to torch with gradients by onnx2fx.

A checkpoint of such a network keeps the ONNX file, which is converted again when the checkpoint is opened.
onnx2fx was taken because it converts what today's exporters write: of 43 exports of 12 networks (torch 2.13,
opsets 11 to 20) it converts 43, and onnx2torch 1.5.15, which ends at opset 17, converts 14. Its graphs hold
functions of weights; `onnx_layers` makes layers of them, so that the head and batch-norm are found.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from zskd.core.artefact import Artefact, Sha256
from zskd.core.errors import ZskdError, one_line
from zskd.core.extras import import_extra
from zskd.core.reading import opened
from zskd.models.libraries.onnx_layers import convert_with_layers
from zskd.models.modes import in_mode
from zskd.models.narrow.changes import Changes, apply_changes, find_changes

ONNX: Final = "network.onnx"
"""Name of the ONNX file in a checkpoint."""
_COLOURS = (1, 3)
"""Numbers of channels by which the layout of an input is recognised."""


class OnnxNetwork(Artefact):
    """A network from the ONNX file of a checkpoint."""

    onnx_sha256: Sha256
    """SHA-256 of the ONNX file."""

    @property
    def title(self) -> str:
        """Name for messages."""
        return "onnx"

    def build(self, folder: Path) -> ConvertedOnnx:
        """Convert the ONNX file of a checkpoint folder.

        Raises:
            ZskdError: the file is missing, is not the one of the card, or cannot be converted.
        """
        return ConvertedOnnx(self.read(folder), str(folder / ONNX))

    def read(self, folder: Path) -> bytes:
        """Return the bytes of the ONNX file of a checkpoint folder.

        Raises:
            ZskdError: the file is missing, or is not the one of the card.
        """
        path = folder / ONNX
        if not path.is_file():
            raise ZskdError(f"{path} is missing: copy the whole folder again")
        with opened(path) as stream:
            model = stream.read()
        if hashlib.sha256(model).hexdigest() != self.onnx_sha256:
            raise ZskdError(f"{path} is not the file of its card: copy the whole folder again")
        return model


class ConvertedOnnx(nn.Module):
    """The network of an ONNX file.

    A file may hold the number of images of its export in its shapes, whatever it says of its input. The
    number is then taken out of them; where that is not enough, the network runs so many images at a time.

    Args:
        model: the file's bytes, with all its weights.
        title: name of the file, for messages.

    Raises:
        ZskdError: it is no ONNX file, does not take one batch of float32 images, has an operator that cannot
            be converted, or was exported in training mode.
    """

    def __init__(self, model: bytes, title: str) -> None:
        super().__init__()
        self.model = model
        self.shape, self.channels_last, fixed = read_input(parse_model(model, title), title)
        """Channels, height and width; None where the file leaves them open."""
        self.batch: int | None = None
        """Images per pass, where the network takes only so many."""
        self.network = convert_with_layers(open_batch(model), title)
        self.file_batch = fixed if fixed or self._takes_any_batch() else 1
        """Images per pass of the file itself; None for any number."""
        if self.file_batch and not (fixed and self._takes_any_batch()):
            as_exported = self.network
            self.network = convert_with_layers(open_batch(model, self.file_batch), title)
            if not self._takes_any_batch():
                self.network, self.batch = as_exported, self.file_batch

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the output (N, …) of images (N, C, H, W), as the file takes them; several as a tuple."""
        if self.batch is None:
            outputs = self._run(images)
        else:
            parts = [self._run(filled(part, self.batch)) for part in torch.split(images, self.batch)]
            outputs = tuple(torch.cat(one)[: len(images)] for one in zip(*parts, strict=True))
        return outputs[0] if len(outputs) == 1 else outputs

    def _run(self, images: Tensor) -> tuple[Tensor, ...]:
        inputs = images.permute(0, 2, 3, 1) if self.channels_last else images
        outputs = nn.Module.__call__(self.network, inputs)  # torch.fx's own prints what it raises
        found = outputs if isinstance(outputs, tuple | list) else (outputs,)
        return tuple(one for one in found if one.ndim and one.is_floating_point())

    def _takes_any_batch(self) -> bool:
        """Return whether two images give the same outputs together as alone; True for unknown sizes."""
        sizes = [size for size in self.shape if size is not None]
        if len(sizes) != len(self.shape):
            return True
        images = torch.rand(2, *sizes, generator=torch.Generator().manual_seed(0))
        with torch.no_grad(), in_mode(self.network, training=False):
            try:
                alone = zip(*(self._run(images[i : i + 1]) for i in range(2)), strict=True)
                pairs = zip(self._run(images), map(torch.cat, alone), strict=True)
                return all(torch.allclose(one, other, rtol=1e-3, atol=1e-4) for one, other in pairs)
            except Exception:  # operators refuse a wrong shape with many kinds of exception
                return False

    def __deepcopy__(self, memo: dict[int, Any]) -> ConvertedOnnx:
        """Copy the converted network, which is quicker than its conversion."""
        import copy

        made = self.__class__.__new__(self.__class__)
        memo[id(self)] = made
        made.__dict__ = copy.deepcopy(self.__dict__, memo)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the ONNX file and the weights: functions of the converter cannot be pickled."""
        needed = {name for name, value in self.named_parameters() if value.requires_grad}
        changes = find_changes(ConvertedOnnx(self.model, ONNX), self)  # a student has fewer channels
        return _rebuilt, (self.model, self.state_dict(), needed, self.training, changes)


def _rebuilt(
    model: bytes, tensors: dict[str, Tensor], with_gradient: set[str], training: bool, changes: Changes
) -> ConvertedOnnx:
    made = ConvertedOnnx(model, ONNX)
    apply_changes(made, changes)
    made.load_state_dict(tensors)
    for name, value in made.named_parameters():
        value.requires_grad_(name in with_gradient)
    return made.train(training)


def parse_model(model: bytes, title: str) -> Any:
    """Return the protocol buffer of an ONNX file.

    Raises:
        ZskdError: the onnx extra is not installed, or it is no ONNX file.
    """
    onnx = import_extra("onnx")
    try:
        found = onnx.load_from_string(model)
    except Exception as error:  # protobuf raises many kinds
        raise ZskdError(f"{title} is no ONNX file that can be read ({one_line(error)[:150]})") from error
    if not found.graph.node:
        raise ZskdError(f"{title} is no ONNX file of a network: it holds no operators")
    if any(one.data_location == onnx.TensorProto.EXTERNAL for one in found.graph.initializer):
        raise ZskdError(f"{title} refers to weights in other files: save it as one file")
    return found


def read_input(model: Any, title: str) -> tuple[tuple[int | None, ...], bool, int | None]:
    """Return what the input of an ONNX file says.

    Returns:
        Channels, height and width, None where the file leaves them open; whether the channels come last; and
        the number of images of its batches, None if any.

    Raises:
        ZskdError: it does not take one batch of images of float32.
    """
    weights = {one.name for one in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(one.name for one in inputs)
        raise ZskdError(f"{title} takes {len(inputs)} inputs ({names}), not one batch of images")
    tensor = inputs[0].type.tensor_type
    if tensor.elem_type != import_extra("onnx").TensorProto.FLOAT:
        name = import_extra("onnx").TensorProto.DataType.Name(tensor.elem_type).lower()
        raise ZskdError(f"{title} takes {name}, not float (32 bit): export it again with such an input")
    sizes = [one.dim_value or None for one in tensor.shape.dim]
    if len(sizes) != 4:
        raise ZskdError(f"{title} takes inputs of {len(sizes)} dimensions, not images (N, C, H, W)")
    last = sizes[3] in _COLOURS and sizes[1] not in _COLOURS
    shape = (sizes[3], sizes[1], sizes[2]) if last else (sizes[1], sizes[2], sizes[3])
    return shape, last, sizes[0]


def open_batch(model: bytes, exported: int | None = None) -> Any:
    """Return an ONNX model that says that it takes any number of images, without the shapes in between.

    Args:
        model: bytes of the file.
        exported: number of images of its export, to be taken out of the shapes to which it reshapes.
    """
    onnx = import_extra("onnx")
    found = onnx.load_from_string(model)
    weights = {one.name: one for one in found.graph.initializer}
    for one in (*found.graph.input, *found.graph.output):
        if one.name not in weights and one.type.tensor_type.shape.dim:
            one.type.tensor_type.shape.dim[0].dim_param = "batch"
    del found.graph.value_info[:]
    constants = {
        node.output[0]: one.t
        for node in found.graph.node
        for one in node.attribute
        if node.op_type == "Constant" and one.name == "value"
    }
    for node in found.graph.node if exported else ():
        if node.op_type == "Reshape" and node.input[1] in weights | constants:
            tensor = (weights | constants)[node.input[1]]
            sizes = onnx.numpy_helper.to_array(tensor).copy()
            if sizes.size and sizes[0] == exported:
                sizes[0] = 0 if -1 in sizes else -1  # 0 keeps the size of the input
                tensor.CopyFrom(onnx.numpy_helper.from_array(sizes, tensor.name))
    return found


def filled(images: Tensor, count: int) -> Tensor:
    """Return images, and the last of them again until there are `count`."""
    return torch.cat([images, images[-1:].expand(count - len(images), *images.shape[1:])])
