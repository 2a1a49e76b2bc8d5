"""Where in a file the network lies: the change of names under which all its tensors are there."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from zskd.teacher.weights.folding import folded, parts_of
from zskd.teacher.weights.names import COUNTER, Wanted, is_passenger, plain_names, same_shape, suffixes
from zskd.teacher.weights.stored import StoredTensor

Found = dict[str, str]
"""Name that the network wants -> name in the file; both without wrappers."""


class Table:
    """One dictionary of tensors of a file, under names without wrappers."""

    def __init__(self, key: str, tensors: Mapping[str, StoredTensor]) -> None:
        self.key = key
        """Its place in the file."""
        self.original = plain_names(tensors)
        """Name without wrappers -> name in the file."""
        self.stored = {plain: tensors[name] for plain, name in self.original.items()}
        self.whole = {n: one for n, one in folded(self.stored).items() if n not in self.stored}
        """Weights that it holds in two parts."""
        self.tensors = self.whole | self.stored


@dataclass(frozen=True)
class Fit:
    """A complete copy of the network in a file."""

    table: Table
    prefixes: tuple[str, ...]
    """What comes before the network's names; several where its parts lie in several places."""
    found: Found
    dropped: tuple[str, ...]
    """Names in the file, without wrappers, that are not used."""

    @property
    def address(self) -> str:
        """Place in the file, for `--weights`: its dictionary, and the prefix in it."""
        prefix = self.prefixes[0] if len(self.prefixes) == 1 else ""
        return ".".join(part for part in (self.table.key, prefix) if part) or "."

    @property
    def key(self) -> str:
        """Place of its dictionary; "." at the top."""
        return self.table.key or "."


@dataclass(frozen=True)
class Near:
    """A copy that is not complete, for messages."""

    table: Table
    prefix: str
    right: Found = field(default_factory=dict)
    """Of the right name and shape."""
    wrong: Found = field(default_factory=dict)
    """Of the right name and another shape."""
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    """Names in the file, without the prefix, that the network lacks."""


def find_fits(table: Table, wanted: Wanted) -> list[Fit]:
    """Return all complete copies in a dictionary, in the order of the file."""
    by_prefix, _ = _by_prefix(table, wanted)
    complete = {
        prefix: found for prefix, found in by_prefix.items() if not absent(found, wanted, wanted.plain)
    }
    fits = []
    for prefix, found in complete.items():
        others = tuple(other for other in complete if other != prefix and len(other) > len(prefix))
        if not _strangers(table, wanted, (prefix,), found, others):
            fits.append(Fit(table, (prefix,), found, _dropped(table, found)))
    return fits or _in_parts(table, wanted, by_prefix)


def _in_parts(table: Table, wanted: Wanted, by_prefix: Mapping[str, Found]) -> list[Fit]:
    """Return the only copy whose parts lie under several prefixes (`backbone.conv1`, `head.fc`).

    Of several places of a part (`backbone.bn1`, `backbone.layer1.0.bn1`), it is the one beside most others.
    """
    found: Found = {}
    prefixes: dict[str, None] = {}
    groups: dict[str, list[str]] = defaultdict(list)
    for name in wanted.plain:
        groups[name.partition(".")[0]].append(name)
    places = [
        [prefix for prefix, there in by_prefix.items() if not absent(there, wanted, names)]
        for names in groups.values()
    ]
    parts_at = Counter(prefix for there in places for prefix in there)
    for names, there in zip(groups.values(), places, strict=True):
        most = max((parts_at[prefix] for prefix in there), default=0)
        best = [prefix for prefix in there if parts_at[prefix] == most]
        if len(best) != 1:
            return []
        prefixes[best[0]] = None
        found |= {name: by_prefix[best[0]][name] for name in names if name in by_prefix[best[0]]}
    if _strangers(table, wanted, ("",), found, ()):
        return []
    return [Fit(table, tuple(prefixes), found, _dropped(table, found))]


def nearest(tables: Iterable[Table], wanted: Wanted) -> Near | None:
    """Return the copy that lacks least; None: no name agrees."""
    best: Near | None = None
    for table in tables:
        right, named = _by_prefix(table, wanted)
        for prefix in {**named}:
            there, all_ = right.get(prefix, {}), named[prefix]
            if best is None or (len(there), len(all_)) > (len(best.right), len(best.right) + len(best.wrong)):
                wrong = {n: all_[n] for n in wanted.plain if n in all_ and n not in there}
                missing = absent(all_, wanted, wanted.plain)
                extra = _strangers(table, wanted, (prefix,), all_, ())
                best = Near(table, prefix, there, wrong, tuple(missing), extra)
    return best


def absent(found: Mapping[str, str], wanted: Wanted, names: Iterable[str]) -> list[str]:
    """Return which names are missing, besides counters and further names of tensors that are there."""

    def tied(name: str) -> bool:
        return any(
            plain in found for plain, own in wanted.plain.items() if own in wanted.tied[wanted.plain[name]]
        )

    missing = [name for name in names if name not in found and name.rpartition(".")[2] != COUNTER]
    return [name for name in missing if not (wanted.tied.get(wanted.plain[name]) and tied(name))]


def _by_prefix(table: Table, wanted: Wanted) -> tuple[dict[str, Found], dict[str, Found]]:
    """Return for each prefix what lies behind it under the network's names: of its shapes, and of any."""
    right: dict[str, Found] = defaultdict(dict)
    named: dict[str, Found] = defaultdict(dict)
    for name, stored in table.tensors.items():
        for prefix, rest in suffixes(name):
            if rest in wanted.plain:
                named[prefix][rest] = name
                if same_shape(stored.shape, wanted.shape(rest)):
                    right[prefix][rest] = name
    return right, named


def _strangers(
    table: Table, wanted: Wanted, prefixes: tuple[str, ...], found: Found, others: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the tensors beside the network's own that may belong to it: another network lies there.

    What stands outside of the prefixes does not, nor do other complete copies, counters of tools, and losses.
    """
    used = _used(table, found)
    left = []
    for prefix in prefixes:
        start = f"{prefix}." if prefix else ""
        for name in table.stored:
            other_copy = any(name.startswith(f"{other}.") for other in others)
            if name.startswith(start) and name not in used and not other_copy:
                rest = name.removeprefix(start)
                single = "." not in rest and table.stored[name].shape in ((), (1,))
                if not single and not is_passenger(rest, wanted):
                    left.append(rest)
    return tuple(left)


def _used(table: Table, found: Found) -> set[str]:
    used = set(found.values())
    return used | {part for whole in used & table.whole.keys() for part in parts_of(whole)}


def _dropped(table: Table, found: Found) -> tuple[str, ...]:
    used = _used(table, found)
    return tuple(name for name in table.stored if name not in used)
