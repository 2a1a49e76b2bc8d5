"""Every setting of the project, as frozen dataclasses.

A recipe file has the same keys, the command line the same names with dots: `synthesis.steps` is
`--synthesis.steps`. What a value is chosen from, and where the three published readings of ZSKD put it,
is told in docs/methods/zskd.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from zskd.errors import ZskdError

Twin = Literal["transposed", "inverted", "permuted"]
_LAST_SEED = 2**63 - 1


def _check(name: str, value: float, low: float, high: float = float("inf"), *, above: bool = False) -> None:
    """Refuse a number outside [low, high], or (low, high] when `above`, and one that is not finite."""
    if not math.isfinite(value) or not (low < value <= high if above else low <= value <= high):
        bound = f"above {low:g}" if above else f"at least {low:g}"
        top = f" and at most {high:g}" if high != float("inf") else ""
        raise ZskdError(f"--{name} is {value}: it must be {bound}{top}")


@dataclass(frozen=True, kw_only=True)
class Data:
    """Real images: to train a teacher on, and to test on once at the end."""

    name: Literal["digits", "mnist", "fashion-mnist", "folder", "none"] = "digits"
    """Which data set: a known one, a folder of yours with one sub-folder per class, or none at all."""
    dir: Annotated[Path | None, Parameter(name=("dir", "--data-dir"))] = None
    """Folder with the files, in torchvision's layout for the MNISTs; absent: a cache filled by download."""
    validation: float = 0.1
    """Share of the training set kept for validation, split off by class; 0 for none."""
    twin: Literal["none", Twin] = "none"
    """The same images turned into others, to see whether a method lives on knowing the originals: rows and
    columns exchanged, light and dark exchanged, or all pixels in another order, one for all images."""

    def __post_init__(self) -> None:
        """Refuse a share outside [0, 1)."""
        _check("data.validation", self.validation, 0, 0.9)

    @property
    def label(self) -> str:
        """How results call the data set."""
        return self.name if self.twin == "none" else f"{self.name}-{self.twin}"


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a network is trained: by gradient descent for a fixed number of steps."""

    steps: int | None = None
    """Training steps; they win over `epochs`."""
    epochs: float | None = None
    """Passes over the images, for when `steps` is absent."""
    batch_size: int = 256
    """Images per step."""
    optimiser: Literal["adam", "muon", "sgd"] = "adam"
    """Adam; Muon, which makes the steps of matrices orthogonal; or gradient descent with momentum 0.9."""
    learning_rate: float = 1e-3
    """Its learning rate at the start."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """How the learning rate goes on: down to 0 along a half cosine, or not at all."""
    l2: float = 0.0
    """Adds l2/2 times the sum of squared weights, without biases, to the loss."""

    def __post_init__(self) -> None:
        """Refuse lengths and rates that cannot be."""
        section = type(self).__name__.lower()
        if self.steps is None and self.epochs is None:
            raise ZskdError(f"training needs its length: give --{section}.steps or --{section}.epochs")
        _check(f"{section}.steps", 1 if self.steps is None else self.steps, 1)
        _check(f"{section}.epochs", 1 if self.epochs is None else self.epochs, 0, above=True)
        _check(f"{section}.batch-size", self.batch_size, 1)
        _check(f"{section}.learning-rate", self.learning_rate, 0, above=True)
        _check(f"{section}.l2", self.l2, 0)

    def total_steps(self, images: int) -> int:
        """Return the number of steps for a training set of `images` images."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, round(self.epochs * images / self.batch_size))


