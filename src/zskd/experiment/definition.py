"""An experiment as its YAML file defines it: recipe, arms, plan of rates and seeds, comparisons."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from zskd.config.checks import check_keys
from zskd.config.data import Twin
from zskd.config.loading import load_recipe, override
from zskd.config.presets import RECIPES
from zskd.config.trust import check_trust
from zskd.config.yaml import merge, read_yaml
from zskd.core.artefact import Name, Percent
from zskd.core.errors import ZskdError

TEACHER = "teacher"
"""The arm that every experiment has: the teachers themselves."""
LIKE = "like"
"""Key of a file that holds only what differs from another experiment."""
_OF_ALL = {"data", "teacher", "seed", "rate", "count", "threads", "device", "rewrite"}
"""Settings that all arms share, so that they can be compared."""
_OF_PLAN = {"seed", "rate", "count"}
"""Settings that the plan gives."""
_OF_RUN = {
    "workers": "give --workers to the command",
    "engine": "give --engine to the command",
    "controls": "each control is an arm",
    "held_out": "students are measured on the test images",
}
"""Settings of a run that an experiment does not read, and what takes their place."""
EXPERIMENTS = Path(__file__).parents[1] / "recipes" / "experiments"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to make a student, or the teacher itself: a row of the tables."""

    title: str
    """Its name in tables."""
    images: Literal["made", "real", "all real", "generated", "none"] = "made"
    """Training images of the student: `made`: a transfer set; `real`: a share of the real images, given by
    the rate; `all real`: all of them; `generated`: batches of a generator; `none`: the arm is the teacher."""
    leave_out: tuple[int, ...] = ()
    """Class indices that are never drawn from the real images."""
    own_schedule: bool = False
    """Use the preset's distillation settings instead of those that all arms share."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Keys of a recipe that this arm changes."""

    @property
    def has_rate(self) -> bool:
        """Whether the plan must give it rates."""
        return self.images in ("made", "real")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A part of the plan: arms × rates × seeds."""

    arms: tuple[str, ...]
    rates: tuple[float, ...] = ()
    """Percentages of the training set, above 0, at most 100; empty for arms without a rate."""
    seeds: int = 1
    """Number of seeds, at least 1: 0 to seeds − 1."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A comparison that was planned before the experiment."""

    first: str
    """An arm."""
    second: str
    """An arm; it is subtracted."""
    rate: float | None = None
    """Of both arms, in percent; None for arms without a rate."""
    second_rate: float | None = None
    """Rate of the second arm; None: the same."""


