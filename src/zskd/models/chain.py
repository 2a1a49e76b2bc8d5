"""Plain sequential networks as lists of layers: read the list of a module, and build a module from a list.

A checkpoint card stores such a list, so that a student made by `--student half` can be rebuilt without
running the user's code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from zskd.core.errors import ZskdError, one_line
from zskd.models.tracing import trace

Layer = tuple[str, dict[str, Any]]
"""Class name in `torch.nn` and its keyword arguments."""
_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "Conv2d": ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"),
    "Linear": ("in_features", "out_features"),
    "BatchNorm2d": ("num_features", "eps", "momentum"),
    "BatchNorm1d": ("num_features", "eps", "momentum"),
    "MaxPool2d": ("kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    "AvgPool2d": ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad"),
    "AdaptiveAvgPool2d": ("output_size",),
    "Dropout": ("p",),
    "Dropout2d": ("p",),
    "LeakyReLU": ("negative_slope",),
    "ReLU": (),
    "ReLU6": (),
    "ELU": (),
    "GELU": (),
    "SiLU": (),
    "Tanh": (),
    "Sigmoid": (),
    "Identity": (),
    "Flatten": ("start_dim", "end_dim"),
}
"""The layers of a plain sequential network and the arguments that define each."""
_OPTIONS: dict[str, dict[str, Any]] = {
    "Conv2d": {"padding_mode": "zeros"},
    "BatchNorm2d": {"affine": True, "track_running_stats": True},
    "BatchNorm1d": {"affine": True, "track_running_stats": True},
    "AvgPool2d": {"divisor_override": None},
    "ELU": {"alpha": 1.0},
    "GELU": {"approximate": "none"},
}
"""Further arguments and their defaults; a list of layers holds only what differs from these."""
_FUNCTIONS: dict[Callable[..., Any], str] = {
    F.relu: "ReLU",
    torch.relu: "ReLU",
    F.gelu: "GELU",
    F.silu: "SiLU",
    F.elu: "ELU",
    torch.tanh: "Tanh",
    torch.sigmoid: "Sigmoid",
    F.max_pool2d: "MaxPool2d",
    F.avg_pool2d: "AvgPool2d",
    F.adaptive_avg_pool2d: "AdaptiveAvgPool2d",
    F.dropout: "Dropout",
    torch.flatten: "Flatten",
}
_METHODS = {
    "relu": "ReLU",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "flatten": "Flatten",
    "view": "Flatten",
    "reshape": "Flatten",
}


def build_layers(layers: Sequence[Layer]) -> nn.Sequential:
    """Build a sequential network from its list of layers.

    Raises:
        ZskdError: a layer is not in the list of plain layers, or its arguments are wrong.
    """
    built = []
    for name, arguments in layers:
        if name not in _ARGUMENTS:
            raise ZskdError(f"a card may not contain the layer {name!r}; allowed: {', '.join(_ARGUMENTS)}")
        known = {
            *_ARGUMENTS[name],
            *_OPTIONS.get(name, {}),
            *(("bias",) if name in ("Conv2d", "Linear") else ()),
        }
        if unknown := sorted(arguments.keys() - known):  # `device`, for one
            raise ZskdError(f"a card may not give {unknown[0]!r} to the layer {name}")
        try:
            built.append(getattr(nn, name)(**arguments))
        except Exception as error:  # layers refuse arguments in many ways
            raise ZskdError(f"the layer {name} {arguments} cannot be built: {one_line(error)}") from error
    return nn.Sequential(*built)


def read_layers(module: nn.Module) -> list[Layer]:
    """Return the layers of a module whose forward pass is one chain, functional calls included.

    Raises:
        ZskdError: the forward pass branches, cannot be traced, or has an operation without a plain layer.
    """
    return [layer for layer, _ in _chain(module)]


def in_a_row(module: nn.Module) -> nn.Sequential:
    """Return the layers of a module whose forward pass is one chain, as one sequential network.

    Functional calls become layers, too; weights are shared, not copied.

    Raises:
        ZskdError: as for `read_layers`.
    """
    return nn.Sequential(*(own or build_layers([layer])[0] for layer, own in _chain(module)))


def _chain(module: nn.Module) -> list[tuple[Layer, nn.Module | None]]:
    """Return each layer as data and as module; the module is None for a functional call."""
    try:
        graph = trace(module)
    except Exception as error:  # the user's forward pass may raise any exception
        raise not_plain(f"its forward pass cannot be traced ({one_line(error)})") from error
    layers: list[tuple[Layer, nn.Module | None]] = []
    previous: fx.Node | None = None
    for node in graph.nodes:
        if node.op == "output":
            if node.args != (previous,):
                raise not_plain("it returns more than one tensor")
            break
        tensors = node.all_input_nodes
        if previous is not None and (tensors != [previous] or len(previous.users) != 1):
            # x.view(x.size(0), -1) reads the size of the tensor that it reshapes: still one chain
            if not _only_reads_size(previous, node):
                raise not_plain(f"its forward pass branches at {node.name!r}")
            if _is_size(node):
                continue
        layer = layer_of(module, node)
        if layer is not None:
            own = module.get_submodule(str(node.target)) if node.op == "call_module" else None
            layers.append((layer, own))
        previous = node
    return layers


def layer_of(module: nn.Module, node: fx.Node) -> Layer | None:
    """Return the layer of a node in a traced network; None for the input node.

    Raises:
        ZskdError: the node has no plain layer.
    """
    if node.op == "placeholder":
        return None
    if node.op == "call_module":
        found = module.get_submodule(str(node.target))
        name = type(found).__name__
        if name not in _ARGUMENTS or type(found) is not getattr(nn, name):
            raise not_plain(f"its layer {node.target!r} is a {type(found).__name__}")
        return name, _arguments_of(name, vars(found) | {"bias": getattr(found, "bias", None)})
    if node.op == "call_function" and node.target in _FUNCTIONS:
        assert callable(node.target)
        return _functional(_FUNCTIONS[node.target], node)
    if node.op == "call_method" and node.target in _METHODS:
        return _functional(_METHODS[str(node.target)], node)
    raise not_plain(f"its forward pass contains {node.target!r}")


def _arguments_of(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    chosen = {key: values[key] for key in _ARGUMENTS[name]}
    if name in ("Conv2d", "Linear"):
        chosen["bias"] = values["bias"] is not None
    chosen |= {key: values[key] for key, usual in _OPTIONS.get(name, {}).items() if values[key] != usual}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in chosen.items()}


def _functional(name: str, node: fx.Node) -> Layer:
    """Return the layer of a functional call; its positional arguments are in the order of the layer's."""
    if name == "Flatten":
        if not _flattens(node):
            raise not_plain(f"it reshapes its values at {node.name!r}")
        return name, {"start_dim": 1, "end_dim": -1}
    order = (*_ARGUMENTS[name], *_OPTIONS.get(name, {}))
    arguments = dict(zip(order, node.args[1:], strict=False)) | dict(node.kwargs)
    known = {key: value for key, value in arguments.items() if key in order and value is not None}
    return name, {key: list(v) if isinstance(v, tuple | list) else v for key, v in known.items()}


