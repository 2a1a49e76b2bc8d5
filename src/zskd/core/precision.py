"""The precision that classifiers compute in: single, or bfloat16 where the processor is faster in it.

    with computing_in("bfloat16"):
        logits = classifier(images)  # float32, but convolutions and products were computed in bfloat16

Weights, losses, gradients of weights and optimisers stay in float32 (mixed precision: Micikevicius et al.
2018, arXiv:1710.03740). bfloat16 has the exponent of float32, so no loss is scaled (Kalamkar et al. 2019,
arXiv:1905.12322).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Precision = Literal["float32", "bfloat16"]
"""Of convolutions and matrix products."""

_inside: list[Precision] = ["float32"]
"""Blocks that are entered, the innermost last."""


@contextmanager
def computing_in(precision: Precision) -> Iterator[None]:
    """Let all classifiers compute in a precision inside the block; only `Classifier` reads it."""
    _inside.append(precision)
    try:
        yield
    finally:
        _inside.pop()


def present_precision() -> Precision:
    """Return the precision of the innermost block; float32 outside of all."""
    return _inside[-1]
