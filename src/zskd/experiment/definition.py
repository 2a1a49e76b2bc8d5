""""""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from zskd.config.checks import check_keys
from zskd.config.data import Twin
from zskd.config.loading import load_recipe
from zskd.config.yaml import merge, read_yaml
from zskd.core.errors import ZskdError

TEACHER = "teacher"
"""The arm that every experiment has: the teachers themselves."""
_OF_ALL = {"data", "teacher", "seed", "rate", "count", "threads", "device", "rewrite"}
"""Settings that arms which are compared have in common."""
_OF_PLAN = {"seed", "rate", "count"}
"""Settings that the plan gives."""
EXPERIMENTS = Path(__file__).parents[1] / "recipes" / "experiments"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to get a student, or no student at all: the row of a table."""

    title: str
    """How tables call it."""
    images: Literal["made", "real", "all real", "generated", "none"] = "made"
    """What the student learns from: a transfer set, as many real images as the rate says, all of them, or
    what a generator makes as it learns; none for the teacher itself."""
    leave_out: tuple[int, ...] = ()
    """Classes that are never drawn from the real images."""
    own_schedule: bool = False
    """Keep the preset's own distillation, instead of the one that all arms share."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Where this arm differs: keys of a recipe."""

    @property
    def has_rate(self) -> bool:
        """Whether it needs to be told how many images it gets."""
        return self.images in ("made", "real")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A part of the plan: these arms at these rates with so many seeds."""

    arms: tuple[str, ...]
    rates: tuple[float, ...] = ()
    """Percentages of the training set; none for arms without a rate."""
    seeds: int = 1
    """Seeds 0 to seeds − 1."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A comparison that was planned before the experiment."""

    first: str
    second: str
    rate: float | None = None
    second_rate: float | None = None
    """Rate of the second arm, where it is another one."""


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What others printed for an arm."""

    arm: str
    source: str
    at: dict[str, float]
    """Accuracy in percent by rate; by `all` for an arm without one."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Arms × rates × seeds, all on one recipe."""

    name: str
    recipe: str
    """What every arm starts from."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Where all arms differ from that recipe."""
    arms: dict[str, Arm]
    plan: tuple[Block, ...]
    teachers: tuple[int, ...] = ()
    """The teacher's seed for each seed of the plan; none: every seed has a teacher of its own."""
    contrasts: tuple[Contrast, ...] = ()
    reported: tuple[Publication, ...] = ()

    def __post_init__(self) -> None:
        """Refuse names of arms that there are not."""
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
        """So many seeds has the arm that has most."""
        return max(block.seeds for block in self.plan)

    def teacher_of(self, seed: int) -> int:
        """Return the seed of the teacher that cells of a seed have."""
        return self.teachers[seed] if self.teachers else seed

    def _check_names(self) -> None:
        """Refuse names that no file or folder can have."""
        for name in (self.name, *self.arms):
            if not name or Path(name).name != name or name.startswith("."):
                raise self._wrong(f"{name!r} names files and folders: give it a plain name")

    def _wrong(self, what: str) -> ZskdError:
        return ZskdError(f"experiment {self.name}: {what}")


_PARTS: dict[str, type] = {"arms": Arm, "plan": Block, "contrasts": Contrast, "reported": Publication}


def experiment_names() -> list[str]:
    """Return the names of the experiments that come with the package."""
    return sorted(file.stem for file in EXPERIMENTS.glob("*.yaml"))


def load_experiment(name: str, settings: Mapping[str, Any] | None = None) -> Experiment:
    """Return an experiment.

    Args:
        name: of a shipped one, or a YAML file.
        settings: keys of a recipe that win over the experiment's own `settings`.

    Raises:
        ZskdError: unknown name or key, or a wrong value.
    """
    values = read_yaml(name, EXPERIMENTS, "experiment")
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
    return replace(experiment, settings=merge(experiment.settings, settings or {}))


def on_twin(experiment: Experiment, twin: Twin) -> Experiment:
    """Return the same experiment on its data set's twin; nothing was published for that.

    Raises:
        ZskdError: its data are a twin already.
    """
    data = load_recipe(experiment.recipe, experiment.settings).data
    if data.twin != "none":
        raise ZskdError(f"experiment {experiment.name} is on {data.label} already: leave --twin out")
    settings = merge(experiment.settings, {"data": {"twin": twin}})
    return replace(experiment, name=f"{experiment.name}-{twin}", settings=settings, reported=())
