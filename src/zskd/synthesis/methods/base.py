"""Synthesis methods: a method defines the targets of images and the objective of their optimisation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from zskd.config.checks import Config, from_values
from zskd.config.registry import METHODS
from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.core.errors import ZskdError
from zskd.core.types import Images, TargetsArray
from zskd.models.classifier import Classifier
from zskd.synthesis.dirichlet import one_hot
from zskd.synthesis.inversion.invert import invert
from zskd.synthesis.inversion.lanes import InversionBatch
from zskd.synthesis.inversion.objective import Objective, Term, as_objective
from zskd.synthesis.plan import PlanEntry

OF_DIRICHLET = frozenset(
    f"targets.{name}" for name in ("normalise", "rescale_after_beta", "concentration_floor", "redraws")
)
"""Settings that only targets from Dirichlet distributions read."""
OF_DESCENT = frozenset(
    f"synthesis.{name}"
    for name in (
        *("learning_rate", "learning_rate_search", "l2", "warp", "changes"),
        *("tolerance", "missed", "carry_images", "carry_moments"),
    )
)
"""Settings that only steps on an objective towards a target read."""


class Method(Config, ABC):
    """A synthesis method, in one file.

    A subclass is a frozen dataclass. Its fields are the settings that only this method has; they are given as
    `--method-settings.NAME VALUE` and checked by their types. Both functions below must be pure functions of
    their arguments, so that every image can be made in any process, and again.
    """

    section: ClassVar[str] = "method-settings"

    optimises: ClassVar[bool] = True
    """Whether images are optimised; otherwise all stay start images, and their targets are not used."""

    by_objective: ClassVar[bool] = True
    """Whether images are optimised by steps on `objective`, towards their targets. If not, `make` is another
    one, and the teacher's outputs for the finished images become their targets."""

    images_per_start: ClassVar[int] = 1
    """How many consecutive images begin as the same start image: 2 for pairs."""

    differs_finely: ClassVar[bool] = False
    """Whether images may differ by less than one of 256 grey levels, so that `auto` does not store 8 bits."""

    ignores: ClassVar[frozenset[str]] = frozenset()
    """Settings, or groups of them, by their dotted names, that change nothing: who types one is told so."""

    @abstractmethod
    def targets(
        self, teacher: Classifier, entries: Sequence[PlanEntry], config: TargetsConfig, *, seed: int
    ) -> TargetsArray:
        """Return the targets of some images: what the teacher should output for them.

        Args:
            teacher: frozen.
            entries: the plan of these N images: index, class k, scale β.
            config: settings that all methods share.
            seed: of the set; an image draws from `numpy_stream(seed, purpose, entry.index)` alone.

        Returns:
            One row on the probability simplex per image (N, K), float32.

        Raises:
            ZskdError: the teacher does not allow the targets of this method.
        """

    def check_teacher(self, teacher: Classifier) -> None:
        """Refuse a teacher that does not allow the targets of this method, before any work begins.

        Raises:
            ZskdError: as `targets` does.
        """

    def files(self) -> Mapping[str, str]:
        """Return the SHA-256 of what the method reads beside the teacher, by the setting that names it.

        Other content makes another set; the manifest holds these hashes.

        Raises:
            ZskdError: a file cannot be read.
        """
        return {}

    @abstractmethod
    def objective(self, config: SynthesisConfig) -> Objective | Term:
        """Return what the optimisation of an image minimises: a sum of terms, or one.

        Args:
            config: temperature and penalties.
        """

    def passes_of_start(self, config: SynthesisConfig) -> int:
        """Return the passes of the teacher that `make` takes for a start image at most, forward and backward.

        Args:
            config: number of steps.
        """
        return 2 * config.steps

    def make(
        self,
        teacher: Classifier,
        entries: Sequence[PlanEntry],
        batch: InversionBatch,
        config: SynthesisConfig,
        *,
        on_progress: Callable[[int], None] | None = None,
    ) -> tuple[Images, Tensor]:
        """Make images out of their start images: by default `invert`.

        Args:
            teacher: frozen.
            entries: the plan of these N images.
            batch: their start images, targets and random maps.
            config: steps, batch size and all else.
            on_progress: called with the number of images that were finished.

        Returns:
            Images inside the teacher's input box (N, C, H, W), and the steps that each took (N,), int32. An
            image must not depend on the others, unless the objective says that it does.
        """
        return invert(teacher, batch, config, as_objective(self.objective(config)), on_progress=on_progress)


def one_hot_targets(
    method: Method, teacher: Classifier, entries: Sequence[PlanEntry], config: TargetsConfig, *, seed: int
) -> TargetsArray:
    """Return one-hot rows of the anchor classes (N, K), float32: `targets` of several methods."""
    return one_hot([entry.anchor for entry in entries], teacher.classes)


def no_targets(
    method: Method, teacher: Classifier, entries: Sequence[PlanEntry], config: TargetsConfig, *, seed: int
) -> TargetsArray:
    """Return zeros (N, K), float32, which the teacher's outputs replace: `targets` of several methods."""
    return np.zeros((len(entries), teacher.classes), dtype=np.float32)


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
        advice = "write @dataclass(frozen=True) above its class, with a default for each field"
        raise ZskdError(f"--method {name} cannot be made ({error}): {advice}") from error