@dataclass(frozen=True, kw_only=True)
class Publication:
    """Accuracies that a publication reports for an arm."""

    arm: str
    source: Name
    """Of the numbers, as tables show it."""
    at: dict[str, Percent]
    """Test accuracy in percent by rate; the key is `all` for an arm without a rate."""

    @property
    def by_rate(self) -> dict[float | str, float]:
        """The same accuracies, with rates as numbers: 40 and 40.0 are one."""
        return {_number(key): value for key, value in self.at.items()}


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Arms × rates × seeds, all on one recipe."""

    name: str
    recipe: str
    """Name or file of the recipe that every arm changes."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Keys of the recipe that are changed for all arms."""
    arms: dict[str, Arm]
    plan: tuple[Block, ...]
    teachers: tuple[int, ...] = ()
    """The teacher's seed for each seed of the plan; empty: every seed has its own teacher."""
    contrasts: tuple[Contrast, ...] = ()
    """Planned comparisons."""
    reported: tuple[Publication, ...] = ()
    """Published accuracies."""

    def __post_init__(self) -> None:
        """Refuse contradictions between arms, plan and settings.

        Raises:
            ZskdError: the first of them.
        """
        self._check_names()
        planned = {name for block in self.plan for name in block.arms}
        compared = {name for one in self.contrasts for name in (one.first, one.second)}
        printed = {one.arm for one in self.reported}
        for name in sorted(planned | (compared | printed) - {TEACHER}):
            if name not in self.arms:
                raise self._wrong(f"there is no arm {name!r}: give it under arms")
        for name, arm in self.arms.items():
            for key in sorted(_OF_ALL & arm.settings.keys()):
                raise self._wrong(
                    f"arm {name} cannot have a {key} of its own: give it for all, under settings"
                )
            if arm.leave_out and arm.images != "real":
                raise self._wrong(f"arm {name} cannot leave_out anything: that is for arms with images: real")
        if TEACHER in self.arms:
            raise self._wrong(f"an arm cannot be called {TEACHER}: that is the teachers themselves")
        for settings in (self.settings, *(arm.settings for arm in self.arms.values())):
            for key in sorted(_OF_RUN.keys() & settings.keys()):
                raise self._wrong(f"{key} is for a run, and would change nothing: {_OF_RUN[key]}")
        for key in sorted(_OF_PLAN & self.settings.keys()):
            raise self._wrong(f"settings cannot have a {key}: rates and seeds are given in the plan")
        if not planned:
            raise self._wrong("the plan names no arm: give it arms, rates and seeds")
        for block in self.plan:
            for name in block.arms:
                if bool(block.rates) != self.arms[name].has_rate:
                    raise self._wrong(f"the plan must give {name} {'no' if block.rates else 'its'} rates")
            if block.seeds < 1:
                raise self._wrong(f"seeds is {block.seeds}: it must be at least 1")
        self._check_rates()
        if self.teachers and self.seeds > len(self.teachers):
            raise self._wrong(
                f"the plan has {self.seeds} seeds and teachers lists {len(self.teachers)}: "
                "give each seed its teacher"
            )
        teacher = self.settings.get("teacher")
        if isinstance(teacher, Mapping) and "seed" in teacher:
            raise self._wrong("settings cannot have a teacher.seed: give teachers, one for each seed")

    @property
    def seeds(self) -> int:
        """Largest number of seeds of any arm."""
        return max(block.seeds for block in self.plan)

    def compared(self) -> list[tuple[tuple[str, float | None], tuple[str, float | None]]]:
        """Return arm and rate of both sides of each contrast; an arm without rates has none there either."""
        rated, sides = {arm for block in self.plan if block.rates for arm in block.arms}, []
        for one in self.contrasts:
            rate = one.rate if one.second_rate is None and one.second in rated else one.second_rate
            sides.append(((one.first, one.rate), (one.second, rate)))
        return sides

    def teacher_of(self, seed: int) -> int:
        """Return the seed of the teacher for the cells of a seed."""
        return self.teachers[seed] if self.teachers else seed

    def _check_names(self) -> None:
        """Refuse names that are no names of files and folders."""
        for name in (self.name, *self.arms):
            if not name or Path(name).name != name or name.startswith("."):
                raise self._wrong(
                    f"{name!r} names files and folders: give a name without / that does not start with a dot"
                )

    def _check_rates(self) -> None:
        """Refuse comparisons of cells that are not planned, and published accuracies of none that can be."""
        cells = {
            (name, rate) for block in self.plan for name in block.arms for rate in block.rates or (None,)
        }
        cells.add((TEACHER, None))
        for name, rate in (side for sides in self.compared() for side in sides):
            if (name, rate) not in cells:
                at = "without a rate" if rate is None else f"at {rate:g} %"
                advice = "leave the rate out" if (name, None) in cells else "give a rate of it"
                raise self._wrong(f"a contrast has {name} {at}, which is not in the plan: {advice}")
        for one in self.reported:
            rated = one.arm != TEACHER and self.arms[one.arm].has_rate
            for at_rate in one.by_rate:
                if isinstance(at_rate, str) if rated else at_rate != "all":
                    raise self._wrong(
                        f"reported has {one.arm} at {at_rate}: give {'a rate' if rated else 'all'}"
                    )

    def _wrong(self, what: str) -> ZskdError:
        return ZskdError(f"experiment {self.name}: {what}")


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


_PARTS: dict[str, type] = {"arms": Arm, "plan": Block, "contrasts": Contrast, "reported": Publication}


def experiment_names() -> list[str]:
    """Return the names of the experiments that come with the package."""
    return sorted(file.stem for file in EXPERIMENTS.glob("*.yaml"))


