"""The linear maps of a forward pass: every product of a batch with a matrix, however the network writes it.

They are recorded below autograd, where a linear layer, `F.linear`, `@`, `einsum`, a 1×1 convolution, a weight
computed by weight norm and the layers of TorchScript are all one of a few operations.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from zskd.core.types import Features

_aten = torch.ops.aten


@dataclass(frozen=True)
class Product:
    """One linear map of a forward pass for N images, at S positions of each (pixels, tokens, or 1)."""

    name: str
    """Dotted name of the layer that owns the matrix, or that was running."""
    count: int
    """Number N of images."""
    inputs: Tensor
    """What enters it, as the network has it: (N·S, D), or (N, D, …) of a convolution."""
    matrix: Tensor
    """(K, D), or (K, D, …) of a convolution, as it was used: after weight norm or normalisation."""
    output: Tensor
    """What leaves it: a copy, because an activation may change it in place."""

    @property
    def weight(self) -> Tensor:
        """The matrix (K, D)."""
        return self.matrix.flatten(1)

    @property
    def features(self) -> Features:
        """The inputs, averaged over the positions (N, D), differentiable."""
        if self.matrix.ndim == 2:
            return self.inputs.reshape(self.count, -1, self.inputs.shape[-1]).mean(1)
        whole = self.matrix[0, 0].numel() > 1
        return self.inputs.flatten(1) if whole else self.inputs.flatten(2).mean(2)

    @property
    def outputs(self) -> Tensor:
        """(N, K, S)."""
        if self.matrix.ndim == 2:
            return self.output.reshape(self.count, -1, len(self.matrix)).transpose(1, 2)
        return self.output.flatten(2)


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the linear maps that run inside `with recorder:`.

    Args:
        module: the network that runs.
        count: number N of images in its batch.
        widths: numbers of outputs K of the maps to keep; of all others, only names and widths are kept.
    """

    def __init__(self, module: nn.Module, count: int, widths: Collection[int] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.products: list[Product] = []
        self.computed: list[Tensor] = []
        """Copies of all values that were computed and are as many as K of each image."""
        self.widths: dict[str, set[int]] = {}
        """Numbers of outputs of all maps, by name."""
        self.partly: dict[str, None] = {}
        """Names of such maps that were applied to fewer rows than N images have."""
        self.drew: dict[str, None] = {}
        """Layers that drew random numbers."""
        self.mixed: dict[str, None] = {}
        """Layers that normalised by statistics of the batch."""
        self._module, self._count, self._kept = module, count, frozenset(widths)
        self._sizes = {count * width for width in widths}
        self._running: list[str] = []
        self._undo = ExitStack()
        self._owners = {p.untyped_storage().data_ptr(): name for name, p in module.named_parameters()}

    def __enter__(self) -> Recorder:
        def enter(name: str) -> Any:
            return lambda *_: self._running.append(name)

        for name, layer in self._module.named_modules():
            if isinstance(layer, torch.jit.ScriptModule):  # takes no hooks
                continue
            self._undo.enter_context(layer.register_forward_pre_hook(enter(name)))
            self._undo.enter_context(layer.register_forward_hook(lambda *_: self._leave()))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._undo.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and keep what it is if it is a linear map."""
        output = func(*args, **(kwargs or {}))
        if isinstance(output, Tensor) and output.numel() in self._sizes:
            self.computed.append(output.detach().clone())
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.drew[self._here()] = None
        elif func.overloadpacket in _BATCH_NORMS and _uses_batch(args):
            self.mixed[self._here()] = None
        elif (operands := _operands(func, args)) is not None:
            self._keep(*operands, output)
        return output

    def _leave(self) -> None:
        self._running.pop()

    def _here(self) -> str:
        return next((name for name in reversed(self._running) if name), type(self._module).__name__)

    def _keep(self, inputs: Tensor, weight: Tensor, output: Tensor) -> None:
        name = self._name(weight)
        width = len(weight)
        self.widths.setdefault(name, set()).add(width)
        if width not in self._kept:
            return
        if _is_of_images(inputs, weight, output, self._count):
            self.products.append(Product(name, self._count, inputs, weight.detach(), output.clone()))
        elif weight.ndim == 2:
            self.partly[name] = None

    def _name(self, weight: Tensor) -> str:
        parameter = self._owners.get(weight.untyped_storage().data_ptr(), "")
        owner, _, own = parameter.rpartition(".")
        return owner or own or next((name for name in reversed(self._running) if name), self._own(weight))

    def _own(self, weight: Tensor) -> str:
        """Return the name of the network's own parameter that a matrix is computed from: one of its shape."""
        own = self._module.named_parameters(recurse=False)
        return next((name for name, one in own if one.shape == weight.shape), type(self._module).__name__)


_BATCH_NORMS = {
    _aten.native_batch_norm,
    _aten.cudnn_batch_norm,
    _aten.miopen_batch_norm,
    _aten._native_batch_norm_legit,
    _aten._native_batch_norm_legit_functional,
    _aten._batch_norm_with_update,
    _aten._batch_norm_no_update,
}


def _uses_batch(args: Any) -> bool:
    """Whether a batch-norm takes mean and variance of its batch: its flag `training`.

    Instance norm is written as such a batch-norm of one image, and does not mix images.
    """
    return any(flag is True for flag in args[3:]) and len(args[0]) > 1


def _operands(func: Any, args: Any) -> tuple[Tensor, Tensor] | None:
    """Return inputs and matrix (K, …) of an operation; None if it is no linear map."""
    match func.overloadpacket:
        case _aten.mm:
            return args[0], args[1].t()
        case _aten.addmm:
            return args[1], args[2].t()
        case _aten.bmm if len(args[0]) == 1:
            return args[0][0], args[1][0].t()
        case _aten.mv:
            return args[0], args[1][None]
        case _aten.linear:
            return args[0], args[1]
        case _aten.convolution if not args[6] and args[8] == 1:
            return args[0], args[1]
    return None


def _is_of_images(inputs: Tensor, matrix: Tensor, output: Tensor, count: int) -> bool:
    """Whether a map is applied to N images: to rows, or by a convolution of 1×1 or of the input's size."""
    if matrix.ndim == 2:
        return prod(inputs.shape[:-1]) % count == 0
    at_each = matrix[0, 0].numel() == 1 and output.shape[2:] == inputs.shape[2:]
    whole = matrix.shape[2:] == inputs.shape[2:] and output[0, 0].numel() == 1
    return len(inputs) == count and (at_each or whole)
