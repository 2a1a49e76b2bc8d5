"""What a network returns, and how logits are made of it.

It is found out by what the network answers for some images, not by names: rows in [0, 1] that sum to one are
probabilities, rows whose exponentials sum to one are log-probabilities, and so on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zskd.core.errors import ZskdError, one_line
from zskd.core.types import Logits
from zskd.models.modes import in_mode

Kind = Literal["logits", "log-probabilities", "probabilities", "sigmoids"]
NumberOfImages = int | torch.SymInt | Tensor
"""A number; or what stands for it while torch records a forward pass for an export or a trace."""
_SUM = 1e-3
"""Largest deviation from one of the sum of probabilities."""
_SURE = 6.0
"""Logit up to which a sigmoid in float32 tells it: an error of 1e-7 in p is one of 4e-5 there."""
_ROUNDED = 1e-6
"""Difference of two sigmoids that float32 makes; programs compute a sigmoid in ways of their own."""
_WORDS = {
    "logits": "logits",
    "log-probabilities": "log-probabilities, which are logits",
    "probabilities": "probabilities, whose logarithm is taken",
    "sigmoids": "one probability for each class alone (multi-label), of which log(p / (1 − p)) is taken",
}
_WORDS_OF_ONE = {
    "logits": "one logit z: −z/2 and z/2 are the logits of two classes",
    "sigmoids": "one probability p: with z = log(p / (1 − p)), −z/2 and z/2 are the logits of two classes",
}


@dataclass(frozen=True)
class Output:
    """How the logits (N, K) are read from what a network returns."""

    part: int | str | None = None
    """Which element of a tuple, key of a mapping, or attribute; None: the network returns one tensor."""
    kind: Kind = "logits"
    """What the values are."""
    width: int = 0
    """Values for each image; one value stands for two classes."""

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return max(2, self.width)

    @property
    def multi_label(self) -> bool:
        """Whether each class has a probability of its own, so that several classes can be true."""
        return self.kind == "sigmoids" and self.width > 1

    @property
    def words(self) -> str:
        """What the network returns, for the user."""
        where = "" if self.part is None else f"{self.part!r} of what the network returns: "
        return where + (_WORDS if self.width > 1 else _WORDS_OF_ONE)[self.kind]

    def values(self, answer: Any, count: NumberOfImages) -> Tensor:
        """Return the values (N, width) in what the network returned for N images.

        Raises:
            ZskdError: they are not where they were.
        """
        part = _part(answer, self.part)
        if not isinstance(part, Tensor) or part.numel() != count * self.width:
            what = f"a tensor {tuple(part.shape)}" if isinstance(part, Tensor) else type(answer).__name__
            raise ZskdError(
                f"the network returned {what} instead of {self.width} values for each of {count} images: "
                "give a network that returns the same in training mode and in evaluation mode"
            )
        return part.reshape(-1, self.width)

    def raw(self, answer: Any, count: NumberOfImages) -> Logits:
        """Return logits (N, width): one column where the network has one output."""
        values = self.values(answer, count)
        if self.kind == "probabilities":
            return values.clamp_min(torch.finfo(values.dtype).tiny).log()
        if self.kind == "sigmoids":
            # not torch.logit: its gradient is infinite where p is 0 or 1
            smallest = torch.finfo(values.dtype).tiny
            return values.clamp_min(smallest).log() - (1 - values).clamp_min(smallest).log()
        return values

    def logits(self, answer: Any, count: NumberOfImages) -> Logits:
        """Return logits (N, K) from what the network returned for N images."""
        return two_classes(self.raw(answer, count))

    def apart(self, found: Logits, expected: Logits) -> Tensor:
        """Return how far apart each two logits (N, K) are: 0 where only the rounding of a sigmoid is between.

        Near 0 and 1, log(p / (1 − p)) magnifies it by thousands.
        """
        difference = (found - expected).abs()
        if self.kind != "sigmoids":
            return difference
        scale = 2 if self.width == 1 else 1  # of one logit z, both classes have z/2
        z, other = (scale * logits.double() for logits in (found, expected))
        same = (F.sigmoid(z) - F.sigmoid(other)).abs() <= _ROUNDED
        return difference.masked_fill(same & (other.abs() > _SURE), 0)


def two_classes(values: Tensor) -> Tensor:
    """Return (…, K) values as they are, and one logit z as (−z/2, z/2), whose softmax is the sigmoid of z."""
    return torch.cat([-values / 2, values / 2], -1) if values.shape[-1] == 1 else values


def answer_of(module: nn.Module, probe: Tensor) -> Any:
    """Return what a network returns in evaluation mode, without gradients.

    Raises:
        ZskdError: it cannot take such an input.
    """
    try:
        with torch.no_grad(), in_mode(module, training=False):
            return module(probe)
    except Exception as error:  # the user's forward pass may raise any exception
        shape = ", ".join(map(str, probe.shape[1:]))
        raise ZskdError(
            f"the network cannot take an input of ({shape}) ({one_line(error)}): check --shape (channels, "
            f"height, width), or give a network that takes nothing but a batch (N, {shape}) of float32"
        ) from error


def possible_outputs(answer: Any, count: int, computed: Sequence[Tensor] | None = None) -> list[Output]:
    """Return each part of a network's answer for N images that can be its logits.

    Args:
        answer: what it returned.
        count: N.
        computed: values that it computed on the way, of which a sigmoid may have been taken.
    """
    found = []
    for name, part in _parts(answer).items():
        values = rows_of(part, count)
        if values is not None:
            found.append(Output(name, _kind(values, computed or ()), values.shape[1]))
    return found


def first_rows(answer: Any, count: int) -> Tensor:
    """Return the first part (N, K) of a network's answer for N images that can be its class scores.

    Raises:
        ZskdError: there is none.
    """
    for part in _parts(answer).values():
        if (values := rows_of(part, count)) is not None:
            return values
    raise ZskdError(f"the network returned {describe_answer(answer)} and no class scores of {count} images")


def describe_answer(answer: Any) -> str:
    """Return in words what a network returned."""
    parts = _parts(answer)
    shapes = [
        f"{tuple(part.shape)}" if name is None else f"{name!r} {tuple(part.shape)}"
        for name, part in parts.items()
    ]
    what = "a tensor" if isinstance(answer, Tensor) else f"a {type(answer).__name__}"
    return f"{what} of {', '.join(shapes)}" if shapes else what


def _parts(answer: Any) -> dict[int | str | None, Tensor]:
    """Return the tensors in an answer by where they are; of an answer with `logits`, these alone."""
    if isinstance(answer, Tensor):
        return {None: answer}
    named = _part(answer, "logits")
    if isinstance(named, Tensor):
        return {"logits": named}
    pairs: Any = ()
    if isinstance(answer, Mapping):
        pairs = answer.items()
    elif isinstance(answer, Sequence):
        pairs = enumerate(answer)
    elif hasattr(answer, "__dict__"):
        pairs = vars(answer).items()
    return {name: part for name, part in pairs if isinstance(part, Tensor)}


def _part(answer: Any, name: int | str | None) -> Any:
    if name is None:
        return answer
    if isinstance(answer, Mapping):
        return answer.get(name)
    if isinstance(name, int):
        return answer[name] if isinstance(answer, Sequence) and name < len(answer) else None
    return getattr(answer, name, None)


def rows_of(part: Tensor, count: int) -> Tensor | None:
    """Return (N, K) values of a tensor (N,), (N, K) or (N, K, 1, 1); None for another."""
    if not part.is_floating_point() or part.ndim == 0 or len(part) != count or not part.numel():
        return None
    fits = part.ndim <= 2 or part[0].numel() == part.shape[1]
    return part.reshape(count, -1) if fits else None


def _kind(values: Tensor, computed: Sequence[Tensor]) -> Kind:
    """Return what the values (N, K) are, judged by all of them."""
    values = values.double()
    if not bool(torch.isfinite(values).all()):
        return "logits"
    several, inside = values.shape[1] > 1, bool(((values >= 0) & (values <= 1)).all())
    if several and inside and bool(((values.sum(1) - 1).abs() < _SUM).all()):
        return "probabilities"
    if several and bool((values.logsumexp(1).abs() < _SUM).all()):
        return "log-probabilities"
    if inside and any(_is_sigmoid(values, one) for one in computed):
        return "sigmoids"
    return "logits"


def _is_sigmoid(values: Tensor, before: Tensor) -> bool:
    """Whether values are the sigmoid of others that were computed before. Being in [0, 1] proves nothing."""
    return before.numel() == values.numel() and torch.allclose(
        F.sigmoid(before.double().reshape(values.shape)), values, rtol=0, atol=1e-5
    )
