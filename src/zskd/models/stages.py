"""The stages of a network: where one forward pass has features of the same resolution, and their last layers.

Convolutional networks halve the resolution from stage to stage, and what ends a stage has its most advanced
features. Networks of one resolution throughout (vision transformers, chains of linear layers) have no such
stages; the ends of their blocks are read instead.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from zskd.models.classifier import Classifier
from zskd.models.observation import LayerValue, observe

Grid = tuple[int, int]
"""Height and width of features."""
_PROBES = 2
_PREFIXES = (0, 1, 2, 5)
"""Tokens before those of the image: none, a class token, one more for distillation, or four registers."""
_WEIGHTED = (_ConvNd, nn.Linear)
_CHANNELS_FIRST = (_ConvNd, _BatchNorm, nn.GroupNorm)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One call of a layer whose output is read as feature maps (N, C, h, w)."""

    name: str
    """Dotted name of the layer in the classifier's module."""
    call: int
    """Number of the call among those of this layer in a forward pass, from 0."""
    channels: int
    """C: channels of feature maps, or length of a token or vector."""
    grid: Grid
    """Height and width (h, w); (1, 1) of vectors."""
    channels_last: bool = False
    """Whether the layer returns (N, …, C): tokens, vectors, or maps of this layout."""
    prefix: int = 0
    """Tokens that stand for no place of the image; they are left out."""

    def maps(self, output: Tensor) -> Tensor:
        """Return the layer's output for N images as feature maps (N, C, h, w)."""
        if not self.channels_last:
            return output
        tokens = output.reshape(len(output), -1, self.channels)[:, self.prefix :]
        return tokens.transpose(1, 2).reshape(len(output), self.channels, *self.grid)

    def __str__(self) -> str:
        return f"{self.name} ({self.channels}×{self.grid[0]}×{self.grid[1]})"


@dataclass(frozen=True)
class _Output:
    """An output in which a stage could end."""

    stage: Stage
    layer: nn.Module

    @property
    def weighted(self) -> bool:
        return isinstance(self.layer, _WEIGHTED)


def find_stages(classifier: Classifier) -> list[Stage]:
    """Return the stages of a network in the order in which they end, found by one forward pass.

    Args:
        classifier: in evaluation mode.

    Returns:
        For each resolution at which a convolution or linear layer has outputs, the output that comes last.
        For a network of one resolution: the ends of its blocks; without blocks, what follows each such
        layer. Vectors count in networks without feature maps alone, and logits never. Empty where no layer
        can be observed, as in TorchScript.
    """
    outputs = _outputs(classifier)
    if any(prod(one.stage.grid) > 1 and one.weighted for one in outputs):
        outputs = [one for one in outputs if prod(one.stage.grid) > 1]
    else:  # vectors: the last linear layer makes the logits
        head = max((i for i, one in enumerate(outputs) if one.weighted), default=0)
        outputs = outputs[:head]
    grids = {one.stage.grid for one in outputs if one.weighted}
    outputs = [one for one in outputs if one.stage.grid in grids]
    if len(grids) == 1:
        return _ends_of_blocks(outputs) or _ends_of_layers(outputs)
    inside = _inside_transitions(outputs)
    last: dict[Grid, Stage] = {}
    # what is inside a transition comes first, so that it only ends a stage that has nothing else
    for one in sorted(outputs, key=lambda one: one.stage.name not in inside):
        last[one.stage.grid] = one.stage
    order = {one.stage: i for i, one in enumerate(outputs)}
    return sorted(last.values(), key=order.__getitem__)


def find_convolutions(classifier: Classifier) -> list[Stage]:
    """Return the outputs of all convolutions of images, in the order of their calls.

    Args:
        classifier: in evaluation mode.
    """
    return [one.stage for one in _outputs(classifier) if isinstance(one.layer, nn.Conv2d)]


