"""Settings of every training, and those of the teacher."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from cyclopts import Parameter

from zskd.config.checks import LAST_SEED, Config
from zskd.config.names import ModelName, OptimiserName
from zskd.config.registry import ARCHITECTURES, OPTIMISERS
from zskd.core.errors import ZskdError


@dataclass(frozen=True, kw_only=True)
class FitConfig(Config):
    """How a network is trained: by gradient descent for a fixed number of steps."""

    steps: int | None = None
    """Training steps; they win over `epochs`."""
    epochs: float | None = None
    """Passes over the images, for when `steps` is absent."""
    batch_size: int = 256
    """Images per step."""
    optimiser: OptimiserName = "adam"
    """How weights are changed: Adam; Muon, whose steps of matrices are orthogonal; or momentum descent."""
    learning_rate: float = 1e-3
    """Its learning rate at the start."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """How the learning rate goes on: down to 0 along a half cosine, or not at all."""
    l2: float = 0.0
    """Adds l2/2 times the sum of squared weights, without biases, to the loss."""

    def __post_init__(self) -> None:
        """Refuse lengths and rates that cannot be."""
        super().__post_init__()
        OPTIMISERS.check(self.optimiser, self.option("optimiser"))
        if self.steps is None and self.epochs is None:
            raise ZskdError(
                f"training needs its length: give {self.option('steps')} or {self.option('epochs')}"
            )
        self.check_range("steps", "batch_size", low=1)
        self.check_range("epochs", "learning_rate", low=0, above=True)
        self.check_range("l2", low=0)

    def total_steps(self, images: int) -> int:
        """Return the number of steps for a training set of `images` images."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, round(self.epochs * images / self.batch_size))


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(FitConfig):
    """The trained classifier: a file of yours, or one that is trained on the data."""

    section: ClassVar[str] = "teacher"

    epochs: float | None = 15.0
    batch_size: int = 128
    path: Path | None = None
    """Checkpoint folder, `.safetensors`, `.pt` or `.mat`; absent: a teacher is trained."""
    model: Annotated[ModelName, Parameter(name=("model", "--model"))] = "lenet5"
    """Architecture: a built-in one, or what builds yours: package.module:factory or file.py:factory."""
    shape: Annotated[tuple[int, int, int], Parameter(name=("shape", "--shape"))] = (1, 32, 32)
    """Channels, height and width of its input."""
    mean: Annotated[tuple[float, ...], Parameter(name=("mean", "--mean"))] = (0.0,)
    """Subtracted from pixels in [0, 1] before they enter the network."""
    std: Annotated[tuple[float, ...], Parameter(name=("std", "--std"))] = (1.0,)
    """Divides them afterwards."""
    box: tuple[float, float] = (0.0, 1.0)
    """Least and largest pixel value of a valid image."""
    class_names: tuple[str, ...] | None = None
    """One name per class; absent: those of the data, or numbers."""
    head: Annotated[str | None, Parameter(name=("head", "--head"))] = None
    """Dotted name of the last linear layer; absent: found by itself."""
    golden: Annotated[Path | None, Parameter(name=("golden", "--golden"))] = None
    """File with `inputs` and the `logits` that the original network gave for them."""
    seed: int | None = None
    """Seed of its training; absent: that of the run."""

    def __post_init__(self) -> None:
        """Refuse an unknown architecture and a seed that cannot be."""
        super().__post_init__()
        ARCHITECTURES.check(self.model, "--model")
        self.check_range("seed", low=0, high=LAST_SEED)
