"""Tables of an experiment in Markdown: pure functions of its records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from zskd.core.tables import markdown_table
from zskd.evaluation.statistics import Difference, McNemarTest, compare_paired, holm, mcnemar, summarise
from zskd.experiment.record import Record, unpack_mask

_NONE = "–"
Group = dict[int, Record]
"""Records of one arm at one rate, by seed."""


@dataclass(frozen=True)
class Comparison:
    """Two arms to compare, chosen before the experiment."""

    first: tuple[str, float | None]
    """Arm, and rate in percent."""
    second: tuple[str, float | None]
    """Likewise; it is subtracted."""


class Records:
    """The records of one experiment, by arm and rate.

    Args:
        records: in any order.
        titles: names in tables of all arms, in the order of the tables.
    """

    def __init__(self, records: Iterable[Record], titles: Mapping[str, str]) -> None:
        self._groups: dict[tuple[str, float | None], Group] = {}
        for record in records:
            self._groups.setdefault((record.arm, record.rate), {})[record.seed] = record
        known = dict.fromkeys(arm for arm, _ in self._groups)
        self.arms = [arm for arm in titles if arm in known]
        """Arms that have records, in the order of the tables."""
        self._titles = titles

    def __len__(self) -> int:
        return sum(len(group) for group in self._groups.values())

    def __iter__(self) -> Iterator[Record]:
        return (record for group in self._groups.values() for record in group.values())

    def rates(self, arm: str | None = None) -> list[float]:
        """Return the rates of an arm, or of all arms, in percent, the smallest first."""
        return sorted({rate for one, rate in self._groups if rate is not None and arm in (None, one)})

    def at(self, arm: str, rate: float | None) -> Group:
        """Return the records of an arm at a rate, by seed; empty where there are none."""
        return self._groups.get((arm, rate), {})

    def title(self, arm: str) -> str:
        """Return the name of an arm in tables."""
        return self._titles.get(arm, arm)


def accuracies(group: Group) -> dict[int, float]:
    """Return test accuracy in percent by seed."""
    return {seed: record.test_accuracy for seed, record in group.items()}


def accuracy_table(records: Records, arms: Sequence[str] | None = None) -> str:
    """Return test accuracy by arm and rate: mean ± deviation over seeds (n), published values below it.

    Args:
        records: of one experiment.
        arms: names of the rows; None: all.
    """
    head = ["arm", *(f"{rate:g} %" for rate in records.rates()), "all real images", "generated images"]
    columns = {arm: _columns(records, arm) for arm in records.arms}
    rows: list[list[str]] = [["*images*", *map(_sizes, zip(*columns.values(), strict=True))]]
    for arm in records.arms if arms is None else [arm for arm in arms if arm in records.arms]:
        groups = columns[arm]
        rows.append([records.title(arm), *map(_accuracy, groups)])
        reported = [_reported(group) for group in groups]
        if any(cell != _NONE for cell in reported):
            rows.append([f"*reported: {_sources(groups)}*", *reported])
    keep = [i for i in range(len(head)) if i == 0 or any(row[i] != _NONE for row in rows[1:])]
    return markdown_table([head[i] for i in keep], ([row[i] for i in keep] for row in rows))


def compared(
    records: Records, comparisons: Sequence[Comparison]
) -> list[tuple[Difference | None, float | None]]:
    """Return the difference of each planned comparison, and its p with Holm's correction for all of them.

    Args:
        records: of one experiment.
        comparisons: planned. The difference of arms without a common seed is None.
    """
    pairs = [(records.at(*one.first), records.at(*one.second)) for one in comparisons]
    found = [
        compare_paired(accuracies(a), accuracies(b), names=("first", "second"))
        if a.keys() & b.keys()
        else None
        for a, b in pairs
    ]
    adjusted = holm([None if one is None else one.p for one in found])
    return list(zip(found, adjusted, strict=True))


def contrast_table(records: Records, comparisons: Sequence[Comparison]) -> str:
    """Return the planned comparisons, one per row.

    Each has the paired t test over common seeds, with Holm's correction for all rows, and McNemar's exact
    test for the two students of the lowest common seed.
    """
    rows = []
    for comparison, (difference, p) in zip(comparisons, compared(records, comparisons), strict=True):
        a, b = records.at(*comparison.first), records.at(*comparison.second)
        names = [_arm_at(records, *side) for side in (comparison.first, comparison.second)]
        if difference is None:
            rows.append([*names, "0", *[_NONE] * 4])
            continue
        interval = _NONE
        if difference.low is not None and difference.high is not None:
            interval = f"[{difference.low:+.2f}, {difference.high:+.2f}]"
        seed = min(a.keys() & b.keys())
        cells = [f"{difference.mean:+.2f}", interval, _p(p), _images(_mcnemar(a[seed], b[seed]))]
        rows.append([*names, str(difference.n), *cells])
    head = ["first", "second", "n", "difference", "95 % interval", "p (Holm)"]
    return markdown_table([*head, "only one correct (first / second), p"], rows)


def cost_table(records: Records, rate: float) -> str:
    """Return the cost of each arm at a rate: passes of the teacher and time, means over seeds."""
    rows = []
    for arm in records.arms:
        group = list(records.at(arm, rate).values())
        if not group:
            continue
        images = _mean(group, "set_seconds")
        rows.append(
            [
                records.title(arm),
                f"{_mean(group, 'unique_images'):,.0f}",
                f"{group[0].student_steps:,}",
                _millions(group, "teacher_forwards"),
                _millions(group, "teacher_backwards"),
                f"{images:,.0f}",
                f"{_mean(group, 'wall_seconds') - images:,.0f}",
            ]
        )
    passes = ("teacher forward, 10⁶ images", "backward, 10⁶ images")
    head = ["arm", "unique images", "student steps", *passes, "images, s", "student, s"]
    return markdown_table(head, rows)


def _mean(group: Sequence[Record], fact: str) -> float:
    return float(sum(getattr(record, fact) for record in group)) / len(group)


def _millions(group: Sequence[Record], fact: str) -> str:
    """Return the mean of a number of passes, in millions; a dash where a record does not know it."""
    known = [getattr(record, fact) for record in group]
    return _NONE if None in known else f"{sum(known) / len(known) / 1e6:.2f}"


def provenance(records: Records) -> str:
    """Return date, hardware, versions and commits of the records, in one paragraph."""
    every = list(records)

    def all_of(values: Iterable[object]) -> str:
        return ", ".join(sorted({str(value) for value in values}))

    sizes = sorted({one.student_parameters for one in every if one.method != "none"})
    facts = (
        f"{len(every)} record{'s' * (len(every) != 1)} of {all_of(r.date for r in every)}",
        *([f"student with {sizes[0]:,} parameters"] if len(sizes) == 1 else []),
        *([f"students with {sizes[0]:,} to {sizes[-1]:,} parameters"] if len(sizes) > 1 else []),
        "weights of the last step",
        f"{all_of(r.cpu for r in every)}, cells in parallel: {all_of(r.workers for r in every)}",
        f"threads of each: {all_of(r.threads for r in every)}",
        f"torch {all_of(r.versions['torch'] for r in every)}",
        f"commit {all_of(_short(r.commit) for r in every)}",
    )
    return "; ".join(facts) + "."


def _short(commit: str | None) -> str:
    """The first digits of a commit; `+` means that files had been changed."""
    return "not known" if commit is None else commit[:8] + "+" * commit.endswith("+")


def _columns(records: Records, arm: str) -> list[Group]:
    """Return the records of an arm at each rate, of all real images, and of images of a generator."""
    unrated = records.at(arm, None).items()
    of_real, generated = ({s: r for s, r in unrated if r.generated == other} for other in (False, True))
    return [*(records.at(arm, rate) for rate in records.rates()), of_real, generated]


def _sizes(groups: Iterable[Group]) -> str:
    counts = {record.count for group in groups for record in group.values()}
    return ", ".join(f"{count:,}" for count in sorted(counts)) or _NONE


def _accuracy(group: Group) -> str:
    return str(summarise(accuracies(group).values())) if group else _NONE


def _reported(group: Group) -> str:
    reported = next((record.reported for record in group.values()), None)
    return _NONE if reported is None else f"*{reported.value:.2f}*"


def _sources(groups: Iterable[Group]) -> str:
    reported = (record.reported for group in groups for record in group.values())
    return "; ".join(dict.fromkeys(one.source for one in reported if one is not None))


def _arm_at(records: Records, arm: str, rate: float | None) -> str:
    return records.title(arm) if rate is None else f"{records.title(arm)}, {rate:g} %"


def _mcnemar(a: Record, b: Record) -> McNemarTest:
    return mcnemar(*(unpack_mask(one.test_correct, one.test_images) for one in (a, b)))


def _images(test: McNemarTest) -> str:
    return f"{test.only_first} / {test.only_second}, {_p(test.p)}"


def _p(p: float | None) -> str:
    if p is None:
        return _NONE
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