def _outputs(classifier: Classifier) -> list[_Output]:
    """Return the outputs of all layers that belong to places of an image, in the order in which they end."""
    low, high = classifier.spec.box
    probe = torch.full((_PROBES, *classifier.spec.shape), (low + high) / 2, device=classifier.device)
    with torch.no_grad():
        seen = observe(classifier, probe, outputs_of=(nn.Module,), with_features=False).layers
    calls: Counter[str] = Counter()
    last: dict[torch.Size, bool] = {}  # weights of attention have a shape that no layer with weights returns
    found = []
    for one in seen:
        if isinstance(one.layer, _CHANNELS_FIRST + _CHANNELS_LAST):
            last[one.value.shape] = isinstance(one.layer, _CHANNELS_LAST)
        layout = last.get(one.value.shape)
        stage = None if layout is None else _stage(one, calls[one.name], layout, classifier.spec.shape)
        calls[one.name] += 1
        if stage is not None and one.name:
            found.append(_Output(stage, one.layer))
    return found


def _stage(seen: LayerValue, call: int, channels_last: bool, shape: tuple[int, int, int]) -> Stage | None:
    """Return how an output is read as feature maps; None if it has no places of the images.

    Args:
        seen: the output of one call.
        call: number of this call.
        channels_last: whether the last layer with outputs of this shape puts the channels last.
        shape: of the images.
    """
    if len(seen.value) != _PROBES:
        return None
    match tuple(seen.value.shape[1:]):
        case (channels,):
            return Stage(name=seen.name, call=call, channels=channels, grid=(1, 1), channels_last=True)
        case (tokens, channels) if (found := _grid_of_tokens(tokens, shape)) is not None:
            prefix, grid = found
            return Stage(
                name=seen.name, call=call, channels=channels, grid=grid, channels_last=True, prefix=prefix
            )
        case (height, width, channels) if channels_last:
            return Stage(
                name=seen.name, call=call, channels=channels, grid=(height, width), channels_last=True
            )
        case (channels, height, width):
            return Stage(name=seen.name, call=call, channels=channels, grid=(height, width))
    return None


def _grid_of_tokens(tokens: int, shape: tuple[int, int, int]) -> tuple[int, Grid] | None:
    """Return the tokens in front, and height and width of the others, in the proportion of the images."""
    _, height, width = shape
    for prefix in _PREFIXES:
        for patch in range(1, min(height, width) + 1):
            if (height // patch) * (width // patch) == tokens - prefix:
                return prefix, (height // patch, width // patch)
    return None


def _inside_transitions(outputs: list[_Output]) -> set[str]:
    """Return the layers inside a block that leads from their resolution to the next one.

    Such a block belongs to the next stage, also where it begins with layers of the resolution before: with
    the wide convolution of an inverted residual, say.
    """
    grids: dict[str, set[Grid]] = {}
    for one in outputs:
        if one.weighted:
            for block in _around(one.stage.name):
                grids.setdefault(block, set()).add(one.stage.grid)
    ends = {one.stage.name: one.stage.grid for one in outputs}
    transitions = {
        block: ends[block] for block, of_block in grids.items() if block in ends and len(of_block) == 2
    }
    return {
        one.stage.name
        for one in outputs
        if any(transitions.get(block, one.stage.grid) != one.stage.grid for block in _around(one.stage.name))
    }


def _around(name: str) -> list[str]:
    """Return the names of the layers that a layer is in."""
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def _ends_of_blocks(outputs: list[_Output]) -> list[Stage]:
    """Return the outputs of the outermost layers that hold others, of a class that occurs several times."""
    blocks = [one for one in outputs if any(True for _ in one.layer.children())]
    kinds = [(one.stage.name.count("."), type(one.layer)) for one in blocks]
    counts = Counter(kinds)
    depth = min((kind[0] for kind, count in counts.items() if count > 1), default=None)
    return [
        one.stage for one, kind in zip(blocks, kinds, strict=True) if kind[0] == depth and counts[kind] > 1
    ]


def _ends_of_layers(outputs: list[_Output]) -> list[Stage]:
    """Return for each convolution or linear layer the last output before the next one: of its activation."""
    ends: list[Stage] = []
    for one in outputs:
        if one.weighted:
            ends.append(one.stage)
        elif ends:
            ends[-1] = one.stage
    return ends
