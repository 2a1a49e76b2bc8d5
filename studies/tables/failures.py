"""The table and the picture of docs/failures.md: runs that did not work, beside their controls."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass
from pathlib import Path

from matplotlib.figure import Figure

from records import RESULTS, read_lines
from tables.common import shown_picture
from zskd.core.tables import markdown_table
from zskd.evaluation.figures import save_figure
from zskd.evaluation.statistics import summarise
from zskd.experiment.definition import load_experiment
from zskd.experiment.report.page import records_of
from zskd.experiment.report.tables import accuracies

PICTURE = "failures.png"


@dataclass(frozen=True)
class _Failure:
    """Percentages of one run; where several seeds are recorded, their means."""

    what: str
    teacher: str
    measure: str
    failed: float
    other: str
    """What it is compared with."""
    of_other: float
    seeds: int


def _failures() -> Iterable[_Failure]:
    cifar, colour = "ResNet-20, CIFAR-10", "ResNet-8, coloured digits"
    agree, right = "agreement", "accuracy"
    white, shapes = _carry("white", "features"), _carry("shapes", "features")
    yield _Failure("white noise", cifar, agree, white[0], "random shapes", shapes[0], white[1])
    zskd, bn = _carry("zskd", "features"), _carry("zskd_bn", "features")
    yield _Failure("`zskd`, no statistics", cifar, agree, zskd[0], "`zskd_bn`", bn[0], zskd[1])
    white, shapes = _bench("noise_white"), _bench("noise_shapes")
    yield _Failure("white noise", colour, right, white[0], "random shapes", shapes[0], white[1])
    bn, pictures = (_bench(arm, "colour-mobilenet", 40) for arm in ("default", "noise_procedural"))
    mobilenet = "MobileNet, coloured digits"
    yield _Failure("`batch_norm`", mobilenet, right, bn[0], "procedural pictures", pictures[0], bn[1])
    for network, name in (("resnet8", colour), ("depthwise", "depthwise chain, coloured digits")):
        zskd, shapes = _colour(network, "base", "zskd"), _colour(network, "base", "shapes")
        yield _Failure("`zskd` alone", name, agree, zskd[0], "random shapes", shapes[0], zskd[1])
    for network, name in (("resnet8", colour), ("depthwise", "depthwise chain, coloured digits")):
        cold, warm = _colour(network, "random", "default"), _colour(network, "base", "default")
        what = "`default`, random weights"
        yield _Failure(what, name, agree, cold[0], "`default`, teacher's weights", warm[0], cold[1])
    for arm, other, what, against in (
        ("noise_white", "noise_smooth", "white noise", "smooth noise"),
        ("paper", "noise_smooth", "`paper`", "smooth noise"),
        ("release", "noise_smooth", "`release`", "smooth noise"),
        ("soft_logits_without_zero", "soft_logits", "real images, no class 0", "real images, all classes"),
    ):
        failed, compared, seeds = _mnist(arm, other)
        yield _Failure(what, "LeNet-5, MNIST", right, failed, against, compared, seeds)


def _mean(values: Iterable[float]) -> tuple[float, int]:
    found = summarise(list(values))
    return found.mean, found.n


def _carry(arm: str, how: str) -> tuple[float, int]:
    wanted = {"arm": arm, "how": how, "steps": 600, "precision": "bfloat16"}
    lines = read_lines(RESULTS / "carry.json")
    return _mean(one["agreement"] for one in lines if wanted.items() <= one.items())


def _colour(network: str, setting: str, arm: str) -> tuple[float, int]:
    wanted = {"network": network, "setting": setting, "arm": arm}
    lines = read_lines(RESULTS / "colour.json")
    return _mean(one["agreement"] for one in lines if wanted.items() <= one.items())


def _bench(arm: str, task: str = "colour-resnet8", rate: float = 40) -> tuple[float, int]:
    records = records_of(load_experiment(f"bench-{task}"), RESULTS)
    return _mean(accuracies(records.at(arm, rate)).values())


def _mnist(arm: str, other: str, rate: float = 10) -> tuple[float, float, int]:
    """Return the means of two arms over their common seeds, and the number of these."""
    records = records_of(load_experiment("mnist"), RESULTS)
    of_arm, of_other = (accuracies(records.at(name, rate)) for name in (arm, other))
    common = sorted(of_arm.keys() & of_other.keys())
    return *(_mean(of[seed] for seed in common)[0] for of in (of_arm, of_other)), len(common)


def failures() -> str:
    """One row per failure."""
    rows = [
        (
            one.what,
            one.teacher,
            one.measure,
            f"{one.failed:.1f}",
            f"{one.other}: {one.of_other:.1f}",
            str(one.seeds),
        )
        for one in _failures()
    ]
    return markdown_table(("what", "teacher", "measure, %", "result", "compared with", "n"), rows)


def picture() -> str:
    """The Markdown of the picture."""
    text = "runs that did not work, as bars beside what they are compared with"
    return shown_picture(text, PICTURE, [astuple(one) for one in _failures()])


def draw_failures(folder: Path) -> None:
    """Draw each failure as a bar, and what it is compared with as a mark."""
    found = list(_failures())
    figure = Figure(figsize=(8.5, 0.42 * len(found) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    rows = range(len(found))
    axes.barh(rows, [one.failed for one in found], color="#c44e52", height=0.6, label="what failed")
    axes.plot([one.of_other for one in found], rows, "D", color="black", label="what it is compared with")
    axes.set_yticks(rows, [f"{one.what}\n{one.teacher}".replace("`", "") for one in found], fontsize=7)
    for row, one in enumerate(found):
        axes.text(one.of_other + 1.5, row, one.other.replace("`", ""), va="center", fontsize=7)
    axes.set(xlim=(0, 125), xticks=range(0, 101, 20), xlabel="agreement or accuracy, %")
    axes.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    save_figure(figure, folder / PICTURE)


FAILURES_TABLES: dict[str, Callable[[], str]] = {"failures": failures, "failures-picture": picture}
