"""Names of families: the pattern `wrn-{depth}-{width}` stands for wrn-16-1, wrn-40-2 and so on."""

from __future__ import annotations

import re

_FIELD = re.compile(r"\{(\w+)\}")
_NUMBER = re.compile(r"\d{1,4}")


def match_pattern(pattern: str, name: str) -> dict[str, int] | None:
    """Return the numbers that a name has in place of the pattern's fields; None if it does not fit.

    A pattern without fields fits itself. A number has at most four digits, and no zero in front.
    """
    fields, texts = _FIELD.findall(pattern), map(re.escape, _FIELD.split(pattern)[::2])
    found = re.fullmatch("(0|[1-9][0-9]{0,3})".join(texts), name)
    return None if found is None else dict(zip(fields, map(int, found.groups()), strict=True))


def fill_pattern(pattern: str, name: str) -> str | None:
    """Return the pattern with the numbers of a mistyped name; None if there are more or fewer fields."""
    numbers = [str(int(one)) for one in _NUMBER.findall(name)]
    if len(numbers) != len(_FIELD.findall(pattern)):
        return None
    return _FIELD.sub(lambda _: numbers.pop(0), pattern)
