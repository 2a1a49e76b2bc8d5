"""What a method that fills a transfer set has to say: which targets, and what is minimised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from zskd.config.checks import Config, from_values
from zskd.config.registry import METHODS
from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.core.errors import ZskdError
from zskd.core.types import TargetsArray
from zskd.models.classifier import Classifier
from zskd.synthesis.inversion.objective import Objective
from zskd.synthesis.plan import PlanEntry


class Method(Config, ABC):
    """A way to fill a transfer set, in one file.

    A subclass is a frozen dataclass. Its fields are the settings that no other method has; they are given as
    `--method-settings.NAME VALUE` and checked by their types. Both functions below depend on their arguments
    alone, so that any image can be made anywhere and again.
    """

    section: ClassVar[str] = "method-settings"

    optimises: ClassVar[bool] = True
    """Whether any image is optimised; otherwise all stay as they started, and the targets are not read."""

    @abstractmethod
    def targets(
        self, teacher: Classifier, entries: Sequence[PlanEntry], config: TargetsConfig, *, seed: int
    ) -> TargetsArray:
        """Return what the teacher shall output for some images.

        Args:
            teacher: frozen.
            entries: the plan of these images: index, class k, scale β.
            config: settings that methods share.
            seed: of the set; random numbers of an image come from `numpy_stream(seed, purpose, entry.index)`.

        Returns:
            One row on the probability simplex per image (N, K), float32.

        Raises:
            ZskdError: the teacher does not allow such targets.
        """

    @abstractmethod
    def objective(self, config: SynthesisConfig) -> Objective:
        """Return what the optimisation of an image minimises: a sum of terms.

        Args:
            config: temperature, penalties.
        """


def make_method(name: str, settings: Mapping[str, Any]) -> Method:
    """Return the method of a name with its settings.

    Raises:
        ZskdError: unknown name, code that is no method, or settings that it does not have.
    """
    kind = METHODS.load(name)
    if not (isinstance(kind, type) and issubclass(kind, Method)):
        raise ZskdError(f"--method {name} is no subclass of zskd.Method")
    try:
        return from_values(kind, settings, f"--method-settings of {name}")
    except TypeError as error:  # what the class lacks, or a field without a default
        raise ZskdError(f"--method {name} cannot be made: {error}") from error
