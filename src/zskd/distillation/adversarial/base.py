"""Generator methods: each is the loss of a generator, a function of what both networks compute."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from zskd.config.registry import GENERATOR_METHODS
from zskd.core.errors import ZskdError
from zskd.core.types import Images
from zskd.models.classifier import Classifier
from zskd.models.observation import Kinds, Observation, observe


@dataclass(frozen=True, kw_only=True)
class GeneratorBatch:
    """N images of the generator and what both networks compute for them, all of it part of the graph."""

    images: Images
    """(N, C, H, W), pixels in the teacher's input box."""
    teacher: Observation
    """Of the frozen teacher in evaluation mode, with the inputs of the layers that the method names."""
    student: Observation
    """Of the student at this step, in training mode while it is trained."""


class GeneratorMethod(ABC):
    """A loss for a generator whose images a student learns from.

    A method is one class with `loss`, created without arguments. It has no state between batches, so that an
    interrupted training resumes to the same bytes.
    """

    teacher_layers: ClassVar[Kinds] = ()
    """Kinds of the teacher's layers whose inputs `loss` reads, in `batch.teacher.layers`."""

    @abstractmethod
    def loss(self, batch: GeneratorBatch) -> Tensor:
        """Return what the generator minimises, a scalar."""

    @final
    def loss_on(self, teacher: Classifier, student: Classifier, images: Images) -> Tensor:
        """Run both networks once on images (N, C, H, W) and return the loss, a scalar."""
        of_student = observe(student, images)
        of_teacher = observe(teacher, images, inputs_of=self.teacher_layers)
        return self.loss(GeneratorBatch(images=images, teacher=of_teacher, student=of_student))

    @final
    def check_teacher(self, teacher: Classifier) -> None:
        """Refuse a teacher without the layers that the loss reads.

        Raises:
            ZskdError: it has no layer of any of the kinds.
        """
        kinds = self.teacher_layers
        if kinds and not any(isinstance(layer, kinds) for layer in teacher.module.modules()):
            names = " or ".join(kind.__name__ for kind in kinds)
            raise ZskdError(
                f"the generator method {type(self).__name__} reads the inputs of {names} layers, and the "
                "teacher has none: choose another method"
            )


def make_generator_method(name: str) -> GeneratorMethod:
    """Return the generator method of a name.

    Raises:
        ZskdError: unknown name, or code that is no generator method.
    """
    kind = GENERATOR_METHODS.load(name)
    if not (isinstance(kind, type) and issubclass(kind, GeneratorMethod)):
        raise ZskdError(f"--distill.generator.method {name} is no subclass of zskd.GeneratorMethod")
    try:
        return kind()
    except TypeError as error:  # an abstract class, or one that needs arguments
        raise ZskdError(f"--distill.generator.method {name} cannot be made: {error}") from error
