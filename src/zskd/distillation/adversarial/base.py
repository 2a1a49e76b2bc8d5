"""Generator methods: each is the loss of a generator, a function of what both networks compute."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, is_dataclass
from typing import Any, ClassVar, final

import numpy as np
from torch import Tensor

from zskd.config.checks import Config, from_values
from zskd.config.registry import GENERATOR_METHODS
from zskd.core.errors import ZskdError
from zskd.core.types import Images
from zskd.distillation.adversarial.statistics import Statistics
from zskd.models.batch_statistics import BatchStatistics, batch_norms, reading_statistics
from zskd.models.classifier import Classifier
from zskd.models.observation import Kinds, Observation, observe

_STATISTICS = "the running statistics of batch-norm layers"


@dataclass(frozen=True, kw_only=True)
class GeneratorBatch:
    """N images of the generator and what both networks compute for them, all of it part of the graph."""

    images: Images
    """(N, C, H, W), pixels in the teacher's input box; augmented where the settings say so."""
    teacher: Observation
    """Of the frozen teacher in evaluation mode, with the inputs of the layers that the method names."""
    student: Observation
    """Of the student at this step, in training mode while it is trained; in the generator's warm-up, the
    teacher's."""
    targets: Tensor | None = None
    """What the method drew for these images (N, K): the generator received it. None: it draws none."""
    statistics: tuple[BatchStatistics, ...] = ()
    """Of the teacher's batch-norm layers where the method reads them, smoothed over batches
    (`distill.generator.momentum`)."""


class GeneratorMethod(Config, ABC):
    """A loss for a generator whose images a student learns from.

    A method is one class with `loss`. Its settings, if it has any, are the fields of a frozen dataclass; they
    are given as `--distill.generator.method-settings.NAME VALUE` and checked by their types. It has no state
    between batches, so that an interrupted training resumes to the same bytes.
    """

    section: ClassVar[str] = "distill.generator.method-settings"

    teacher_layers: ClassVar[Kinds] = ()
    """Kinds of the teacher's layers whose inputs `loss` reads, in `batch.teacher.layers`."""

    reads_statistics: ClassVar[bool] = False
    """Whether `loss` reads `batch.statistics`, which cost less than the inputs of all layers."""

    reads_student: ClassVar[bool] = True
    """Whether `loss` reads `batch.student`; if not, that is the teacher's, and the student does not run."""

    @abstractmethod
    def loss(self, batch: GeneratorBatch) -> Tensor:
        """Return what the generator minimises, a scalar."""

    def targets(self, count: int, classes: int, rng: np.random.Generator) -> Tensor | None:
        """Return what the generator receives beside its random vectors, one row per image.

        Args:
            count: number of images N.
            classes: number of classes K.
            rng: random numbers of this batch.

        Returns:
            Targets (N, K) on the probability simplex, float32; None for a generator without class input.
        """
        return None

    @final
    def loss_on(
        self,
        teacher: Classifier,
        student: Classifier | None,
        images: Images,
        *,
        targets: Tensor | None = None,
        statistics: Statistics | None = None,
    ) -> Tensor:
        """Run the networks once on images (N, C, H, W) and return the loss, a scalar.

        Args:
            teacher: frozen.
            student: in the mode that the loss reads it in. None, while the generator warms up: the teacher
                stands for it, so that the networks agree on everything.
            images: part of the graph.
            targets: of the images (N, K), where the method draws them.
            statistics: takes those of the teacher's batch-norm; None: of this batch alone.

        Raises:
            ZskdError: the method reads statistics of batch-norm, and no such layer of the teacher runs.
        """
        of_student = observe(student, images) if student is not None and self.reads_student else None
        with ExitStack() as reading:
            found: list[BatchStatistics] = []
            if self.reads_statistics:
                found = reading.enter_context(reading_statistics(teacher))
            of_teacher = observe(teacher, images, inputs_of=self.teacher_layers)
        if self.reads_statistics and not found:  # its batch-norm layers do not run
            raise self._lacks(_STATISTICS)
        statistics = statistics or Statistics(teacher)
        return self.loss(
            GeneratorBatch(
                images=images,
                teacher=of_teacher,
                student=of_student or of_teacher,
                targets=targets,
                statistics=statistics(found),
            )
        )

    @final
    def check_teacher(self, teacher: Classifier) -> None:
        """Refuse a teacher without the layers that the loss reads.

        Raises:
            ZskdError: it has no layer of any of the kinds, or no batch-norm with running statistics.
        """
        kinds = self.teacher_layers
        if self.reads_statistics and not batch_norms(teacher.module):
            raise self._lacks(_STATISTICS)
        if kinds and not any(isinstance(layer, kinds) for layer in teacher.module.modules()):
            raise self._lacks(f"the inputs of {' or '.join(kind.__name__ for kind in kinds)} layers")

    def _lacks(self, read: str) -> ZskdError:
        return ZskdError(
            f"the generator method {type(self).__name__} reads {read}, and the teacher has none: choose "
            "another method"
        )


def make_generator_method(name: str, settings: Mapping[str, Any]) -> GeneratorMethod:
    """Return the generator method of a name with its settings.

    Raises:
        ZskdError: unknown name, code that is no generator method, or settings that it does not have.
    """
    kind = GENERATOR_METHODS.load(name)
    if not (isinstance(kind, type) and issubclass(kind, GeneratorMethod)):
        raise ZskdError(f"--distill.generator.method {name} is no subclass of zskd.GeneratorMethod")
    if settings and not is_dataclass(kind):
        raise ZskdError(f"--distill.generator.method {name} has no settings of its own")
    try:
        source = f"--distill.generator.method-settings of {name}"
        return from_values(kind, settings, source) if is_dataclass(kind) else kind()
    except TypeError as error:  # an abstract class, or one that needs arguments
        raise ZskdError(f"--distill.generator.method {name} cannot be made: {error}") from error
