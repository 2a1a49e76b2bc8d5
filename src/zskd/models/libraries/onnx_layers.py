"""Conversion of an ONNX graph by onnx2fx, with torch's own layers for what holds weights.

onnx2fx makes functions of convolutions, linear maps and batch-norms, and buffers of their weights. Zskd
looks for
layers: the head, the statistics of batch-norm, what can be fused. So their conversion is registered anew
here, while one file is converted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from zskd.core.errors import ZskdError, one_line
from zskd.core.extras import import_extra

Handler = Callable[[Any, Any], Any]
"""What onnx2fx calls for a node: (builder, node) -> node of torch.fx."""


def convert_with_layers(model: Any, title: str) -> fx.GraphModule:
    """Convert an ONNX model.

    Args:
        model: its protocol buffer; changed.
        title: name of the file, for messages.

    Returns:
        The network in evaluation mode; its weights are parameters.

    Raises:
        ZskdError: an operator cannot be converted, or the file was exported in training mode.
    """
    onnx2fx = import_extra("onnx2fx")
    from onnx2fx.op_registry import get_handler, registry_context

    _inline_weights(model)
    own = {"Conv": _convolution, "Gemm": _gemm, "MatMul": _product, "BatchNormalization": _batch_norm}
    version = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 1)
    with registry_context():
        for name, make in own.items():
            other = get_handler(name, "", version)
            onnx2fx.unregister_op(name)
            onnx2fx.register_op(name, _or_else(make, other))
        try:
            converted = onnx2fx.convert(model)
        except ZskdError as error:
            raise ZskdError(f"{title} {error}") from error
        except onnx2fx.UnsupportedOpError as error:
            raise ZskdError(
                f"{title}: onnx2fx cannot convert the operator {error.op_type} of opset "
                f"{error.opset_version}: export the network with another opset"
            ) from error
        except Exception as error:  # the converter raises many kinds
            raise ZskdError(f"{title}: onnx2fx cannot convert it ({one_line(error)[:150]})") from error
    _add_biases(converted)
    converted.graph.eliminate_dead_code()
    lean = fx.GraphModule(converted, converted.graph)  # holds only what the graph uses
    for name, buffer in list(lean.named_buffers(recurse=False)):
        if buffer.is_floating_point() and buffer.ndim:
            delattr(lean, name)
            lean.register_parameter(name, nn.Parameter(buffer.clone()))
    _fix_axes(lean)
    return lean.eval()


def _or_else(make: Callable[[Any, Any], nn.Module | None], other: Handler) -> Handler:
    """Return a handler that calls a layer where one can be made, and otherwise does what onnx2fx does."""

    def handle(builder: Any, node: Any) -> Any:
        layer = make(builder, node)
        if layer is None:
            return other(builder, node)
        weight = node.input[1]
        base = weight.removesuffix(".weight") if weight.endswith(".weight") else node.name or node.output[0]
        name = builder.register_submodule(base, layer)
        return builder.call_module(name, args=(builder.get_value(node.input[0]),))

    return handle


def _weights(builder: Any, node: Any, *places: int) -> list[Tensor | None] | None:
    """Return copies of inputs that the file holds, None for absent ones; None if one is computed."""
    found: list[Tensor | None] = []
    for place in places:
        name = node.input[place] if place < len(node.input) else ""
        if name and name not in builder.initializer_map:
            return None
        found.append(builder.initializer_map[name].clone() if name else None)
    return found


def _attributes(node: Any) -> dict[str, Any]:
    values = import_extra("onnx").helper.get_attribute_value
    return {one.name: values(one) for one in node.attribute}


def _filled(layer: nn.Module, **tensors: Tensor | None) -> nn.Module:
    """Put values into a layer."""
    for name, value in tensors.items():
        if value is not None:
            getattr(layer, name).data = value
    return layer.eval()


def _convolution(builder: Any, node: Any) -> nn.Module | None:
    """Return a `Conv2d`; None for other dimensions, computed weights, or padding that differs by side."""
    found, given = _weights(builder, node, 1, 2), _attributes(node)
    if found is None:
        return None
    weight, bias = found
    if weight is None or weight.ndim != 4:
        return None
    pads = given.get("pads", [0, 0, 0, 0])
    if given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or pads[:2] != pads[2:]:
        return None
    groups = given.get("group", 1)
    layer = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        (weight.shape[2], weight.shape[3]),
        stride=tuple(given.get("strides", (1, 1))),
        padding=tuple(pads[:2]),
        dilation=tuple(given.get("dilations", (1, 1))),
        groups=groups,
        bias=bias is not None,
    )
    return _filled(layer, weight=weight, bias=bias)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Module:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    return _filled(layer, weight=weight.contiguous(), bias=bias)


def _gemm(builder: Any, node: Any) -> nn.Module | None:
    """Return the `Linear` of α·A·B + β·C; None if B or C is computed, or A is transposed."""
    found, given = _weights(builder, node, 1, 2), _attributes(node)
    if found is None or given.get("transA", 0):
        return None
    weight, bias = found
    if weight is None:
        return None
    weight = (weight if given.get("transB", 0) else weight.T) * given.get("alpha", 1.0)
    if bias is not None:
        if bias.numel() not in (1, weight.shape[0]):
            return None
        bias = (bias.reshape(-1) * given.get("beta", 1.0)).expand(weight.shape[0]).clone()
    return _linear(weight, bias)


def _product(builder: Any, node: Any) -> nn.Module | None:
    """Return the `Linear` without bias of a product with a matrix that the file holds; None for others."""
    found = _weights(builder, node, 1)
    if found is None or found[0] is None or found[0].ndim != 2:
        return None
    return _linear(found[0].T, None)


def _batch_norm(builder: Any, node: Any) -> nn.Module | None:
    """Return a `BatchNorm2d`; None if its values are computed.

    Raises:
        ZskdError: the file was exported in training mode.
    """
    found, given = _weights(builder, node, 1, 2, 3, 4), _attributes(node)
    if given.get("training_mode", 0):
        raise ZskdError("was exported in training mode: call model.eval() and export it again")
    shape = builder.value_info_map.get(node.input[0], (None, None))[0]
    if found is None or shape is None or len(shape) != 4 or found[0] is None:
        return None
    weight, bias, mean, variance = found
    layer = nn.BatchNorm2d(len(found[0]), eps=given.get("epsilon", 1e-5))
    return _filled(layer, weight=weight, bias=bias, running_mean=mean, running_var=variance)


def _inline_weights(model: Any) -> None:
    """Make weights of constants, and let all names of one weight be one name.

    Exporters write weights as `Constant` nodes too, `Transpose` nodes for matrices, and `Identity` nodes for
    weights that are equal.
    """
    graph = model.graph
    held = {one.name: one for one in graph.initializer}
    names: dict[str, str] = {}
    kept = []
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)
        value = next((one.t for one in node.attribute if one.name == "value"), None)
        if node.op_type == "Constant" and value is not None and value.dims and value.data_type == 1:
            value.name = node.output[0]
            graph.initializer.append(value)
            held[value.name] = value
        elif node.op_type == "Transpose" and node.input[0] in held:
            value = _transposed(held[node.input[0]], node)
            graph.initializer.append(value)
            held[value.name] = value
        elif node.op_type == "Identity" and node.input[0] in held and not _is_output(graph, node.output[0]):
            names[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _transposed(weight: Any, node: Any) -> Any:
    """Return a weight as a `Transpose` node makes it."""
    helper = import_extra("onnx").numpy_helper
    array = helper.to_array(weight).transpose(_attributes(node).get("perm"))
    return helper.from_array(np.ascontiguousarray(array), node.output[0])


def _is_output(graph: Any, name: str) -> bool:
    return any(one.name == name for one in graph.output)


def _add_biases(module: fx.GraphModule) -> None:
    """Give a linear map the bias that is added to its output alone."""
    for node in list(module.graph.nodes):
        if node.target is not torch.add or len(node.args) != 2 or node.kwargs:
            continue
        first, second = node.args
        if not isinstance(first, fx.Node) or not isinstance(second, fx.Node):
            continue
        for product, bias in ((first, second), (second, first)):
            if product.op != "call_module" or bias.op != "get_attr" or len(product.users) != 1:
                continue
            layer, value = module.get_submodule(str(product.target)), getattr(module, str(bias.target))
            if isinstance(layer, nn.Linear) and "bias" not in dict(layer.named_parameters()):
                if value.shape != (layer.out_features,):
                    continue
                layer.bias = nn.Parameter(value.clone())
                node.replace_all_uses_with(product)
                module.graph.erase_node(node)
                break


def _fix_axes(module: fx.GraphModule) -> None:
    """Write axes that the file holds as numbers into the graph: torch.export cannot read them from a tensor.

    Their tensors stay among the buffers, as checkpoints hold them.
    """
    for node in list(module.graph.nodes):
        kind = str(node.meta.get("onnx_op_type"))
        if kind not in ("Squeeze", "Unsqueeze") and not kind.startswith("Reduce"):
            continue
        for axes in node.all_input_nodes:
            if axes.op != "get_attr" or axes is node.args[0]:
                continue
            value = getattr(module, str(axes.target))
            node.args = tuple(value.tolist() if one is axes else one for one in node.args)
            if not axes.users:
                module.graph.erase_node(axes)
    module.recompile()
