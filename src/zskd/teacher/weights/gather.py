"""The dictionaries of named tensors in what a pickle holds, wherever they are nested."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from zskd.teacher.weights.machine import Stub
from zskd.teacher.weights.numpy_objects import NumpyArray
from zskd.teacher.weights.stored import StoredTensor

Candidates = dict[str, dict[str, StoredTensor]]
"""Keys on the way, joined by dots ("state_dict", "model_ema.module", "" at the top) -> name -> tensor."""
_DEEPEST = 64
"""Levels of nesting that are searched."""
_MOST_TENSORS = 200_000


@dataclass
class Found:
    """What an object tree holds."""

    candidates: Candidates = field(default_factory=dict)
    unnamed: int = 0
    """Tensors in lists: they have no names."""


def gather(tree: Any) -> Found:
    """Return the dictionaries of tensors in a tree, the outer ones first.

    A whole module (a stub with parameters and modules) is one dictionary, with the names of its `state_dict`.

    Raises:
        ValueError: a module holds more tensors than any network.
    """
    found = Found()
    waiting: deque[tuple[tuple[str, ...], Any]] = deque([((), tree)])
    seen: set[int] = set()
    while waiting:
        path, node = waiting.popleft()
        if isinstance(node, dict | list | tuple | Stub):
            if id(node) in seen:
                continue
            seen.add(id(node))
        named = _module_tensors(node) if _is_module(node) else _tensors(node)
        if named:
            found.candidates[".".join(path)] = named
        found.unnamed += (
            sum(_stored(one) is not None for one in node) if isinstance(node, list | tuple) else 0
        )
        if len(path) < _DEEPEST and not _is_module(node):
            waiting += (((*path, key), child) for key, child in _children(node))
    return found


def _stored(value: Any) -> StoredTensor | None:
    return (
        value.stored()
        if isinstance(value, NumpyArray)
        else value
        if isinstance(value, StoredTensor)
        else None
    )


def _tensors(node: Any) -> dict[str, StoredTensor]:
    """Return the tensors that a dictionary, or a list of (name, tensor), holds directly."""
    entries = node.entries if isinstance(node, Stub) else node if isinstance(node, dict) else {}
    if isinstance(node, list) and all(isinstance(one, tuple) and len(one) == 2 for one in node):
        entries = {one[0]: one[1] for one in node if isinstance(one[0], str)}
    stored = ((name, _stored(value)) for name, value in entries.items())
    return {name: value for name, value in stored if value is not None}


def _children(node: Any) -> Iterator[tuple[str, Any]]:
    """Yield what may hold further dictionaries."""
    if isinstance(node, dict):
        yield from node.items()
    elif isinstance(node, list | tuple):
        yield from ((str(place), child) for place, child in enumerate(node))
    elif isinstance(node, Stub):
        yield from _attributes(node).items()
        yield from node.entries.items()
        for values in (node.arguments or (), node.items):
            yield from ((str(place), child) for place, child in enumerate(values))


def _attributes(stub: Stub) -> dict[str, Any]:
    """Return the attributes of an object: the dict of its state, or of the state's parts (slots)."""
    merged: dict[str, Any] = {}
    for state in stub.states:
        for part in state if isinstance(state, tuple) else (state,):
            merged |= part if isinstance(part, dict) else {}
    return merged


def _is_module(node: Any) -> bool:
    if not isinstance(node, Stub):
        return False
    attributes = _attributes(node)
    return isinstance(attributes.get("_parameters"), dict) or _is_script(node)


def _is_script(stub: Stub) -> bool:
    return stub.name.startswith("__torch__.") and not stub.name.startswith("__torch__.torch.classes.")


def _module_tensors(module: Stub) -> dict[str, StoredTensor]:
    """Return the tensors of a module under the names of its `state_dict`.

    Raises:
        ValueError: there are more than any network has.
    """
    tensors: dict[str, StoredTensor] = {}
    waiting: list[tuple[tuple[str, ...], Any]] = [((), module)]
    visits = 0
    while waiting:
        path, node = waiting.pop()
        visits += 1
        if visits > _MOST_TENSORS or len(tensors) > _MOST_TENSORS:
            raise ValueError(f"it holds a module with more than {_MOST_TENSORS:,} tensors or layers")
        if len(path) >= _DEEPEST or not isinstance(node, Stub):
            continue
        own, inner = _parts(node)
        for name, value in own.items():
            stored = _stored(value)
            if stored is not None:
                tensors[".".join((*path, name))] = stored
        waiting += (((*path, name), child) for name, child in reversed(inner.items()))
    return tensors


def _parts(module: Stub) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tensors and the modules of a module. A module of TorchScript has both as attributes."""
    attributes = _attributes(module)
    if _is_script(module):
        return attributes, {name: one for name, one in attributes.items() if isinstance(one, Stub)}
    groups = (attributes.get(key) for key in ("_parameters", "_buffers", "_modules"))
    parameters, buffers, modules = (one if isinstance(one, dict) else {} for one in groups)
    unsaved = attributes.get("_non_persistent_buffers_set")
    left_out = [one for one in unsaved if isinstance(one, str)] if isinstance(unsaved, list) else []
    return parameters | {name: one for name, one in buffers.items() if name not in left_out}, modules
