"""Names of classes and of their folders: whether they can be written, and which mean the same classes."""

from __future__ import annotations

import shlex
import unicodedata
from collections.abc import Iterable

from zskd.core.errors import ZskdError, first_few, has_hidden

_MOST_SHOWN = 12
"""Names of classes in a message."""
_TWO_ORDERS = (
    "if it learned from such folders in this order, name its classes so where it is opened (--class-names of "
    "zskd run and teacher import); if they are its own numbers, write all with as many digits (00, 01, ...)"
)


def check_names(names: tuple[str, ...], classes: int) -> None:
    """Check the names of the classes, which stand in cards, tables and terminals.

    Raises:
        ZskdError: not one for each class, or one is empty or has control characters.
    """
    for name in names:
        if not name or has_hidden(name):
            raise ZskdError(f"the class name {name!r} is empty or has control characters: change it")
    if len(names) != classes:
        raise ZskdError(f"{len(names)} class names for {classes} classes of the network")


def check_classes(own: tuple[str, ...], names: tuple[str, ...]) -> None:
    """Check that a network and data have the same classes.

    Args:
        own: class names of the network.
        names: of the data. Wholly other names are taken for the same classes.

    Raises:
        ZskdError: another number of classes, or one of them stands at another place.
    """
    if len(own) != len(names):
        raise ZskdError(
            f"the network has {len(own)} classes and the data {len(names)}: choose data with the same classes"
        )
    if (name := misplaced(own, names)) is not None:
        ours, its = ", ".join(own), ", ".join(names)
        raise ZskdError(
            f"the network's classes are {ours}, but the data has {name} at another place: {its}; "
            + (_TWO_ORDERS if _unnamed(own) else "choose data with the same classes")
        )


def composed(name: str) -> str:
    """Return a name with letters as most programs write them: é, where a Mac may have e and an accent."""
    return unicodedata.normalize("NFC", name)


def folder_names(class_names: tuple[str, ...]) -> list[str]:
    """Return the folder that is written for each class, sorted as the classes are."""
    cleaned = [_cleaned(name) for name in class_names]
    plain = [
        clean if clean and clean == name else f"{k}_{clean}"
        for k, (clean, name) in enumerate(zip(cleaned, class_names, strict=True))
    ]
    if plain == sorted(plain) and len({name.lower() for name in plain}) == len(plain):
        return plain
    digits = len(str(len(class_names) - 1))
    return [f"{k:0{digits}d}_{clean}" for k, clean in enumerate(cleaned)]


def numbers_of_folders(class_names: tuple[str, ...]) -> dict[str, int]:
    """Return the number of each class by its name, and by that of the folder that is written for it."""
    written = {composed(name): k for k, name in enumerate(folder_names(class_names))}
    return written | {composed(name): k for k, name in enumerate(class_names)}


def places(own: tuple[str, ...], others: tuple[str, ...]) -> tuple[int, ...] | None:
    """Return the place of each of some other names among one's own; None where they are not the same.

    Numbers that nobody gave tell nothing about another order: some programs read folders 0, 1, 10, 2 in this
    one, and others by number.
    """
    ours, theirs = list(map(composed, own)), list(map(composed, others))
    same = len(ours) == len(theirs) and set(ours) == set(theirs)
    return tuple(map(ours.index, theirs)) if same and (ours == theirs or not _unnamed(own)) else None


def misplaced(own: tuple[str, ...], others: tuple[str, ...]) -> str | None:
    """Return a class that stands at another place in another list of as many; None where there is none.

    Letters that are written in two ways (é, and e with an accent) are the same. Numbers from 0 are the names
    of classes that nobody named: beside other names, they mean nothing.
    """
    ours, theirs = list(map(composed, own)), list(map(composed, others))
    if set(ours) != set(theirs) and (_unnamed(own) or _unnamed(others)):
        return None
    pairs = zip(own, ours, theirs, strict=True)
    return next((name for name, one, other in pairs if one != other and one in theirs), None)


def unused_names(own: tuple[str, ...], others: tuple[str, ...]) -> str | None:
    """Return the names of others, as typed, which classes that nobody named could have; None if none."""
    if not _unnamed(own) or _unnamed(others) or len(own) != len(others):
        return None
    return shlex.join(others[:_MOST_SHOWN]) + (" …" if len(others) > _MOST_SHOWN else "")


def matched_by_order(own: tuple[str, ...], others: tuple[str, ...]) -> str | None:
    """Return a line about classes of data that count as others by their order alone; None if there are none.

    Classes that nobody named are counted in any case.
    """
    if _unnamed(own) or _unnamed(others) or len(own) != len(others) or places(own, others) is not None:
        return None
    pairs = [f"{other} → {name}" for name, other in zip(own, others, strict=True) if name != other]
    return f"classes are matched by their order: {first_few(pairs, _MOST_SHOWN)}"


def check_folders(names: tuple[str, ...], folders: Iterable[str]) -> None:
    """Refuse folders that are numbers without leading zeros for more than ten classes that nobody named.

    Raises:
        ZskdError: folder 10 is then the third class for some programs, and for others the eleventh.
    """
    found = set(folders)
    if _unnamed(names) and len(names) > 10 and names[10] in found:
        raise ZskdError(
            f"the folders {', '.join(sorted(found)[:4])}, … are numbers, and the network's classes have no "
            f"names: {_TWO_ORDERS}"
        )


def _cleaned(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_ ." else "_" for c in name).strip(". ")


def _unnamed(names: tuple[str, ...]) -> bool:
    """Tell whether the names are those of classes that nobody named."""
    return names == tuple(str(k) for k in range(len(names)))