@dataclass(frozen=True, kw_only=True)
class Teacher(Fit):
    """The trained classifier: a file of yours, or one that is trained on the data."""

    epochs: float | None = 15
    batch_size: int = 128
    path: Path | None = None
    """Checkpoint folder, `.safetensors`, `.pt` or `.mat`; absent: a teacher is trained."""
    model: Annotated[str, Parameter(name=("model", "--model"))] = "lenet5"
    """Architecture: lenet5, lenet5_half, lenet5_small, lenet5_bn, or package.module:factory."""
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
        """Refuse a seed that cannot be."""
        super().__post_init__()
        _check("teacher.seed", self.seed or 0, 0, _LAST_SEED)


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Softmax targets drawn from Dirichlet distributions (ZSKD, section 3.2), or by way of features."""

    betas: tuple[float, ...] = (1.0, 0.1)
    """Scales of the concentration, each for an equal part of the set; small ones give peaked targets."""
    normalise: Literal["row", "matrix"] = "row"
    """Min-max each row of the class similarity, or first the whole matrix and then each row."""
    rescale_after_beta: bool = False
    """Min-max each row once more behind β, as the authors' release does: β then has no effect."""
    concentration_floor: float = 0.05
    """Added to every concentration before β. With two classes, where min-max leaves (1, 0), only this
    gives mixed targets."""
    redraws: int = 100
    """How often a target whose largest entry is not its class is drawn again."""
    spread: float = 1.0
    """Standard deviation of the features that the method soft_targeted draws, in multiples of the root mean
    square of the classes' means; 0: all targets of a class are the same. No other method looks at it."""
    priors: tuple[float, ...] | None = None
    """Share of each class among the anchors, summing to 1; absent: equal."""
    order: Literal["interleaved", "rows"] = "interleaved"
    """Classes and β in turn, so that every prefix is balanced, or one block per class and β."""

    def __post_init__(self) -> None:
        """Refuse scales, floors and priors that no Dirichlet distribution has."""
        if not self.betas:
            raise ZskdError("--targets.betas needs at least one value")
        for beta in self.betas:
            _check("targets.betas", beta, 0, above=True)
        _check("targets.concentration-floor", self.concentration_floor, 0)
        _check("targets.redraws", self.redraws, 0)
        _check("targets.spread", self.spread, 0)
        if self.priors is not None:
            for prior in self.priors:
                _check("targets.priors", prior, 0)
            if abs(sum(self.priors) - 1) > 1e-6:
                raise ZskdError(f"--targets.priors sum to {sum(self.priors):g}: they must sum to 1")
            if self.order == "rows":
                raise ZskdError("--targets.priors needs --targets.order interleaved: rows are equal blocks")


@dataclass(frozen=True, kw_only=True)
class Warp:
    """Random affine maps, another one for every image."""

    rotation: float = 0.0
    """Largest rotation in degrees, either way."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Least and largest magnification."""
    shift: float = 0.0
    """Largest shift as a share of the image's side, in each direction."""
    shear: float = 0.0
    """Largest shear: how far the picture's edge moves, as a share of its height."""
    flip: float = 0.0
    """Probability of a mirrored image."""

    def __post_init__(self) -> None:
        """Refuse impossible magnitudes."""
        section = "distill.augment" if isinstance(self, Augment) else "synthesis.warp"
        for name in ("rotation", "shift", "shear"):
            _check(f"{section}.{name}", getattr(self, name), 0)
        _check(f"{section}.flip", self.flip, 0, 1)
        _check(f"{section}.scale", self.scale[0], 0, self.scale[1], above=True)

    @property
    def moves(self) -> bool:
        """Whether any image is changed at all."""
        still = (self.rotation, self.shift, self.shear, self.flip) == (0, 0, 0, 0)
        return not (still and self.scale == (1.0, 1.0))


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """How images are optimised until the teacher answers with their targets."""

    start: Literal["smooth", "shapes", "uniform", "gaussian"] = "shapes"
    """First image: smooth multi-scale noise, random shapes before a plain background, or white noise drawn
    from U(0, 1) or from N(0, 1)."""
    noise_share: float = 0.8
    """Share of the set that stays as it started, without any optimisation."""
    steps: int = 50
    """Most optimisation steps of one impression."""
    tolerance: float = 0.05
    """An impression is finished when the Kullback–Leibler divergence of the teacher's answer from its target
    falls below this many nats, at the temperature `tau`; 0: never before its steps are used up."""
    missed: Literal["keep", "drop"] = "keep"
    """What becomes of an impression that used up its steps and has not met its target; dropped ones are
    not replaced, and the set is smaller."""
    learning_rate: float = 0.1
    """Adam's learning rate, in units of the pixel range."""
    tau: float = 10.0
    """Temperature of the teacher's softmax that is matched to the target."""
    l2: float = 0.0
    """Adds l2/2 times the sum of squared pixels of an image to its loss."""
    pixels: Literal["project", "free", "minmax"] = "project"
    """Pixels are put back into the input box at every step, or only when stored, or the whole batch is
    stretched to [0, 1] at every step."""
    warp: Warp = field(default_factory=lambda: Warp(rotation=15.0, scale=(0.84, 1.2), shift=0.06, shear=0.18))
    """The teacher sees the image under another random map at every step, so that its answer does not
    hang on single pixels."""
    carry_images: bool = False
    """A batch starts from the images of the batch before it, inside one shard."""
    carry_moments: bool = False
    """A batch goes on with Adam's moments and step count of the batch before it, inside one shard."""
    batch_size: int = 100
    """Images optimised together: one that is finished leaves its lane to the next. Part of the result:
    another size rounds otherwise."""
    shard_size: int = 1000
    """Images in one file, the unit of work; with `targets.order: rows` a shard is one row instead."""

    def __post_init__(self) -> None:
        """Refuse sizes and rates that cannot be."""
        _check("synthesis.noise-share", self.noise_share, 0, 1)
        _check("synthesis.steps", self.steps, 0)
        _check("synthesis.tolerance", self.tolerance, 0)
        _check("synthesis.learning-rate", self.learning_rate, 0, above=True)
        _check("synthesis.tau", self.tau, 0, above=True)
        _check("synthesis.l2", self.l2, 0)
        _check("synthesis.batch-size", self.batch_size, 1)
        _check("synthesis.shard-size", self.shard_size, 1)
        if (self.carry_images or self.carry_moments) and self.noise_share:
            raise ZskdError("--synthesis.noise-share must be 0 where batches carry something on to the next")
        if self.tolerance and (self.carry_images or self.carry_moments or self.pixels == "minmax"):
            raise ZskdError(
                "--synthesis.tolerance must be 0 where images of a batch share something: with carry-images, "
                "carry-moments and --synthesis.pixels minmax all of a batch take the same steps"
            )
        if self.missed == "drop" and not self.tolerance:
            raise ZskdError(
                "--synthesis.missed drop needs a --synthesis.tolerance: it says which targets are met"
            )


