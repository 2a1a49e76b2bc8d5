"""Which settings are tried next: Optuna's samplers (Akiba et al. 2019)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Literal

from zskd.core.artefact import JsonValue
from zskd.core.errors import ZskdError
from zskd.core.extras import import_extra
from zskd.tuning.space import Choices, Range, Space

Sampler = Literal["tpe", "random", "qmc", "grid"]
_LEARNS = "tpe"
"""The sampler that looks at the values of earlier trials."""
_MOST_POINTS = 10_000
_SEEDS = 1 << 32


class Proposer:
    """Proposes the settings of trials, a round of them at a time.

    The proposals are a function of space, sampler, seed and the values of earlier rounds. A search that goes
    on asks for all rounds again and tells the values that it knows.

    Args:
        space: of the search.
        sampler: `tpe`: the Tree-structured Parzen Estimator (Bergstra et al. 2011) with Optuna's defaults;
            trials of a round keep away from each other. `random`. `qmc`: a scrambled sequence of Sobol'.
            `grid`: all points of choices and of ranges with steps, in an order by chance.
        seed: of the sampler, at least 0.

    Raises:
        ZskdError: Optuna is not installed, or the space has no grid or too large a one.
    """

    def __init__(self, space: Space, sampler: Sampler, seed: int) -> None:
        self._optuna = import_extra("optuna")
        self._space = space = dict(sorted(space.items()))  # their order in a file changes nothing
        self._learns = sampler == _LEARNS
        self.points: int | None = None
        """Number of points of the grid; None for other samplers."""
        grid = _grid(space) if sampler == "grid" else {}
        if sampler == "grid":
            self.points = math.prod(map(len, grid.values()))
        with _quiet(self._optuna):
            made = _make_sampler(self._optuna, sampler, grid, seed % _SEEDS)
            self._study = self._optuna.create_study(direction="maximize", sampler=made)
        self._distributions = {key: _distribution(self._optuna, one) for key, one in space.items()}
        self._asked: list[Any] = []

    def ask(self, count: int) -> list[dict[str, JsonValue]]:
        """Return the settings of the next round, by dotted name.

        Args:
            count: trials of the round; of a grid, no more than it has left.
        """
        with _quiet(self._optuna):
            self._asked = [self._study.ask(self._distributions) for _ in range(count)]
        return [{key: self._plain(key, trial.params[key]) for key in self._space} for trial in self._asked]

    def tell(self, values: Sequence[float | None]) -> None:
        """Take the values of the round, in its order.

        Args:
            values: larger ones are better; None for a trial that failed.
        """
        if not self._learns:
            return
        failed = self._optuna.trial.TrialState.FAIL
        with _quiet(self._optuna):
            for trial, value in zip(self._asked, values, strict=True):
                self._study.tell(trial, value, state=failed if value is None else None)

    def _plain(self, key: str, value: float) -> JsonValue:
        one = self._space[key]
        return one.plain(value) if isinstance(one, Range) else one.values[int(value)]


def _make_sampler(optuna: ModuleType, name: Sampler, grid: dict[str, list[float]], seed: int) -> Any:
    samplers = optuna.samplers
    if name == "tpe":
        return samplers.TPESampler(seed=seed, constant_liar=True)
    if name == "qmc":
        return samplers.QMCSampler(seed=seed, scramble=True)
    return samplers.GridSampler(grid, seed=seed) if name == "grid" else samplers.RandomSampler(seed=seed)


def _distribution(optuna: ModuleType, one: Range | Choices) -> Any:
    kinds = optuna.distributions
    if isinstance(one, Choices):  # by place: Optuna itself takes plain values only
        return kinds.CategoricalDistribution(tuple(range(len(one.values))))
    if one.whole:
        return kinds.IntDistribution(int(one.low), int(one.high), log=one.log, step=int(one.step or 1))
    return kinds.FloatDistribution(one.low, one.high, log=one.log, step=one.step)


def _grid(space: Space) -> dict[str, list[float]]:
    total, found = 1, dict[str, list[float]]()
    for key, one in space.items():
        count = len(one.values) if isinstance(one, Choices) else one.count
        if count is None:
            raise ZskdError(f"{key}: a grid needs a step or choices")
        total *= count
        if total > _MOST_POINTS:
            raise ZskdError(f"the grid has more than {_MOST_POINTS:,} points: give larger steps")
        found[key] = [one.point(number) if isinstance(one, Range) else number for number in range(count)]
    return found


@contextmanager
def _quiet(optuna: ModuleType) -> Iterator[None]:
    """Keep Optuna's lines about new studies and experimental samplers off the terminal."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
