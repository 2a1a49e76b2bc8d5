"""Members of the named families by size: the largest that a budget allows, of a teacher's kind.

A member of small depth is taken narrower or wider; a deeper one only where its published width fits. At equal
parameters, shallow and wide networks are as good as deep and narrow ones, and faster (Zagoruyko and
Komodakis 2016, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn

from zskd.core.code import format_call
from zskd.core.errors import ZskdError
from zskd.core.memory import is_large
from zskd.models.classifier import Classifier
from zskd.models.counting import count_multiply_adds
from zskd.models.factory import build, describe
from zskd.models.kinds import Kind, kind_of

Measure = Literal["parameters", "multiply-adds"]
"""What a budget limits; multiply-adds are those of one image."""
Shape = tuple[int, int, int]
"""Channels, height and width of the images."""


@dataclass(frozen=True)
class Member:
    """A built-in network at any width, which is counted in steps."""

    name: str
    published: int = 100
    """Steps of the published width: a step is a hundredth."""
    least: int = 5
    most: int = 6400

    def at(self, width: int) -> str:
        """Return its name at a width in steps."""
        if width == self.published:
            return self.name
        return format_call(self.name, {"width": width / self.published})


class LinearMember(Member):
    """Two hidden layers; a step is a unit of the second, and the first has twice as many."""

    def at(self, width: int) -> str:
        """Return its name at a width in steps."""
        return format_call(self.name, {"widths": (2 * width, width)})


_RESNETS = tuple(Member(f"resnet{depth}") for depth in (8, 14, 20))
_LARGE_RESNETS = (Member("resnet18"), Member("resnet34"))
_LINEAR = (LinearMember("mlp", published=128, least=1, most=32768),)
_OF_KIND: dict[Kind, tuple[Member, ...]] = {
    "linear": _LINEAR,
    "small chain": (Member("lenet5"),),
    "chain": tuple(Member(f"vgg{depth}") for depth in (8, 11, 13)),
    "depthwise": (Member("mobilenet"),),
}
"""Members of a kind, the shallowest first; all other kinds have residual networks."""


def fallback(teacher: Classifier, share: float) -> str:
    """Return the name of the largest network of the teacher's kind with a share of its multiply-adds.

    It is for teachers of which no smaller copy can be made.

    Args:
        teacher: not changed.
        share: above 0, at most 1.

    Raises:
        ZskdError: the smallest network of this kind is larger; it is named.
    """
    needed = count_multiply_adds(teacher.module, _normalised(teacher))
    return named_student(teacher, "multiply-adds", int(share * needed))


def named_student(teacher: Classifier, measure: Measure, limit: int) -> str:
    """Return the name of the largest network of the teacher's kind that fits into a budget.

    Args:
        teacher: not changed.
        measure: what is limited.
        limit: largest number of it.

    Raises:
        ZskdError: the smallest network of this kind is larger; it is named.
    """
    kind = kind_of(teacher.module, _normalised(teacher))
    return largest_member(kind, teacher.spec.shape, teacher.classes, measure, limit)


def _normalised(teacher: Classifier) -> Tensor:
    """Return one black image for the teacher's network."""
    return teacher.normalise(torch.zeros(1, *teacher.spec.shape, device=teacher.device))


@cache
def largest_member(kind: Kind, shape: Shape, classes: int, measure: Measure, limit: int) -> str:
    """Return the name of the largest network that fits into a budget, of the named family of a kind.

    Networks are counted without memory for their weights. No random number is drawn.

    Args:
        kind: of the teacher.
        shape: of its images.
        classes: number of classes K.
        measure: what is limited.
        limit: largest number of it.

    Raises:
        ZskdError: the smallest member is larger; it is named.
    """

    def needs(member: Member, width: int) -> float:
        return member_needs(member, width, shape, classes)[measure]

    members = _members(kind, shape, classes)
    smallest = needs(members[0], members[0].least)
    if smallest > limit:
        raise ZskdError(
            f"a budget of {limit:,} {measure} is too small: the smallest student of this teacher's kind is "
            f"{members[0].at(members[0].least)} with {smallest:,.0f}"
        )
    deeper = [one for one in members[1:] if needs(one, one.published) <= limit]
    chosen = (members[0], *deeper)[-1]
    return chosen.at(_widest(chosen, limit, lambda width: needs(chosen, width)))


def _widest(member: Member, limit: int, needs: Callable[[int], float]) -> int:
    """Return the largest width that fits, in steps; the least does.

    What a network needs grows about with the square of its width, so that few widths are tried.
    """
    fits, too_wide, guess = member.least, member.most + 1, float(member.published)
    while too_wide - fits > 1:
        width = round(min(max(guess, fits + 1), too_wide - 1))
        needed = needs(width)
        fits, too_wide = (width, too_wide) if needed <= limit else (fits, width)
        guess = width * math.sqrt(limit / needed) if needed < math.inf else (fits + too_wide) / 2
    return fits


def _members(kind: Kind, shape: Shape, classes: int) -> tuple[Member, ...]:
    """Return the members of a kind that take images of a shape, the shallowest first."""
    residual = _LARGE_RESNETS if is_large(shape) else _RESNETS
    for members in (_OF_KIND.get(kind, residual), residual):
        try:
            describe(members[0].at(members[0].least), shape=shape, classes=classes)
        except ZskdError:  # the images are too small
            continue
        return members
    return _LINEAR


@cache
def member_needs(member: Member, width: int, shape: Shape, classes: int) -> dict[Measure, float]:
    """Return parameters, and multiply-adds of one image, of a member; infinitely many of one that is refused.

    Args:
        member: of a family.
        width: in steps.
        shape: of the images.
        classes: number of classes K.
    """
    try:
        network = _on_meta(member.at(width), shape, classes)
    except ZskdError:  # it would have too many parameters
        return {"parameters": math.inf, "multiply-adds": math.inf}
    positions = _positions(member, shape, classes)
    layers = network.named_modules()
    return {
        "parameters": sum(value.numel() for value in network.parameters()),
        "multiply-adds": sum(
            positions[name] * layer.weight.numel() for name, layer in layers if isinstance(layer, _MAPS)
        ),
    }


_MAPS = (nn.Conv2d, nn.Linear)


def _on_meta(name: str, shape: Shape, classes: int) -> nn.Module:
    with torch.device("meta"):
        return build(describe(name, shape=shape, classes=classes), run_code=False)


@cache
def _positions(member: Member, shape: Shape, classes: int) -> dict[str, int]:
    """Return at how many positions each convolution and linear layer is applied: at any width the same."""
    network = _on_meta(member.at(member.least), shape, classes).to_empty(device="cpu").eval()
    found: dict[str, int] = {}

    def note(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(layer: nn.Module, _inputs: object, output: Tensor) -> None:
            assert isinstance(layer, _MAPS)
            found[name] = output.numel() // len(layer.weight)

        return hook

    for name, layer in network.named_modules():
        if isinstance(layer, _MAPS):
            layer.register_forward_hook(note(name))
    with torch.no_grad():
        for value in (*network.parameters(), *network.buffers()):
            value.zero_()
        network(torch.zeros(1, *shape))
    return found
