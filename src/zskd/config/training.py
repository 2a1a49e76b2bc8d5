"""Settings of any training, and of the teacher."""

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
    """Training by gradient descent with a fixed number of steps."""

    steps: int | None = None
    """Number of training steps; overrides `epochs`."""
    epochs: float | None = None
    """Number of passes over the images; used when `steps` is absent."""
    batch_size: int = 256
    """Images per step."""
    optimiser: OptimiserName = "adam"
    """Optimiser: Adam; Muon, which orthogonalises steps of matrices; or SGD with momentum."""
    learning_rate: float = 1e-3
    """Initial learning rate of the optimiser."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Schedule of the learning rate: down to 0 along a half cosine, or constant."""
    l2: float = 0.0
    """Add l2/2 times the sum of squared weights, without biases, to the loss."""

    def __post_init__(self) -> None:
        """Check optimiser, length and rates."""
        super().__post_init__()
        OPTIMISERS.check(self.optimiser, self.option("optimiser"))
        if self.steps is None and self.epochs is None:
            raise ZskdError(
                f"training needs a number of steps: give {self.option('steps')} or {self.option('epochs')}"
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
    """The trained classifier: your own file, or a network to train on the data."""

    section: ClassVar[str] = "teacher"

    epochs: float | None = 15.0
    batch_size: int = 128
    path: Path | None = None
    """Checkpoint folder, `.safetensors`, `.pt` or `.mat` file; absent: train a teacher."""
    model: Annotated[ModelName, Parameter(name=("model", "--model"))] = "lenet5"
    """Architecture: a built-in network, or your own as package.module:factory or file.py:factory."""
    shape: Annotated[tuple[int, int, int], Parameter(name=("shape", "--shape"))] = (1, 32, 32)
    """Channels, height and width of its input."""
    mean: Annotated[tuple[float, ...], Parameter(name=("mean", "--mean"))] = (0.0,)
    """Mean, subtracted from pixels in [0, 1] before the network: one value, or one per channel."""
    std: Annotated[tuple[float, ...], Parameter(name=("std", "--std"))] = (1.0,)
    """Standard deviation: the pixels are then divided by it. One value, or one per channel."""
    box: tuple[float, float] = (0.0, 1.0)
    """Least and largest pixel value of a valid image, inside [0, 1]."""
    class_names: tuple[str, ...] | None = None
    """One name per class; absent: the names of the data, or numbers."""
    head: Annotated[str | None, Parameter(name=("head", "--head"))] = None
    """Dotted name of the last linear layer; absent: found automatically."""
    golden: Annotated[Path | None, Parameter(name=("golden", "--golden"))] = None
    """File with `inputs` and the `logits` of the original network for them."""
    seed: int | None = None
    """Seed of the teacher's training; absent: the seed of the run."""

    def __post_init__(self) -> None:
        """Check architecture and seed."""
        super().__post_init__()
        ARCHITECTURES.check(self.model, "--model")
        self.check_range("seed", low=0, high=LAST_SEED)
