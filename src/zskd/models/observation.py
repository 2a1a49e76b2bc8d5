"""One forward pass of a classifier: its logits, its features, and inputs or outputs of chosen layers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from zskd.core.types import Features, Images, Logits
from zskd.models.classifier import Classifier

Kinds = tuple[type[nn.Module], ...]
"""Classes of layers; subclasses are included."""


@dataclass(frozen=True, kw_only=True)
class LayerValue:
    """Input or output of one call of a layer."""

    name: str
    """Dotted name of the layer in the classifier's module."""
    layer: nn.Module
    """The layer itself: a batch-norm has `running_mean` and `running_var` (C)."""
    value: Tensor
    """Its input, (N, C, H, W) for a convolution or a `BatchNorm2d`, or its output; differentiable."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """Outputs of a classifier for N images."""

    logits: Logits
    """(N, K)."""
    features: Features
    """(N, D), the input of the head."""
    layers: tuple[LayerValue, ...] = ()
    """One value for each call of a chosen layer, in the order of the calls."""


def observe(
    classifier: Classifier, images: Images, *, inputs_of: Kinds = (), outputs_of: Kinds = ()
) -> Observation:
    """Run a classifier once, in its present mode.

    If layers are chosen, the original network is run instead of the rewritten one, because fused layers have
    no such values. Values are copied, so that in-place layers cannot change them. All hooks are removed, also
    after an exception.

    Args:
        classifier: any.
        images: (N, C, H, W) in [0, 1].
        inputs_of: classes of layers whose inputs to return.
        outputs_of: classes of layers whose outputs to return.
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
