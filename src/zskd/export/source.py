"""The source code of any network: what torch.export recorded of it, printed as Python.

A network of this package, a narrower copy of a network, a network of a library and one in the user's own code
have no common source that could be copied into a folder. Their recorded operations are all of one kind, calls
of `torch.ops.aten`, and those need only torch.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, TensorArgument

from zskd.core.errors import ZskdError
from zskd.export.templates import MODEL_FILE
from zskd.models.exported import INPUT, Description

_MODULE = "module."
"""Prefix of the network's own tensors inside a `Classifier`."""
_LITERAL = 8
"""Values of a constant up to which it stands in the source."""
_ASSERTION = "_assert_tensor_metadata"
"""An operation that only checks, and binds the code to the device of its export."""


@dataclass(frozen=True)
class Source:
    """A network as code and tensors."""

    operations: str
    """A function `compute(images, …)` that returns a tuple with the logits."""
    weights: dict[str, Tensor]
    """Parameters and buffers by their names in the network, on the CPU."""
    parameters: frozenset[str]
    """Those that are parameters."""
    arguments: dict[str, str]
    """Argument of `compute` -> name of a weight."""
    constants: dict[str, Tensor]
    """Argument of `compute` -> value that the network holds besides its weights."""


def read_source(program: ExportedProgram) -> Source:
    """Return a recorded network as code and tensors.

    Args:
        program: from `record`.

    Raises:
        ZskdError: it has an operation that is none of torch itself.
    """
    weights, constants = dict[str, Tensor](), dict[str, Tensor]()
    arguments, parameters = dict[str, str](), set[str]()
    for one in program.graph_signature.input_specs:
        if one.kind == InputKind.USER_INPUT:
            continue
        if not isinstance(one.arg, TensorArgument) or one.target is None:
            raise ZskdError(f"the network holds {one.arg.name}, which cannot be written as code: {_ADVICE}")
        if one.target in program.state_dict and one.target.startswith(_MODULE):
            name = one.target.removeprefix(_MODULE)
            arguments[one.arg.name] = name
            weights[name] = _plain(program.state_dict[one.target])
            if one.kind == InputKind.PARAMETER:
                parameters.add(name)
        else:
            constants[one.arg.name] = _plain(program.constants[one.target])
    return Source(_printed(program.graph), weights, frozenset(parameters), arguments, constants)


def model_file(source: Source, description: Description, title: str) -> str:
    """Return the text of `model.py`.

    Args:
        source: of the network.
        description: of the network.
        title: of the network, for people.
    """
    rows = [
        f'    "{argument}": ("{name}", {tuple(value.shape)}, "{_dtype(value)}", {name in source.parameters}),'
        for argument, name in source.arguments.items()
        for value in (source.weights[name],)
    ]
    literals = [
        f'        "{argument}": torch.tensor({value.tolist()!r}, dtype={value.dtype}),'
        for argument, value in source.constants.items()
        if value.numel() <= _LITERAL
    ]
    return MODEL_FILE.format(
        title=title.replace("\\", "/").replace('"', "'"),
        sha256=description.network_sha256,
        class_names=description.class_names,
        shape=description.shape,
        tensors="\n".join(rows),
        constants="\n".join(literals),
        operations=source.operations,
    )


def other_constants(source: Source) -> dict[str, Tensor]:
    """Return the constants that are too large for the source, by argument of `compute`."""
    return {name: value for name, value in source.constants.items() if value.numel() > _LITERAL}


def _plain(value: Tensor) -> Tensor:
    """Return a copy that shares no memory with others, as safetensors needs it."""
    return value.detach().cpu().clone().contiguous()


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _printed(recorded: fx.Graph) -> str:
    graph = copy.deepcopy(recorded)
    for node in list(graph.nodes):
        if node.op == "call_function" and _ASSERTION in str(node.target) and not node.users:
            graph.erase_node(node)
        elif node.op == "get_attr" or (node.op == "call_function" and not _of_torch(node.target)):
            raise ZskdError(f"the network uses {node.target}, which is no operation of torch: {_ADVICE}")
    names = [node.name for node in graph.nodes if node.op == "placeholder"]
    text = graph.python_code("self").src
    _, _, body = text.partition("def forward(")
    body = body.partition(":\n")[2]
    lines = [line.rstrip() for line in body.splitlines()]
    others = [name for name in names if name != INPUT]
    head = f"def compute({', '.join([INPUT, '*', *others])}):" if others else f"def compute({INPUT}):"
    return "\n".join([head, *(line for line in lines if line)])


def _of_torch(target: Any) -> bool:
    if isinstance(target, torch._ops.OpOverload):
        return target.namespace == "aten"
    return re.match(r"(_operator|math|torch)$", getattr(target, "__module__", "")) is not None


_ADVICE = "export it with --to onnx or pt2"
