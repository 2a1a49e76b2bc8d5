"""One forward pass of a classifier: its logits, its features, and inputs or outputs of chosen layers."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zskd.core.errors import ZskdError
from zskd.core.types import Features, Images, Logits
from zskd.models.classifier import Classifier
from zskd.models.hooks import before_runs
from zskd.models.running import running_original

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


class Observation:
    """Outputs of a classifier for N images.

    Args:
        logits: (N, K).
        features: (N, D), the input of the head; or the error that there is no head, which is raised where
            features are read.
        layers: one value for each call of a chosen layer, in the order of the calls.
    """

    def __init__(
        self, *, logits: Logits, features: Features | ZskdError, layers: tuple[LayerValue, ...] = ()
    ) -> None:
        self.logits, self.layers, self._features = logits, layers, features

    @property
    def features(self) -> Features:
        """(N, D), the input of the head.

        Raises:
            ZskdError: the network has no head.
        """
        if isinstance(self._features, ZskdError):
            raise self._features
        return self._features


def observe(
    classifier: Classifier,
    images: Images,
    *,
    inputs_of: Kinds = (),
    outputs_of: Kinds = (),
    outputs_named: Collection[str] = (),
    with_features: bool = True,
) -> Observation:
    """Run a classifier once, in its present mode.

    If layers are chosen, the original network is run instead of the rewritten one, because fused layers have
    no such values. Values are copied, so that in-place layers cannot change them. All hooks are removed, also
    after an exception.

    Args:
        classifier: any; a network without a head has no features.
        images: (N, C, H, W) in [0, 1].
        inputs_of: classes of layers whose inputs to return.
        outputs_of: classes of layers whose outputs to return; of a tuple or list of outputs, the first.
        outputs_named: dotted names of further layers whose outputs to return.
        with_features: False where features are not read: some heads can only be observed at a cost.
    """
    layers: list[LayerValue] = []
    reads = bool(inputs_of or outputs_of or outputs_named)
    with ExitStack() as undo:
        for name, layer in classifier.module.named_modules() if reads else ():
            if isinstance(layer, torch.jit.ScriptModule):  # takes no hooks
                continue
            if isinstance(layer, inputs_of):
                undo.enter_context(before_runs(layer, partial(_keep_input, layers, name)))
            if isinstance(layer, outputs_of) or name in outputs_named:
                undo.enter_context(layer.register_forward_hook(partial(_keep_output, layers, name)))
        if reads:
            undo.enter_context(running_original(classifier))
        features: Features | ZskdError = ZskdError("features were not observed: give with_features=True")
        if with_features:
            features, logits = classifier.features_if_any(images)
        else:
            logits = classifier(images)
    return Observation(logits=logits, features=features, layers=tuple(layers))


def _keep_input(layers: list[LayerValue], name: str, layer: nn.Module, value: Tensor) -> None:
    layers.append(LayerValue(name=name, layer=layer, value=_kept(value)))


def _keep_output(layers: list[LayerValue], name: str, layer: nn.Module, _inputs: Any, output: Any) -> None:
    value = output[0] if isinstance(output, tuple | list) and output else output
    if isinstance(value, Tensor):  # a network of another library may return anything
        layers.append(LayerValue(name=name, layer=layer, value=_kept(value)))


def _kept(value: Tensor) -> Tensor:
    """Return a copy in single precision, whatever the network computes in."""
    return value.to(torch.float32, copy=True) if value.dtype == torch.bfloat16 else value.clone()
