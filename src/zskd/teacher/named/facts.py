"""What a library tells about a network, what the user tells, and which of the two holds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from torch import nn

from zskd.config.training import DEFAULT_BOX
from zskd.core.artefact import JsonValue
from zskd.core.errors import ZskdError
from zskd.models.checkpoint import NOT_KNOWN
from zskd.models.classifier import InputSpec
from zskd.models.factory import Architecture
from zskd.teacher.weights.reading import WeightsFile

T = TypeVar("T")


@dataclass(frozen=True)
class Fact(Generic[T]):
    """A value with its origin."""

    value: T
    origin: str
    """"timm pretrained_cfg", "given by --mean", …"""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a library tells about a network. None: it does not tell."""

    shape: Fact[tuple[int, int, int]] | None = None
    mean: Fact[tuple[float, ...]] | None = None
    std: Fact[tuple[float, ...]] | None = None
    box: Fact[tuple[float, float]] | None = None
    class_names: Fact[tuple[str, ...]] | None = None
    others: dict[str, str] = field(default_factory=dict)
    """What else the card should tell: {"conversion": "agrees with onnxruntime"}."""


@dataclass(frozen=True)
class Found:
    """A network that was found under a name."""

    module: nn.Module
    architecture: Architecture
    """From which a checkpoint builds it again."""
    facts: Facts
    file: WeightsFile | None = None
    """The weights behind the @, if the network could not be found without them."""
    epsilon: float = 0.0
    """Relative spacing of the type of number in which the library's weights were stored, if it is known."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """What the user tells; it holds against what a library tells. None: not given."""

    shape: tuple[int, int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    box: tuple[float, float] | None = None
    class_names: tuple[str, ...] | None = None
    head: str | None = None
    weights: str | None = None
    """Place of a copy in a file of weights."""
    otherwise: Facts = field(default_factory=Facts)
    """What holds where neither the user nor the library tells."""

    @property
    def known_shape(self) -> tuple[int, int, int] | None:
        """The shape that holds where the library does not tell one."""
        return self.shape or (None if self.otherwise.shape is None else self.otherwise.shape.value)


@dataclass(frozen=True)
class Settled:
    """The input specification and class names of a network, with the origin of each."""

    spec: InputSpec
    class_names: tuple[str, ...] | None
    """None: the classes are numbered."""
    origins: dict[str, str]
    """Field -> where its value comes from, for the card."""


def assumed(shape: tuple[int, int, int]) -> Fact[tuple[int, int, int]]:
    """Return an input shape that nobody told and that is assumed."""
    return Fact(shape, f"{NOT_KNOWN}{'×'.join(map(str, shape))} is assumed")


def of_weights(origin: str, *, assumed: bool) -> str:
    """Return the origin of a value of a library's weights; for a file of the user's own it is assumed."""
    return f"{NOT_KNOWN}that of {origin} is assumed" if assumed else origin


def settle(facts: Facts, given: Given) -> Settled:
    """Choose the value of each fact: the user's, else the library's, else a default that the card calls
    unknown.

    Raises:
        ZskdError: the shape is not known, or the values do not fit each other.
    """
    origins: dict[str, str] = {}

    def choose(name: str, default: Any, unknown: str) -> Any:
        own, told = getattr(given, name), getattr(facts, name)
        if own is not None:
            origins[name] = f"given by --{name.replace('_', '-')}"
            return own
        if told is None or told.origin.startswith(NOT_KNOWN):
            told = getattr(given.otherwise, name) or told
        origins[name] = told.origin if told else f"{NOT_KNOWN}{unknown}"
        return told.value if told else default

    shape = choose("shape", None, "")
    if shape is None:
        raise ZskdError(
            "the size of the network's images is not known: give --shape, such as --shape 3 224 224; where a "
            "command has no such option, make a checkpoint first with zskd teacher import"
        )
    mean = choose("mean", (0.0,), "0, that is, pixels in [0, 1] as they are")
    std = choose("std", (1.0,), "1, that is, pixels in [0, 1] as they are")
    names = choose("class_names", None, "numbers")
    check_given_names(given.class_names or ())
    names = names and _told_apart(names)
    boxes = given.box, facts.box, given.otherwise.box
    box = choose("box", DEFAULT_BOX, "") if any(boxes) else DEFAULT_BOX
    spec = InputSpec(shape=tuple(shape), mean=tuple(mean), std=tuple(std), box=tuple(box))
    return Settled(spec, names, origins | facts.others)


def check_given_names(names: tuple[str, ...]) -> None:
    """Check that the user has named no two classes alike: their results could not be told apart.

    Raises:
        ZskdError: a name stands twice.
    """
    if twice := _repeated(names):
        raise ZskdError(f"--class-names has {twice[0]!r} twice: give each class a name of its own")


def _repeated(names: tuple[str, ...]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _told_apart(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return names of which none occurs twice: ImageNet has two cranes."""
    twice = set(_repeated(names))
    return tuple(f"{name} ({k})" if name in twice else name for k, name in enumerate(names))


def as_json(arguments: dict[str, Any]) -> dict[str, JsonValue]:
    """Return arguments as they stand in a card: tuples as lists."""

    def convert(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [convert(one) for one in value]
        return {key: convert(one) for key, one in value.items()} if isinstance(value, dict) else value

    return {key: convert(value) for key, value in arguments.items()}