@dataclass(frozen=True, kw_only=True)
class Augment(Warp):
    """Random changes of each image of a batch; the teacher is asked again about the changed image."""

    share: float = 1.0
    """Share of the images that are moved, and, drawn apart, of those that are made noisy."""
    salt_pepper: float = 0.0
    """Share of the pixels set to the ends of the box."""
    gaussian: float = 0.0
    """Standard deviation of added pixel noise."""
    mixup: float = 0.0
    """Share of the images blended with another one of the batch, with a uniform weight."""
    cutmix: float = 0.0
    """Share of the images that get a rectangle of another one of the batch."""

    def __post_init__(self) -> None:
        """Refuse shares outside [0, 1]."""
        super().__post_init__()
        for name in ("share", "salt_pepper", "mixup", "cutmix"):
            _check(f"distill.augment.{name.replace('_', '-')}", getattr(self, name), 0, 1)
        _check("distill.augment.mixup and cutmix together", self.mixup + self.cutmix, 0, 1)
        _check("distill.augment.gaussian", self.gaussian, 0)

    @property
    def changes(self) -> bool:
        """Whether any image is changed at all."""
        noisy = self.salt_pepper or self.gaussian
        return bool(self.share and (self.moves or noisy)) or bool(self.mixup or self.cutmix)


@dataclass(frozen=True, kw_only=True)
class Game:
    """A generator that plays against the student: it looks for images on which student and teacher differ."""

    share: float = 0.0
    """Share of each batch that it makes; the rest are images of the transfer set, which 1 does without."""
    rule: Literal["dfad", "zskt"] = "dfad"
    """What it is after: a large difference of the logits, or a large divergence of the answers."""
    student_steps: int = 5
    """Steps of the student for each one of the generator."""
    same: bool = False
    """In all of them the student sees what the generator learned from, and no images that are new at each."""
    latent: int = 100
    """Length of the random vectors that images are made of."""
    width: int = 64
    """Filters of its last layer but one; the others have twice as many."""
    learning_rate: float = 1e-3
    """Adam's learning rate at the start."""
    schedule: Literal["cosine", "constant"] = "constant"
    """How it goes on."""

    def __post_init__(self) -> None:
        """Refuse shares and sizes that cannot be."""
        _check("distill.game.share", self.share, 0, 1)
        _check("distill.game.student-steps", self.student_steps, 1)
        _check("distill.game.latent", self.latent, 1)
        _check("distill.game.width", self.width, 1)
        _check("distill.game.learning-rate", self.learning_rate, 0, above=True)


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """Images made against the student as it is, in rounds of equal length, and shown again in later ones."""

    share: float = 0.0
    """Share of each batch that is of earlier rounds, from the second on."""
    count: int = 10
    """Rounds that the training is cut into."""
    images: int = 3000
    """Images that are made at the beginning of each round but the first."""
    keep: int = 30000
    """At most so many are kept; after that the oldest make room."""
    steps: int = 3
    """Steps that each takes, from an image of the transfer set, changed at random, to where student and
    teacher differ."""
    learning_rate: float = 0.03
    """Adam's learning rate of these steps, in units of the pixel range."""

    def __post_init__(self) -> None:
        """Refuse shares and sizes that cannot be."""
        _check("distill.rounds.share", self.share, 0, 1)
        for name in ("count", "images", "keep", "steps"):
            _check(f"distill.rounds.{name}", getattr(self, name), 1)
        _check("distill.rounds.learning-rate", self.learning_rate, 0, above=True)