def _flattens(node: fx.Node) -> bool:
    """Return whether a reshaping call gives one row to each image: x.flatten(1), x.view(len, -1)."""
    given = dict(node.kwargs)
    if node.target in (torch.flatten, "flatten"):
        first, last, *_ = (*node.args[1:], None, None)
        return bool(given.get("start_dim", first) == 1 and given.get("end_dim", last) in (None, -1))
    sizes = given.get("shape", given.get("size", node.args[1:]))
    if isinstance(sizes, tuple | list) and len(sizes) == 1 and isinstance(sizes[0], tuple | list):
        sizes = sizes[0]
    return isinstance(sizes, tuple | list) and len(sizes) == 2


def _is_size(node: fx.Node) -> bool:
    size_call = node.op == "call_method" and node.target in ("size", "shape")
    attribute = node.op == "call_function" and getattr(node.target, "__name__", "") in ("getattr", "getitem")
    return size_call or attribute


def _only_reads_size(previous: fx.Node, node: fx.Node) -> bool:
    """Return whether every other user of `previous` only reads its size."""
    if _is_size(node):
        return True
    others = [user for user in previous.users if user is not node]
    inputs = [one for one in node.all_input_nodes if not _is_size(one)]
    return all(_is_size(user) for user in others) and inputs == [previous]


def not_plain(why: str) -> ZskdError:
    """Return the error for a network that is not one chain of plain layers."""
    return ZskdError(
        f"no `half` of this network can be made, because {why}: choose --student narrow:0.5, a built-in "
        "student, e.g. resnet8, or your own with --student package.module:factory"
    )
