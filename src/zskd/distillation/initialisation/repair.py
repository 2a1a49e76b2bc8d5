"""Layer-wise least squares for any network: each layer comes nearest to the teacher's from its own inputs.

He et al. 2017 (arXiv:1707.06168) repair a chain so, one layer after the other. Here the layers of a network
are taken in the order in which they run, whatever joins them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from zskd.core.passes import uncounted
from zskd.distillation.initialisation.ridge import damping
from zskd.distillation.initialisation.rows import draw_positions, input_rows, output_rows, positions_of
from zskd.models.classifier import Classifier
from zskd.models.hooks import after_runs
from zskd.models.running import running_original

Fitted = nn.Conv2d | nn.Linear
_MOST_INPUTS = 8192
"""Inputs of a layer that is fitted, at most: their products must fit into memory."""


@dataclass(frozen=True)
class Place:
    """A layer that is fitted."""

    name: str
    """Dotted name."""
    positions: int
    """Numbers of output pixels or tokens of each image."""
    inputs: int
    """Inputs of each output, a bias counted as one more."""
    outputs: int
    groups: int


def find_places(teacher: Classifier, student: Classifier, image: Tensor) -> tuple[Place, ...]:
    """Return the layers of a student that can be fitted, in the order in which they run.

    Each runs once in both networks, with outputs of the same positions.

    Args:
        teacher: in evaluation mode.
        student: with layers of the same names, in evaluation mode.
        image: one image (1, C, H, W) in [0, 1].
    """
    calls = [_calls(network, image) for network in (teacher, student)]
    found = []
    for name, positions in calls[1].items():
        layer = student.module.get_submodule(name)
        assert isinstance(layer, Fitted)
        if len(positions) == 1 and calls[0].get(name) == positions:
            size = layer.weight[0].numel() + (layer.bias is not None)
            groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
            if size <= _MOST_INPUTS:
                found.append(Place(name, positions[0], size, len(layer.weight), groups))
    return tuple(found)


def repair(
    teacher: Classifier,
    student: Classifier,
    places: Sequence[Sequence[Place]],
    outputs: Mapping[str, Tensor],
    parts: Sequence[Tensor],
    rng: Generator,
    done: Callable[[Sequence[Place]], None] = lambda _: None,
) -> None:
    """Fit the layers of a student, with as little change as needed, to the teacher's outputs.

    Args:
        teacher: in evaluation mode; left as it is.
        student: in evaluation mode; its weights are set in place.
        places: layers to fit; those of one sweep are fitted on the same passes.
        outputs: names of layers → numbers of the teacher's output channels that the student's has.
        parts: images (N, C, H, W) in [0, 1], in as many parts as go through a network at once.
        rng: for the positions that layers are fitted on.
        done: called after each sweep.
    """
    layers = [place for sweep in places for place in sweep]
    positions = [
        {one.name: draw_positions(one.positions, rng).to(part.device) for one in layers} for part in parts
    ]
    targets: list[dict[str, Tensor]] = []
    for part, at in zip(parts, positions, strict=True):
        rows: dict[str, Tensor] = {}
        with watching(teacher, [one.name for one in layers], _keep_outputs(rows, outputs, at)):
            teacher(part)
        targets.append(rows)
    for sweep in places:
        fits = {place.name: _Fit(_layer(student, place.name)) for place in sweep}
        for part, at, rows in zip(parts, positions, targets, strict=True):
            with watching(student, list(fits), _add_rows(fits, rows, at, sweep[-1].name)), suppress(_Enough):
                student(part)
        for place in sweep:
            fits[place.name].set_weights()
            for rows in targets:
                del rows[place.name]
        done(sweep)


Watch = Callable[[str, nn.Module, Tensor, Tensor], None]
"""Receives a layer's name, the layer, its input and its output."""


