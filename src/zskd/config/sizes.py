"""Students by their size: `narrow:0.5`, `depth:0.5`, `budget:200k`, `auto:small`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from zskd.config.checks import suggestion
from zskd.core.errors import ZskdError

ShareKind = Literal["narrow", "params", "width", "depth"]
"""What is reduced to a share: `narrow` the multiply-adds, `params` the parameters, both by fewer channels;
`width` every number of channels; `depth` the multiply-adds, by fewer residual blocks."""
BudgetUnit = Literal["parameters", "multiply-adds", "teacher"]
"""What a budget counts: parameters, multiply-adds of one image, or shares of the teacher's multiply-adds."""
Choice = Literal["small", "medium", "large"]

_UNITS: dict[str, float] = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}
_COUNTED: dict[str, BudgetUnit] = {"-params": "parameters", "-macs": "multiply-adds"}
_NUMBER = re.compile(r"(\d{1,12}(?:\.\d{1,12})?|\.\d{1,12})")
_WITH_UNIT = re.compile(_NUMBER.pattern + r"([kMG]?)")
_BUDGET = re.compile(_NUMBER.pattern + r"(x|[kMG]?)(-params|-macs)?")


@dataclass(frozen=True)
class Share:
    """A copy of the teacher, reduced to a share."""

    kind: ShareKind
    """What is reduced."""
    share: float
    """Above 0, at most 1."""

    @property
    def name(self) -> str:
        """The name that stands for it."""
        return f"{self.kind}:{self.share:g}"


@dataclass(frozen=True)
class Budget:
    """A student of a named family that has at most this size."""

    amount: float
    """Above 0; of the teacher: at most 1."""
    unit: BudgetUnit
    """What it counts."""


@dataclass(frozen=True)
class Auto:
    """One of three students that are offered and timed."""

    choice: Choice | None
    """None: the default of the three."""


StudentSize = Share | Budget | Auto
"""A student that is described by its size."""
KINDS = (*get_args(ShareKind), "budget", "auto")
"""What stands before the colon."""


def read_size(name: str, option: str = "--student") -> StudentSize:
    """Return the size that a student's name stands for.

    Args:
        name: `narrow:0.5`, `budget:200k`, `auto` and so on.
        option: the command-line option, for the message.

    Raises:
        ZskdError: not such a name, or a size that is none; the message suggests one.
    """
    kind, colon, size = name.partition(":")
    if kind not in KINDS:
        raise ZskdError(f"{option} is {name!r}, which is no size of a student{suggestion(kind, KINDS)}")
    if kind == "auto":
        if colon and size not in get_args(Choice):
            near = suggestion(size, get_args(Choice), "auto:")
            raise ZskdError(f"{option} is {name!r}, which is no size{near}")
        return Auto(size if colon else None)  # type: ignore[arg-type]
    if kind == "budget":
        return _read_budget(name, size, option)
    return Share(kind, _read_share(kind, size, name, option))  # type: ignore[arg-type]


def read_number(text: str, option: str) -> int:
    """Return the number of `200k`, `1.5M` or `300000`.

    Args:
        text: as it was typed.
        option: the command-line option, for the message.

    Raises:
        ZskdError: not such a number.
    """
    found = _WITH_UNIT.fullmatch(text)
    if found is None:
        again = text.replace("m", "M").replace("K", "k").replace("g", "G").replace(",", "").replace(" ", "")
        near = f"did you mean {again}?" if _WITH_UNIT.fullmatch(again) else "write a number, 200k or 1M"
        raise ZskdError(f"{option} is {text!r}: {near}")
    return round(float(found[1]) * _UNITS[found[2]])


def near_size(name: str) -> str | None:
    """Return the name of a size whose kind was mistyped, `narrow:0.5` for `narow:0.5`; None for any other."""
    kind, _, size = name.partition(":")
    near = suggestion(kind.lower(), KINDS)
    if "did you mean" not in near:
        return None
    guess = f"{near.rpartition(' ')[2].rstrip('?')}:{size}"
    try:
        read_size(guess)
    except ZskdError:
        return None
    return guess


def _read_share(kind: str, text: str, name: str, option: str) -> float:
    """Return a share above 0 and at most 1."""
    wrong = f"{option} is {name!r}: write a share above 0 and at most 1, such as {kind}:"
    percent = _NUMBER.fullmatch(text.removesuffix("%").strip().replace(",", "."))
    if not _NUMBER.fullmatch(text):
        share = float(percent[1]) / (100 if text.endswith("%") else 1) if percent else 0.0
        raise ZskdError(wrong + f"{share if 0 < share <= 1 else 0.5:g}")
    if not 0 < (share := float(text)) <= 1:
        more = ", because the student would be larger than the teacher" if share > 1 else ""
        raise ZskdError(f"{wrong}0.5{more}")
    return share


def _read_budget(name: str, text: str, option: str) -> Budget:
    """Return the budget of `200k`, `5M`, `1.2G`, `2M-params`, `800k-macs` or `0.3x`."""
    found = _BUDGET.fullmatch(text)
    if found is None:
        again = text.replace("m", "M").replace("K", "k").replace("g", "G").replace("X", "x")
        if again != text and _BUDGET.fullmatch(again):
            raise ZskdError(f"{option} is {name!r}: did you mean budget:{again}?")
        raise ZskdError(
            f"{option} is {name!r}: write budget:200k (parameters), budget:5M (multiply-adds) or budget:0.3x "
            "(of the teacher's multiply-adds)"
        )
    number, unit, counted = found.groups()
    amount = float(number) * _UNITS.get(unit, 1)
    if unit == "x":
        if counted or not 0 < amount <= 1:
            raise ZskdError(
                f"{option} is {name!r}: write a share of the teacher's multiply-adds above 0 and at most 1, "
                "such as budget:0.3x"
            )
        return Budget(amount, "teacher")
    if amount < 1:
        raise ZskdError(f"{option} is {name!r}: a budget is at least 1, such as budget:200k")
    if not unit and not counted:
        raise ZskdError(
            f"{option} is {name!r}: write what it counts, budget:{text}-params for parameters or "
            f"budget:{text}-macs for multiply-adds"
        )
    return Budget(amount, _COUNTED[counted] if counted else "parameters" if unit == "k" else "multiply-adds")
