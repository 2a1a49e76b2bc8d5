"""Names of tensors: those that a network wants, and what wrappers and savers do to names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zskd.models.preparation import check_sizes, state_of

WRAPPERS = frozenset(
    (
        "module",  # DataParallel, DistributedDataParallel, AveragedModel
        "_orig_mod",  # torch.compile
        "_fsdp_wrapped_module",
        "_fpw_module",  # FullyShardedDataParallel of torch 1
        "_checkpoint_wrapped_module",  # activation checkpointing
        "_forward_module",  # Lightning Fabric
        "_module",  # Opacus
    )
)
"""Attributes in which wrappers keep the network; they can stand anywhere in a name."""
_PARAMETRISED = "parametrizations"
_WEIGHT_NORM = {"original0": "g", "original1": "v"}
_LONGEST, _MOST_PARTS = 1000, 64
"""Characters and parts of a name; longer ones are no names of layers."""
COUNTER = "num_batches_tracked"
"""Last part of the counter of a batch-norm layer. It does not change what a trained network computes."""
_PASSENGERS = frozenset(("total_ops", "total_params", "n_averaged", COUNTER))
"""Last parts of names that counting tools and averaging add."""
_BESIDE = re.compile(
    r"criterion|loss|aux|(?:model_)?(?:ema|swa)|metric|(?:train|valid?|test)_", re.IGNORECASE
)
"""First parts of names that belong to the training alone: losses, auxiliary heads, averages, metrics."""


@dataclass(frozen=True)
class Wanted:
    """What a network wants from a file."""

    own: dict[str, Tensor]
    """Name in its `state_dict` -> present value, for shape and number type."""
    plain: dict[str, str]
    """Name without wrappers -> name."""
    tied: dict[str, tuple[str, ...]]
    """Name -> the other names of the same tensor."""
    passing: frozenset[str]
    """Names, without wrappers, of buffers that it does not save."""

    @classmethod
    def of(cls, module: nn.Module) -> Wanted:
        """Return what a module wants.

        Raises:
            ZskdError: the size of a weight is not known yet, or the module has state that is no tensor.
        """
        check_sizes(module)
        own = state_of(module)
        plain = plain_names(own)
        groups: dict[tuple[object, ...], list[str]] = {}
        for name, one in own.items():
            if one.numel():
                groups.setdefault((one.data_ptr(), one.shape, one.stride(), one.dtype), []).append(name)
        tied = {name: tuple(o for o in group if o != name) for group in groups.values() for name in group}
        passing = frozenset(plain_name(name) for name, _ in module.named_buffers() if name not in own)
        return cls(own, plain, tied, passing)

    def shape(self, plain: str) -> tuple[int, ...]:
        """Return the shape of a tensor by its name without wrappers."""
        return tuple(self.own[self.plain[plain]].shape)


def plain_name(name: str) -> str:
    """Return a name without wrappers; both ways of weight normalisation get the same names."""
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    if len(parts) > 2 and parts[-3] == _PARAMETRISED and parts[-1] in _WEIGHT_NORM:
        parts[-3:] = [f"{parts[-2]}_{_WEIGHT_NORM[parts[-1]]}"]
    return ".".join(parts)


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Return name without wrappers -> name; where two would become one, all keep their wrappers."""
    usable = [name for name in names if len(name) <= _LONGEST and name.count(".") < _MOST_PARTS]
    plain = {plain_name(name): name for name in usable}
    return plain if len(plain) == len(usable) else {name: name for name in usable}


def suffixes(name: str) -> Iterable[tuple[str, str]]:
    """Yield every split of a name into a prefix and the rest, the whole name first."""
    parts = name.split(".")
    return ((".".join(parts[:n]), ".".join(parts[n:])) for n in range(len(parts)))


def is_passenger(plain: str, wanted: Wanted) -> bool:
    """Return whether a tensor that the network does not want may be left out without a doubt."""
    first, last = plain.partition(".")[0], plain.rpartition(".")[2]
    own = any(name.startswith(f"{first}.") for name in wanted.plain)
    return last in _PASSENGERS or plain in wanted.passing or (not own and bool(_BESIDE.match(first)))


def same_shape(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Return whether shapes agree; torch before 0.4 saved single numbers with one dimension."""
    return one == other or (torch.Size(one).numel() == 1 and {one, other} == {(), (1,)})
