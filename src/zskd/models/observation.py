"""One run of a classifier: its logits, its features, and what entered or left chosen layers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from zskd.core.types import Features, Images, Logits
from zskd.models.classifier import Classifier

Kinds = tuple[type[nn.Module], ...]
"""Classes of layers; a layer of a subclass is of the kind too."""


@dataclass(frozen=True, kw_only=True)
class LayerValue:
    """What entered or left a layer when it was used."""

    name: str
    """Dotted name of the layer in the classifier's module."""
    layer: nn.Module
    """The layer itself: a batch-norm has `running_mean` and `running_var` (C)."""
    value: Tensor
    """Its input, (N, C, H, W) for a convolution or a `BatchNorm2d`; or its output. Part of the graph."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What a classifier computes for N images."""

    logits: Logits
    """(N, K)."""
    features: Features
    """(N, D), the input of the head."""
    layers: tuple[LayerValue, ...] = ()
    """One value for each use of a layer that was asked for, in order of use."""


def observe(
    classifier: Classifier, images: Images, *, inputs_of: Kinds = (), outputs_of: Kinds = ()
) -> Observation:
    """Run a classifier once, in the mode that it is in.

    A network that was rewritten for speed is run as it is written where layers are asked for: merged layers
    have no such inputs. Values are copied at once, before a layer that works in place changes them. No hook
    stays, whatever the network raises.

    Args:
        classifier: any.
        images: (N, C, H, W) in [0, 1].
        inputs_of: kinds of layers whose inputs are kept.
        outputs_of: kinds of layers whose outputs are kept.
    """
    features: list[Tensor] = []
    layers: list[LayerValue] = []

    def keep_features(_head: nn.Module, inputs: tuple[Any, ...]) -> None:
        features.append(inputs[0].clone())

    def keep_input(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def keep(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            layers.append(LayerValue(name=name, layer=layer, value=inputs[0].clone()))

        return keep

    def keep_output(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def keep(layer: nn.Module, _inputs: tuple[Any, ...], output: Tensor) -> None:
            layers.append(LayerValue(name=name, layer=layer, value=output.clone()))

        return keep

    with ExitStack() as undo:
        undo.enter_context(classifier.head.register_forward_pre_hook(keep_features))
        for name, layer in classifier.module.named_modules():
            if isinstance(layer, inputs_of):
                undo.enter_context(layer.register_forward_pre_hook(keep_input(name)))
            if isinstance(layer, outputs_of):
                undo.enter_context(layer.register_forward_hook(keep_output(name)))
        if inputs_of or outputs_of:
            undo.callback(setattr, classifier, "rewrite", classifier.rewrite)
            classifier.rewrite = False
        logits = classifier(images)
    return Observation(logits=logits, features=features[-1], layers=tuple(layers))
