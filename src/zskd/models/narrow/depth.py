"""Leave out whole residual blocks: those without which the logits change least."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from zskd.models.counting import count_multiply_adds
from zskd.models.modes import in_mode
from zskd.models.narrow.changes import drop_block
from zskd.models.narrow.checks import is_sound
from zskd.models.narrow.plan import CannotCut, read_logits
from zskd.models.narrow.tracing import Read
from zskd.models.preparation import copied


def drop_blocks(network: nn.Module, images: Tensor, share: float, read: Read = read_logits) -> nn.Module:
    """Return a copy of a network without some of its residual blocks, with the weights of the others.

    Blocks go in the order of how much the logits change without each alone, until at most a share of the
    multiply-adds is left (stochastic depth, Huang et al. 2016, shows that such blocks can be missing).

    Args:
        network: left as it is.
        images: normalised (N, C, H, W), on which the change is measured.
        share: of the multiply-adds, above 0, at most 1.
        read: reads the class scores.

    Raises:
        CannotCut: it has no such blocks, or not enough of them.
    """
    copy, whole = copied(network), copied(network)
    total = count_multiply_adds(copy, images[:1])
    left = total
    blocks = find_blocks(network, images)
    for name in sorted(blocks, key=lambda one: (_change(whole, images, one, read), one)):
        if left <= share * total:
            break
        drop_block(copy, name)
        left = count_multiply_adds(copy, images[:1])
    if not blocks:
        raise CannotCut("it has no residual blocks that could be left out")
    if left > share * total:
        raise CannotCut(
            f"without its {len(blocks)} residual blocks that can be left out, {left / total:.2f} of its "
            f"multiply-adds are left, not {share:g}"
        )
    if not is_sound(copy, images, read):
        raise CannotCut("it does not run without some of its residual blocks")
    return copy


def find_blocks(network: nn.Module, images: Tensor) -> tuple[str, ...]:
    """Return the names of the residual blocks that may be left out, in the order of the network.

    A block is one of several beside each other, runs once, and returns its input where all of its weights are
    zero. A block that changes the shape is none; of blocks inside each other, the innermost are named.

    Args:
        network: left as it is.
        images: normalised (N, C, H, W).
    """
    zero = copied(network)
    seen: dict[str, list[tuple[tuple[Any, ...], dict[str, Any], Any]]] = {}
    candidates = dict(_siblings(zero))
    hooks = [
        module.register_forward_hook(
            lambda _, given, named, answer, name=name: seen.setdefault(name, []).append(
                (given, named, answer)
            ),
            with_kwargs=True,
        )
        for name, module in candidates.items()
    ]
    with torch.no_grad(), in_mode(zero, training=False):
        zero(images[:2])
        for hook in hooks:
            hook.remove()
        found = [
            name
            for name, module in candidates.items()
            if len(seen.get(name, ())) == 1 and _returns_input(module, *seen[name][0])
        ]
    return tuple(one for one in found if not any(other.startswith(f"{one}.") for other in found))


def _siblings(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield each module with weights that stands beside others, in a sequence or of its own class."""
    for name, module in network.named_modules():
        children = dict(module.named_children())
        sequence = isinstance(module, nn.Sequential | nn.ModuleList)
        for own, child in children.items():
            alike = [one for one in children.values() if sequence or type(one) is type(child)]
            if len(alike) > 1 and any(True for _ in child.parameters()):
                yield (f"{name}.{own}" if name else own), child


def _returns_input(block: nn.Module, given: tuple[Any, ...], named: dict[str, Any], answer: Any) -> bool:
    """Return whether a block returns its first input where all of its weights are zero; it keeps them."""
    first = given[0] if given else None
    if not isinstance(first, Tensor) or not isinstance(answer, Tensor) or answer.shape != first.shape:
        return False
    empty = copied(block)
    for value in empty.parameters():
        value.zero_()
    try:
        result = empty(*given, **named)
    except Exception:  # the user's block may raise any exception
        return False
    scale = float(first.abs().max())
    return isinstance(result, Tensor) and scale > 0 and bool(torch.allclose(result, first, atol=1e-5 * scale))


def _change(network: nn.Module, images: Tensor, name: str, read: Read) -> float:
    """Return the mean square by which the logits change without a block."""
    with torch.no_grad(), in_mode(network, training=False):
        before = read(network, images)
        with _skipped(network.get_submodule(name)):
            after = read(network, images)
    return float((after - before).square().mean())


@contextmanager
def _skipped(block: nn.Module) -> Iterator[None]:
    hook = block.register_forward_hook(lambda _, given, __: given[0])
    try:
        yield
    finally:
        hook.remove()
