"""Settings of any training, and of the teacher."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from cyclopts import Parameter

from zskd.config.checks import LAST_SEED, Config
from zskd.config.groups import TEACHER, TRAINING
from zskd.config.names import ModelName, OptimiserName
from zskd.config.registry import ARCHITECTURES, OPTIMISERS
from zskd.core.errors import ZskdError
from zskd.core.precision import Precision

DEFAULT_NETWORK, DEFAULT_SHAPE, DEFAULT_BOX = "lenet5", (1, 32, 32), (0.0, 1.0)
"""Network, input shape and box of pixels where neither the user nor the teacher tells them."""
_LARGEST_BATCH = 10**9
"""Images of a step, which no memory holds: with more, the numbers of a step would be drawn for ever."""


@dataclass(frozen=True, kw_only=True)
class FitConfig(Config):
    """Training by gradient descent with a fixed number of steps."""

    steps: int | None = None
    """Number of training steps. It overrides `epochs`."""
    epochs: float | None = None
    """Number of passes over the images. Used when `steps` is absent."""
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
    precision: Precision = "float32"
    """What networks compute in: bfloat16 is up to twice as fast on processors with instructions for it.
    Weights and losses are float32."""

    def __post_init__(self) -> None:
        """Check optimiser, length and rates."""
        super().__post_init__()
        OPTIMISERS.check(self.optimiser, self.option("optimiser"))
        if self.steps is None and self.epochs is None:
            raise ZskdError(
                f"training needs a number of steps: give {self.option('steps')} or {self.option('epochs')}"
            )
        self.check_range("steps", low=1)
        self.check_range("batch_size", low=1, high=_LARGEST_BATCH)
        self.check_range("epochs", "learning_rate", low=0, above=True)
        self.check_range("l2", low=0)

    def total_steps(self, images: int) -> int:
        """Return the number of steps for a training set of `images` images."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, round(self.epochs * images / self.batch_size))


def _short(name: str) -> Parameter:
    """Return how a setting of the teacher's network is typed: `--teacher.shape`, or `--shape`."""
    return Parameter(name=(name, f"--{name}"), group=TEACHER)


@dataclass(frozen=True, kw_only=True)
class SourceConfig(Config):
    """Where the teacher comes from."""

    path: Annotated[Path | None, Parameter(group=TEACHER)] = None
    """Trained teacher: a folder, a file, timm:NAME, net.py:build@WEIGHTS. Also weights of any program,
    torchvision:NAME, hf:FOLDER, onnx:FILE, file.py:factory@WEIGHTS, resnet20@WEIGHTS. Absent: train one."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(Config):
    """A trained network: how it is built, and what its input is."""

    section: ClassVar[str] = "teacher"

    model: Annotated[ModelName | None, _short("model")] = None
    """Network: built-in, timm:NAME, or file.py:factory. Also torchvision:NAME and
    package.module:factory. Arguments may follow: resnet20(norm=group), file.py:factory(depth=20). Absent:
    lenet5, unless the source names its network."""
    weights: Annotated[str | None, _short("weights")] = None
    """Place in a file with several copies of the network. Such as `model_ema`; absent: an averaged copy, else
    one called best, else the first that is not from before a training."""
    shape: Annotated[tuple[int, int, int] | None, _short("shape")] = None
    """Channels, height and width of its input. Absent: as the source tells, else 32×32 with the channels of a
    built-in network's weights, or grey; own code in colour must be told."""
    mean: Annotated[tuple[float, ...] | None, _short("mean")] = None
    """Mean, subtracted from pixels in [0, 1]. One value, or one per channel. Absent: as the source tells, or
    0."""
    std: Annotated[tuple[float, ...] | None, _short("std")] = None
    """Standard deviation, by which pixels are divided. One value, or one per channel. Absent: as the source
    tells, or 1."""
    box: Annotated[tuple[float, float] | None, _short("box")] = None
    """Least and largest pixel value of a valid image. Both are inside [0, 1]. Absent: as the source tells, or
    0 1."""
    class_names: Annotated[tuple[str, ...] | None, _short("class-names")] = None
    """One name per class. Absent: as the source tells, or numbers; of a teacher to be trained, those of the
    data."""
    head: Annotated[str | None, _short("head")] = None
    """Dotted name of the last linear layer. Absent: found automatically."""
    golden: Annotated[Path | None, _short("golden")] = None
    """File with `inputs` and the original `logits`. `zskd golden SOURCE --shape 3 32 32` prints how."""

    def __post_init__(self) -> None:
        """Check the name of the architecture."""
        super().__post_init__()
        ARCHITECTURES.check(self.network, "--model")

    @property
    def network(self) -> str:
        """Name of a network that is trained."""
        return self.model or DEFAULT_NETWORK

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Input shape of a network that is trained."""
        return self.shape or DEFAULT_SHAPE


@Parameter(group=TRAINING)
@dataclass(frozen=True, kw_only=True)
class TeacherConfig(FitConfig, NetworkConfig, SourceConfig):
    """The trained classifier: your own file, or a network to train on the data."""

    epochs: Annotated[float | None, Parameter(group=TEACHER, show_default=False)] = 15.0
    batch_size: int = 128
    seed: int | None = None
    """Seed of the teacher's training; absent: the seed of the run."""

    def __post_init__(self) -> None:
        """Check the seed."""
        super().__post_init__()
        self.check_range("seed", low=0, high=LAST_SEED)