@contextmanager
def watching(network: Classifier, names: Sequence[str], watch: Watch) -> Iterator[None]:
    """Call a function after each run of some layers of the original network; hooks are removed afterwards."""

    def hook(name: str) -> Any:
        return lambda layer, given, answer: watch(name, layer, given, answer)

    with running_original(network), ExitStack() as undo:
        for name in names:
            undo.enter_context(after_runs(network.module.get_submodule(name), hook(name)))
        yield


class _Enough(Exception):
    """The last layer of a sweep has run."""


def _keep_outputs(rows: dict[str, Tensor], outputs: Mapping[str, Tensor], at: Mapping[str, Tensor]) -> Watch:
    def keep(name: str, layer: nn.Module, _: Tensor, answer: Tensor) -> None:
        assert isinstance(layer, Fitted)
        rows[name] = output_rows(layer, answer, at[name])[:, outputs[name].to(answer.device)]

    return keep


def _add_rows(
    fits: Mapping[str, _Fit], targets: Mapping[str, Tensor], at: Mapping[str, Tensor], last: str
) -> Watch:
    def add(name: str, layer: nn.Module, given: Tensor, answer: Tensor) -> None:
        assert isinstance(layer, Fitted)
        residuals = targets[name] - output_rows(layer, answer, at[name])
        fits[name].add(input_rows(layer, given, at[name]), residuals)
        if name == last:
            raise _Enough

    return add


class _Fit:
    """Least squares of one layer with G groups of outputs."""

    def __init__(self, layer: Fitted) -> None:
        self._layer = layer
        self._groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
        self._size = layer.weight[0].numel() + (layer.bias is not None)
        self._gram: Tensor | None = None
        self._cross: Tensor | None = None

    def add(self, inputs: Tensor, residuals: Tensor) -> None:
        """Add rows (M, G, I) of inputs and (M, O) of residuals."""
        wanted = residuals.view(len(residuals), self._groups, -1)
        gram = torch.einsum("mgi,mgj->gij", inputs, inputs).double()
        cross = torch.einsum("mgi,mgo->gio", inputs, wanted).double()
        self._gram = gram if self._gram is None else self._gram + gram
        self._cross = cross if self._cross is None else self._cross + cross

    def set_weights(self) -> None:
        """Set the layer's weights to those of the least error."""
        assert self._gram is not None
        assert self._cross is not None
        ridge = damping(self._gram.diagonal(dim1=1, dim2=2).mean(1))[:, None, None]
        identity = torch.eye(self._size, dtype=self._gram.dtype, device=self._gram.device)
        change = torch.linalg.solve(self._gram + ridge * identity, self._cross).transpose(1, 2)
        change = change.reshape(-1, self._size)  # (O, I)
        weight = self._layer.weight
        of_weights = change[:, : weight[0].numel()].reshape(weight.shape)
        weight.copy_((weight.double() + of_weights).to(weight))
        if self._layer.bias is not None:
            self._layer.bias.copy_((self._layer.bias.double() + change[:, -1]).to(weight))


def _calls(network: Classifier, image: Tensor) -> dict[str, list[int]]:
    """Return the numbers of output positions at each call of the layers that can be fitted, as they run."""
    calls: dict[str, list[int]] = {}

    def note(name: str, layer: nn.Module, given: Tensor, answer: Tensor) -> None:
        first = isinstance(layer, nn.Conv2d)
        if isinstance(answer, Tensor) and answer.ndim == given.ndim and (answer.ndim == 4 or not first):
            calls.setdefault(name, []).append(positions_of(layer, answer))

    names = [name for name, module in network.module.named_modules() if _can_be_fitted(module)]
    with watching(network, names, note), uncounted():
        network(image)
    return calls


def _can_be_fitted(module: nn.Module) -> bool:
    """Whether a layer is a plain one whose weights are parameters of its own."""
    if type(module) not in (nn.Conv2d, nn.Linear) or "weight" not in module._parameters:
        return False
    return not isinstance(module, nn.Conv2d) or module.padding_mode == "zeros"


def _layer(network: Classifier, name: str) -> Fitted:
    layer = network.module.get_submodule(name)
    assert isinstance(layer, Fitted)
    return layer
