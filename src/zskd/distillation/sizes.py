"""Students by size: what `auto` and `budget:200k` stand for, of a teacher.

What is chosen depends on the teacher's network alone, not on the clock: a run that is continued has the same
student.
"""

from __future__ import annotations

from collections.abc import Mapping

from zskd.config.sizes import KINDS, Auto, Budget, Choice, Share, read_size
from zskd.models.classifier import Classifier
from zskd.models.families import fallback, named_student

AUTO: Mapping[Choice, str] = {"small": "narrow:0.1", "medium": "narrow:0.25", "large": "narrow:0.5"}
"""The three students that `auto` offers."""
_DEFAULT: Choice = "medium"


def is_size(name: str) -> bool:
    """Return whether a student is named by its size, so that its network depends on the teacher's."""
    return name.partition(":")[0] in KINDS


def resolve_size(name: str, teacher: Classifier) -> str:
    """Return the name of a network, or of a copy of the teacher, that `auto` or a budget stands for.

    Args:
        name: of a student; any other is returned as it is.
        teacher: not changed.

    Raises:
        ZskdError: even the smallest network of the teacher's kind is larger; it is named.
    """
    if not is_size(name):
        return name
    match read_size(name):
        case Auto(choice=choice):
            return resolve_size(AUTO[choice or _DEFAULT], teacher)
        case Budget(amount=amount, unit=unit):
            return (
                fallback(teacher, amount) if unit == "teacher" else named_student(teacher, unit, int(amount))
            )
        case Share():
            return name
