"""What a feature loss is: a class that compares the features of student and teacher in one pair of stages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Float
from torch import Generator, Tensor, nn

from zskd.config.registry import FEATURE_LOSSES
from zskd.core.errors import ZskdError

FeatureMaps = Float[Tensor, "n _ _ _"]
"""Features of N images (N, C, h, w): C channels at h×w places, which differ from layer to layer."""


class FeatureLoss(nn.Module, ABC):
    """The difference between the features of one pair of stages.

    One object is made for each pair. What the teacher's features are turned into (`of_teacher`) travels with
    the batch; for the student's (`of_student`) an object may have layers with weights, which are trained with
    the student by the same loss and are not saved with it. Both functions may couple the images of a batch.

    Args:
        student: channels of the student's features.
        teacher: channels of the teacher's features.
    """

    needs_places: ClassVar[bool] = False
    """Whether the loss compares places of the images, so that features of a single place tell nothing."""

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__()

    @property
    def begins(self) -> bool:
        """Whether `begin` is to be called before the first step."""
        return False

    def begin(self, student: FeatureMaps, teacher: FeatureMaps, rng: Generator) -> None:
        """Look at what both networks return for the same images before the training, without gradients.

        A resumed training calls it again, and then takes weights and buffers from what was saved.

        Args:
            student: features (N, C, h, w).
            teacher: features (N, C', h, w).
            rng: for random numbers.
        """

    @abstractmethod
    def of_student(self, features: FeatureMaps) -> Tensor:
        """Return what is compared, differentiable, for the student's features (N, C, h, w)."""

    @abstractmethod
    def of_teacher(self, features: FeatureMaps) -> Tensor:
        """Return what is compared for the teacher's features (N, C', h, w), in the same shape.

        It must not depend on weights of the loss: it may be computed in another process.
        """

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of one pair, a scalar: the mean squared difference of the two."""
        return (student - teacher).square().mean()


def feature_loss(name: str) -> type[FeatureLoss]:
    """Return the feature loss of a name.

    Raises:
        ZskdError: unknown name, or code that is no feature loss.
    """
    kind = FEATURE_LOSSES.load(name)
    if not (isinstance(kind, type) and issubclass(kind, FeatureLoss)):
        raise ZskdError(f"--distill.features.loss {name} is no subclass of zskd.FeatureLoss")
    return kind
