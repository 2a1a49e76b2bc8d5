"""Weights that a file holds in two parts and a network in one: weight normalisation, pruning."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from zskd.teacher.weights.stored import StoredTensor


def folded(plain: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return the whole weights that parts in a file stand for.

    `weight_g`, `weight_v` is weight normalisation, g·v/‖v‖, the norm over all dimensions that g lacks
    (Salimans and Kingma 2016, equation 2). `weight_orig`, `weight_mask` is pruning, their product.

    Args:
        plain: name without wrappers -> tensor.
    """
    whole: dict[str, StoredTensor] = {}
    for name, part in plain.items():
        base, _, kind = name.rpartition("_")
        g, mask = plain.get(f"{base}_g"), plain.get(f"{base}_mask")
        if kind == "v" and g is not None and _scales(g.shape, part.shape):
            whole[base] = StoredTensor(part.shape, part.dtype, _normed(g, part), g.obstacle or part.obstacle)
        if kind == "orig" and mask is not None and mask.shape == part.shape:
            whole[base] = StoredTensor(part.shape, part.dtype, _pruned(part, mask), part.obstacle)
    return whole


def parts_of(whole: str) -> tuple[str, ...]:
    """Return the names of the parts that a whole weight may have had."""
    return tuple(f"{whole}_{kind}" for kind in ("g", "v", "orig", "mask"))


def _scales(g: tuple[int, ...], v: tuple[int, ...]) -> bool:
    return not g or (len(g) == len(v) and all(n in (1, m) for n, m in zip(g, v, strict=True)))


def _normed(g: StoredTensor, v: StoredTensor) -> Callable[[], Tensor]:
    def read() -> Tensor:
        length, direction = g.read().double(), v.read().double()
        over = [i for i in range(direction.ndim) if not length.ndim or length.shape[i] == 1]
        norm = direction.square().sum(over, keepdim=True).sqrt() if over else direction.abs()
        return (length * direction / norm).float()

    return read


def _pruned(weight: StoredTensor, mask: StoredTensor) -> Callable[[], Tensor]:
    return lambda: weight.read() * mask.read()
