"""A network as torch.export records it: the one source of all files for other programs."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import torch
from torch import nn
from torch.export import ExportedProgram

from zskd.core.errors import ZskdError, one_line
from zskd.core.passes import uncounted
from zskd.models.classifier import Classifier
from zskd.models.modes import by_plain_operations

_KEPT = ("val", "tensor_meta")
"""What a recorded operation tells of itself beyond its arguments; the rest are places in source files."""


def record(classifier: Classifier) -> ExportedProgram:
    """Return a network as torch.export records it: images (N, C, H, W) in [0, 1] → logits (N, K), for any N.

    The module is recorded as it is written, in evaluation mode, on the CPU, not the faster network that the
    classifier runs. Normalisation, and how logits are made of what the module returns, are part of it.

    Args:
        classifier: not changed.

    Raises:
        ZskdError: torch.export cannot record the module, or not for any number of images.
    """
    network = copy.deepcopy(classifier).cpu().freeze()
    # strides of channels-last tensors depend on the number of images where it is one
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    try:
        program = _recorded(network, network.spec.shape)
    except Exception as first:  # the user's forward pass may raise any exception
        try:  # slower, by its bytecode, where len(images) is a number of any size
            network.module = _by_bytecode(network)
            program = _recorded(network, network.spec.shape)
        except Exception as error:
            raise ZskdError(
                "torch.export cannot record this network for any number of images "
                f"({one_line(first)[:200]}): write its forward pass without Python code that depends on the "
                "number or the values of images"
            ) from error
    for node in program.graph.nodes:
        node.meta = {key: value for key, value in node.meta.items() if key in _KEPT}
    return program


def _by_bytecode(network: Classifier) -> nn.Module:
    return _recorded(network.module, network.spec.shape, strict=True).module(check_guards=False)


def _recorded(network: nn.Module, shape: tuple[int, int, int], *, strict: bool = False) -> ExportedProgram:
    shapes = ({0: torch.export.Dim("batch")},)
    with uncounted(), quiet(), by_plain_operations(), torch.no_grad():
        return torch.export.export(network, (torch.zeros(2, *shape),), dynamic_shapes=shapes, strict=strict)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what torch and onnxruntime print of themselves off the terminal; errors are raised as well."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable()
        try:
            yield
        finally:
            logging.disable(before)