@dataclass(frozen=True, kw_only=True)
class Distill(Fit):
    """How the student learns from the teacher on the transfer set."""

    start: Literal["teacher", "random"] = "teacher"
    """First weights: what the student can take over from the teacher, where it is a narrower copy of it, and
    random ones elsewhere; or random ones in any case."""
    steps: int | None = 4000
    optimiser: Literal["adam", "muon", "sgd"] = "muon"
    learning_rate: float = 0.01
    loss: Literal["kl", "l1", "mse", "ce"] = "kl"
    """Kullback–Leibler divergence of the softened answers, absolute or squared difference of the logits,
    or cross-entropy with the teacher's class alone."""
    tau: float = 2.0
    """Temperature of both softmaxes, for `kl`."""
    tau_squared: bool = True
    """Multiplies `kl` by τ², so that its gradient does not shrink with τ."""
    teacher_weight: float = 1.0
    """Weight of that loss; 0: the teacher is not asked."""
    label_weight: float = 0.0
    """Weight of the cross-entropy with the labels: what a real image shows, or the class that an impression
    was made for."""
    images: Literal["auto", "memory", "mapped"] = "auto"
    """Where the transfer set is read from: copied into memory once, or from its mapped files at every step.
    auto: the first when it takes less than half of the memory that is free. The student is the same."""
    augment: Augment = field(
        default_factory=lambda: Augment(
            rotation=17.5, scale=(0.81, 1.23), shift=0.07, shear=0.21, mixup=0.125, cutmix=0.125
        )
    )
    """Random changes of the images."""
    attention: float = 0.0
    """Weight of attention transfer: the difference between where student and teacher look."""
    game: Game = field(default_factory=Game)
    """A generator that plays against the student."""
    rounds: Rounds = field(default_factory=Rounds)
    """Images made against the student as it is."""

    @property
    def needs_set(self) -> bool:
        """Whether the student sees any image of a transfer set."""
        return self.game.share < 1

    def __post_init__(self) -> None:
        """Refuse a temperature of 0, and losses that cannot be."""
        super().__post_init__()
        _check("distill.tau", self.tau, 0, above=True)
        _check("distill.teacher-weight", self.teacher_weight, 0)
        _check("distill.label-weight", self.label_weight, 0)
        _check("distill.attention", self.attention, 0)
        if self.start == "teacher" and not self.needs_set:
            raise ZskdError(
                "--distill.start must be random where a generator makes all images: what is taken over from "
                "the teacher is fitted on images of a set"
            )
        if self.game.share + self.rounds.share > 1:
            raise ZskdError(
                "--distill.game.share and --distill.rounds.share are more than a batch: lower one"
            )
        if (self.game.share or self.rounds.share) and self.label_weight:
            raise ZskdError(
                "--distill.label-weight must be 0 with --distill.game.share or --distill.rounds.share: their "
                "images have no labels"
            )
        if not self.teacher_weight and not self.label_weight:
            raise ZskdError(
                "--distill.teacher-weight and --distill.label-weight are both 0: give one of them"
            )
        if self.label_weight and (self.augment.mixup or self.augment.cutmix):
            raise ZskdError(
                "--distill.label-weight must be 0 where images are mixed: the teacher can be asked about a "
                "mixture, and a label tells nothing of it; or give --distill.augment.mixup 0 "
                "--distill.augment.cutmix 0"
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that determines a run."""

    name: str = "run"
    """Name of the run; its folder is runs/NAME unless `--out` says otherwise."""
    preset: str = "default"
    """Settings of the method that this recipe starts from: default, first, paper, release, reproduction,
    dfad or zskt."""
    seed: int = 0
    """Seed of everything random."""
    method: Literal["zskd", "soft_targeted", "class_impressions", "noise"] = "zskd"
    """How the transfer set of the main arm is made."""
    count: int | None = None
    """Images in a transfer set, noise included; absent: taken from `rate`."""
    rate: float | None = None
    """The same as a percentage of the full training set, above 0 and at most 100."""
    budget: float | None = None
    """Minutes for making the transfer sets and training the students of all arms, from a teacher that is
    there. The number of steps then follows from the time that they take on this machine, and there are fewer
    images where a quarter of the time does not suffice for all; absent: as many as are set."""
    nominal_rates: dict[str, float] = field(default_factory=dict)
    """Published rates whose name is not their size: the reproduction's 25 % are 12,000 of 60,000, 20 %."""
    controls: tuple[Literal["class_impressions", "noise_smooth", "noise_shapes", "noise_white"], ...] = (
        "class_impressions",
        "noise_shapes",
        "noise_white",
    )
    """Arms that are run beside the main one with equal size, steps and augmentation; `--empty-controls` for
    none."""
    held_out: int = 500
    """Images of each kind made apart, to measure on them how far student and teacher agree."""
    student: str = "half"
    """Student: `half` for a narrower copy of the teacher, a built-in name, or package.module:factory."""
    threads: int = 0
    """Threads of each training; 0: the cores, shared among those that run side by side and their helpers. A
    shard always uses one."""
    workers: int = 0
    """Processes that make shards or train students side by side; 0 for one per core; 1: no other process is
    started. What is made is the same for any number."""
    device: str = "auto"
    """Where networks run: auto for a GPU when there is one, cpu, cuda, cuda:1."""
    rewrite: bool = True
    """Run an equivalent network that is cheaper: convolutions take over their batch-norm and pooling."""
    tensorboard: Path | None = None
    """Folder for TensorBoard's event files (needs the extra `tb`): losses, accuracies, samples."""
    data: Data = field(default_factory=Data)
    """Real images."""
    teacher: Teacher = field(default_factory=Teacher)
    """The teacher."""
    targets: Targets = field(default_factory=Targets)
    """What the teacher is to answer."""
    synthesis: Synthesis = field(default_factory=Synthesis)
    """How images are made."""
    distill: Distill = field(default_factory=Distill)
    """How the student learns."""

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be."""
        if not self.name or Path(self.name).name != self.name or self.name.startswith("."):
            raise ZskdError(f"--name is {self.name!r}: it must be a plain folder name")
        for rate in self.nominal_rates.values():
            _check("nominal-rates", rate, 0, 100, above=True)
        if len(set(self.controls)) != len(self.controls):
            raise ZskdError("--controls names an arm twice")
        _check("seed", self.seed, 0, _LAST_SEED)
        _check("held-out", self.held_out, 1)
        _check("threads", self.threads, 0)
        _check("workers", self.workers, 0)
        if self.budget is not None:
            _check("budget", self.budget, 0, above=True)
        if self.count is not None:
            _check("count", self.count, 1)
        if self.rate is not None:
            _check("rate", self.rate, 0, 100, above=True)
        if self.count is not None and self.rate is not None:
            raise ZskdError("--count and --rate both say how large the transfer set is: give one of them")

    @property
    def teacher_seed(self) -> int:
        """Seed of the teacher's weights and of the order of its images."""
        return self.seed if self.teacher.seed is None else self.teacher.seed

    def size(self, train_size: int | None) -> int:
        """Return the number of images in a transfer set.

        Args:
            train_size: images in the full training set, where there is one.

        Raises:
            ZskdError: neither count nor rate, or a rate without a training set.
        """
        if self.count is not None:
            return self.count
        if self.rate is None:
            raise ZskdError("how large is the transfer set? give --count N, or --rate PERCENT")
        if train_size is None:
            raise ZskdError(
                "--rate is a percentage of the training set, and there is no data: give --count N"
            )
        rate = self.nominal_rates.get(f"{self.rate:g}", self.rate)
        return max(1, round(train_size * rate / 100))