def load_experiment(
    name: str, settings: Mapping[str, Any] | None = None, *, trust: Collection[str] = ()
) -> Experiment:
    """Return an experiment.

    Args:
        name: of a shipped one, or a YAML file.
        settings: keys of a recipe that override the experiment's own `settings`.
        trust: names of code that the file and its recipe may run.

    Raises:
        ZskdError: the name or a key is unknown, a value is wrong, or code is named that is not trusted.
    """
    values = _read(name)
    check_trust(values, name, given=settings, trust=trust)
    if isinstance(values.get("recipe"), str):
        check_trust(read_yaml(values["recipe"], RECIPES, "recipe"), values["recipe"], trust=trust)
    check_keys(values, Experiment, source=name)
    for key, kind in _PARTS.items():
        part = values.get(key)
        named = (
            part.items() if isinstance(part, Mapping) else enumerate(part if isinstance(part, list) else ())
        )
        for where, its in named:
            if isinstance(its, Mapping):
                check_keys(its, kind, source=name, path=f"{key}.{where}.")
    try:
        experiment = TypeAdapter(Experiment).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ZskdError(f"{name}: {where}: {first['msg'].removeprefix('Value error, ')}") from error
    return replace(experiment, settings=override(experiment.settings, settings or {}))


def _read(name: str) -> dict[str, Any]:
    """Return the values of an experiment, over those of the one that it is `like`.

    Arms of the other one that its own plan does not name are left out, and the comparisons with them.

    Raises:
        ZskdError: a file is missing or damaged, the other one is like a third, or no plan names an own arm.
    """
    values = read_yaml(name, EXPERIMENTS, "experiment")
    if (other := values.pop(LIKE, None)) is None:
        return values
    base = read_yaml(str(other), EXPERIMENTS, "experiment")
    if LIKE in base:
        raise ZskdError(f"{name}: {LIKE}: {other} is like {base[LIKE]} itself: name that, or give all keys")
    if "name" not in values:  # its records would be taken for those of the other one
        raise ZskdError(f"{name}: name is missing: an experiment that is like {other} needs one of its own")
    merged = _merged(base, values)
    if "plan" in values and all(isinstance(one.get("arms", {}), Mapping) for one in (base, values)):
        named = _planned(values["plan"]) | values.get("arms", {}).keys()
        merged["arms"] = {arm: its for arm, its in merged.get("arms", {}).items() if arm in named}
        for part in {"contrasts", "reported"} - values.keys():
            if isinstance(base.get(part), list):  # all else is refused later
                merged[part] = [one for one in base[part] if named | {TEACHER} >= _arms_of(one)]
    if isinstance(own := values.get("arms", {}), Mapping):
        planned = _planned(merged.get("plan"))
        for arm in (one for one in own if one not in planned):
            raise ZskdError(f"{name}: arm {arm} is in no block of the plan: name it there, or leave it out")
    return merged


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values of both, with the settings of all and of each arm merged as those of a recipe."""
    merged = merge(below, above)
    for key in below.keys() & above.keys():
        if isinstance(below[key], Mapping) and isinstance(above[key], Mapping):
            merged[key] = (override if key == "settings" else _merged)(below[key], above[key])
    return merged


def _planned(plan: Any) -> set[str]:
    """Return the arms that blocks name; what is no list of blocks is refused later."""
    blocks = [block for block in plan if isinstance(block, Mapping)] if isinstance(plan, list) else []
    lists = [block.get("arms") for block in blocks]
    return {arm for one in lists if isinstance(one, list) for arm in one if isinstance(arm, str)}


def _arms_of(comparison: Any) -> set[str]:
    """Return the arms of a comparison; what is none is refused later."""
    sides = comparison if isinstance(comparison, Mapping) else {}
    return {arm for side in ("arm", "first", "second") if isinstance(arm := sides.get(side), str)}


def on_twin(experiment: Experiment, twin: Twin) -> Experiment:
    """Return the same experiment on a twin of its data set, without published accuracies.

    Raises:
        ZskdError: its data set is a twin already.
    """
    data = load_recipe(experiment.recipe, experiment.settings).data
    if data.twin != "none":
        raise ZskdError(f"experiment {experiment.name} is on {data.label} already: leave --twin out")
    settings = merge(experiment.settings, {"data": {"twin": twin}})
    return replace(experiment, name=f"{experiment.name}-{twin}", settings=settings, reported=())
