"""Saving and loading the state of a training."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zskd.core.artefact import Artefact, parse
from zskd.core.errors import ZskdError
from zskd.core.files import whole_file
from zskd.core.passes import Passes
from zskd.core.reading import one_line_errors
from zskd.core.tensors import read_header, read_tensors, save_tensors, set_state

STATE = "training.safetensors"
"""Of a training that is not finished, in the folder of its network."""
Companions = Mapping[str, tuple[nn.Module, torch.optim.Optimizer | None]]
"""Modules that are saved beside the one in training: name -> module and its optimiser, if any."""


class _Counted(Artefact):
    passes: Passes


_LOSSES = "losses"
_Numbers = dict[str, Any]
"""Values that JSON holds, and tuples of such."""
_GIVEN = ("params", "param_names", "lr")
"""What a group is made with; each step sets the last."""
_GROUP = "group "
"""Begins the names of what an optimiser keeps for a group of parameters; others begin with a parameter's
number."""


@dataclass(frozen=True)
class Done:
    """What a training has behind it."""

    losses: Sequence[float] = ()
    """Of each step."""
    passes: Passes = field(default_factory=Passes)
    threads: int | None = None
    """That it was trained with; None: not known, or they do not matter."""


def save_state(path: Path, key: str, learners: Companions, done: Done, *, threads: int | None = None) -> None:
    """Write weights, optimiser states, losses and the number of passes, atomically.

    Args:
        path: the file.
        key: identifies the training.
        learners: name -> module and its optimiser, if any; the main network has the name "".
        done: the steps until now.
        threads: of the training, which change its rounding; None: they do not matter to it.

    Raises:
        ZskdError: the file cannot be written, or an optimiser keeps what cannot be saved.
    """
    tensors = {_LOSSES: torch.tensor(done.losses, dtype=torch.float64)}
    numbers: dict[str, _Numbers] = {}
    for owner, (module, optimiser) in learners.items():
        prefix = f"{owner}/" if owner else ""
        tensors |= {f"{prefix}weights/{name}": value for name, value in module.state_dict().items()}
        if optimiser is not None:
            moments, numbers[owner] = _taken_apart(optimiser)
            tensors |= {f"{prefix}moments/{name}": value for name, value in moments.items()}
    metadata = {"key": key, "passes": _Counted(passes=done.passes).model_dump_json()}
    metadata["numbers"] = json.dumps(numbers)
    # channels-last weights are stored contiguously; the memory layout does not change the values
    with whole_file(path) as temporary:
        save_tensors(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
            temporary,
            metadata=metadata if threads is None else metadata | {"threads": str(threads)},
        )


def steps_done(folders: Iterable[Path]) -> int:
    """Return the steps that unfinished trainings have behind them, by the states in their folders.

    Args:
        folders: of their networks; a state that cannot be read counts as none: the training says so.
    """
    steps = 0
    for folder in folders:
        with suppress(ZskdError):
            entries, _ = read_header(folder / STATE)
            steps += math.prod(entries[_LOSSES].shape) if _LOSSES in entries else 0
    return steps


def load_state(path: Path, key: str, learners: Companions, *, threads: int | None = None) -> Done:
    """Restore a saved state and return what is done: nothing without a state of this key.

    Args:
        path: the file.
        key: as for `save_state`.
        learners: as for `save_state`; changed in place.
        threads: as for `save_state`; a state of another number is left, unless one of both is None.

    Raises:
        ZskdError: the file is damaged.
    """
    if not path.is_file():
        return Done()
    advice = "delete it, and the training begins again"
    with one_line_errors(f"{path}, the state of a training, is damaged", advice, also_told=True):
        return _restore_all(path, key, learners, threads)


def _restore_all(path: Path, key: str, learners: Companions, threads: int | None) -> Done:
    tensors = read_tensors(path)
    _, metadata = read_header(path)
    same = threads is None or metadata.get("threads", str(threads)) == str(threads)
    if metadata.get("key") != key or not same:
        return Done()
    numbers = json.loads(metadata.get("numbers", "{}"))
    for owner, (module, optimiser) in learners.items():
        own = _under(f"{owner}/", tensors) if owner else tensors
        weights = _under("weights/", own)
        if weights.keys() != module.state_dict().keys():
            raise ValueError("it has weights of another network")
        set_state(module, weights)
        if optimiser is not None:
            _restore(optimiser, _under("moments/", own), numbers.get(owner, {}))
    what = f"{path}, the state of a training,"
    counted = parse(json.loads(metadata["passes"]), _Counted, what, "delete it")
    losses = tensors[_LOSSES]
    if losses.dim() != 1 or not losses.isfinite().all():
        raise ValueError("it has no list of losses")
    made_with = int(metadata["threads"]) if "threads" in metadata else None
    if made_with is not None and made_with < 1:
        raise ValueError("it has no number of threads")
    return Done(losses.tolist(), counted.passes, made_with)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _taken_apart(optimiser: torch.optim.Optimizer) -> tuple[dict[str, Tensor], _Numbers]:
    """Return what an optimiser keeps, by <number of the parameter>/<name>: tensors, and numbers beside them.

    Of a group, texts and tuples of numbers are kept as well; what is as it was at first is not.

    Raises:
        ZskdError: it keeps anything else.
    """

    def refusal(name: object, of: str) -> ZskdError:
        return ZskdError(
            f"the optimiser {type(optimiser).__name__} keeps {name} in its {of}, which cannot be saved: let "
            "it keep tensors and numbers, or choose another"
        )

    tensors: dict[str, Tensor] = {}
    numbers: _Numbers = {}
    for number, own in optimiser.state_dict()["state"].items():
        for name, value in own.items() if isinstance(number, int) else [("", own)]:
            if name and isinstance(value, Tensor):
                tensors[f"{number}/{name}"] = value
            elif name and (value is None or isinstance(value, int | float)):
                numbers[f"{number}/{name}"] = value
            else:
                raise refusal(name or number, "state")
    for number, group in enumerate(optimiser.param_groups):
        for name, value in group.items():
            first = optimiser.defaults.get(name)
            if name in _GIVEN:
                continue
            if isinstance(value, Tensor):
                tensors[f"{_GROUP}{number}/{name}"] = value
            elif _is_plain(value):
                if value != first:
                    numbers[f"{_GROUP}{number}/{name}"] = value
            elif deepcopy(value) is not first:  # another one, or one that may have changed in place
                raise refusal(name, "group")
    return tensors, numbers


def _is_plain(value: object) -> bool:
    """Return whether a value of a group is a number, a text, None, or a tuple of numbers and None."""
    if isinstance(value, tuple):
        return all(isinstance(one, int | float | None) for one in value)
    return isinstance(value, int | float | str | None)


def _restore(optimiser: torch.optim.Optimizer, saved: Mapping[str, Tensor], numbers: _Numbers) -> None:
    """Restore what `_taken_apart` returned of an optimiser."""
    parameters = [one for group in optimiser.param_groups for one in group["params"]]
    moments: dict[int, dict[str, Any]] = {}
    state = optimiser.state_dict() | {"state": moments}
    for name, value in [*saved.items(), *numbers.items()]:
        owner, _, field = name.partition("/")
        if owner.startswith(_GROUP):
            kept = tuple(value) if isinstance(value, list) else value
            state["param_groups"][int(owner.removeprefix(_GROUP))][field] = kept
            continue
        restored: Any = value
        if isinstance(value, Tensor):
            # a fused optimiser needs moments in the memory layout of their parameter
            parameter = parameters[int(owner)]
            like = parameter if value.shape == parameter.shape else value
            restored = torch.empty_like(like, dtype=value.dtype, requires_grad=False).copy_(value)
        moments.setdefault(int(owner), {})[field] = restored
    optimiser.load_state_dict(state)
    for number, own in moments.items():  # torch has given them the type of their parameter
        loaded = optimiser.state[parameters[number]]
        for field, kept in own.items():
            if isinstance(kept, Tensor) and loaded[field].dtype != kept.dtype:
                loaded[field] = kept.to(parameters[number].device)
