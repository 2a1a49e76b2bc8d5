"""Whether a narrower copy is right: it runs, and it computes what the network does without those channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zskd.core.rng import keep_global_rng
from zskd.models.modes import in_mode
from zskd.models.narrow.cut import Cut
from zskd.models.narrow.groups import LAYERS, Side, width_of
from zskd.models.narrow.tracing import CallLayers, Read
from zskd.models.preparation import copied
from zskd.models.sound_gradients import sound_gradients

EXACT = 1e-3
"""Largest difference of logits of a right copy, relative to their spread."""


def is_sound(network: nn.Module, images: Tensor, read: Read) -> bool:
    """Return whether a network gives finite logits (N, K) in both modes, and finite gradients.

    Args:
        network: left as it is.
        images: normalised (N, C, H, W).
        read: reads the logits.
    """
    network = copied(network)
    network.requires_grad_(True)
    try:
        with keep_global_rng(), torch.enable_grad(), sound_gradients(network):
            for training in (False, True):
                with in_mode(network, training=training):
                    logits = read(network, images)
                if not bool(torch.isfinite(logits).all()):
                    return False
            torch.autograd.backward(logits.square().sum())
    except Exception:  # the user's network may raise any exception: then it cannot be cut so
        return False
    return all(value.grad is None or bool(torch.isfinite(value.grad).all()) for value in network.parameters())


def difference(cut: Cut, network: nn.Module, images: Tensor, read: Read) -> float:
    """Return how far a copy is from its original without the channels that were cut; infinite if it fails.

    Each layer of the original receives only the channels that stay, and its other output channels are zero.
    Then the logits are the same if the right channels were cut of every layer.

    Args:
        cut: of this network.
        network: the original, left as it is.
        images: normalised (N, C, H, W).
        read: reads the logits.

    Returns:
        Root mean square of the difference, relative to how much the logits differ between images.
    """
    reference = copied(network)
    _wrap(reference, cut)
    try:
        with torch.no_grad(), in_mode(cut.network, training=False), in_mode(reference, training=False):
            own = read(cut.network, images)
            with CallLayers(reference):
                right = read(reference, images)
    except Exception:  # as above
        return float("inf")
    spread = (right - right.mean(0)).square().mean().sqrt().clamp_min(1e-12)
    return float((own - right).square().mean().sqrt() / spread)


def _wrap(reference: nn.Module, cut: Cut) -> None:
    """Let each layer of the original compute with the weights of the copy, between tensors of its size."""
    narrow = dict(cut.network.named_modules())
    own = {key.rpartition(".")[0]: indices for key, indices in cut.parameters.items()}
    for name, module in list(reference.named_modules()):
        if name in cut.outputs and _shapes(module) != _shapes(narrow[name]):
            between = _Between(
                narrow[name], module, cut.inputs.get(name, cut.outputs[name]), cut.outputs[name]
            )
        elif name in own and not list(module.children()):
            between = _Between(narrow[name], module, own[name], own[name])
        else:
            continue
        module.forward = between


def _shapes(module: nn.Module) -> list[torch.Size]:
    """Return the shapes of all that a layer holds, and its width, where it holds nothing."""
    shapes = [value.shape for value in (*module.parameters(), *module.buffers())]
    return [*shapes, torch.Size([width_of(module, "both")])]


class _Between:
    """The forward pass of a narrow layer, between tensors with all channels of the original."""

    def __init__(self, layer: nn.Module, original: nn.Module, gather: Tensor, scatter: Tensor) -> None:
        self._layer, self._gather, self._scatter = layer, gather, scatter
        sides: tuple[Side, Side] = ("in", "out") if isinstance(original, LAYERS) else ("both", "both")
        self._before, self._after = (width_of(original, side) for side in sides)
        self._first = not isinstance(original, nn.Linear | nn.LayerNorm | nn.MultiheadAttention)
        if isinstance(original, nn.LayerNorm):  # those for images (N, C, H, W) override it
            self._first = type(original).forward is not nn.LayerNorm.forward

    def __call__(self, *given: Any, **named: Any) -> Any:
        taken = [self._take(one) for one in given]
        answer = self._layer(*taken, **{key: self._take(one) for key, one in named.items()})
        if isinstance(answer, tuple):
            return (self._put(answer[0]), *answer[1:])
        return self._put(answer)

    def _dim(self, value: Tensor, width: int) -> int:
        """Return which dimension holds the channels."""
        if self._first and value.ndim > 2 and value.shape[1] == width:
            return 1
        return value.ndim - 1 if value.shape[-1] == width else 1

    def _take(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        return value.index_select(self._dim(value, self._before), self._gather)

    def _put(self, value: Tensor) -> Tensor:
        dim = self._dim(value, len(self._scatter))
        shape = list(value.shape)
        shape[dim] = self._after
        return value.new_zeros(shape).index_copy_(dim, self._scatter, value)
