"""Registries: the names of methods, losses, networks and so on, with one registry for each kind.

The command line, recipes, `--help`, the tables of the docs and the contract tests read these registries.
There is no other list of such names. Entries are import strings, so that this file imports none of them.

To add something to the package: write one file and add one line here. Code outside the package needs no
entry: most registries also accept `file.py:Name` or `package.module:Name`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from zskd.config.checks import suggestion
from zskd.core.code import import_object, is_code
from zskd.core.errors import ZskdError


@dataclass(frozen=True)
class Entry:
    """One entry of a registry."""

    target: str
    """The object, as `package.module:Name`."""
    summary: str
    """Short description with source."""


@dataclass(frozen=True)
class PixelRule(Entry):
    """A rule for pixels that leave the input box."""

    couples: bool = False
    """Whether the result for an image depends on the other images of its batch."""


@dataclass(frozen=True)
class Control:
    """An arm that differs from the main arm only in its method."""

    method: str
    """Name of its method in `METHODS`."""
    start: str | None
    """Start image; None: that of the main arm."""
    summary: str
    """Name in tables and figures."""


E = TypeVar("E", Entry, PixelRule, Control)


class Registry(Mapping[str, E], Generic[E]):
    """The entries of one kind, by name.

    Args:
        kind: name of the kind, for messages.
        entries: name -> entry, in the order of the listings.
        takes_code: whether a name may also refer to the user's own code.
    """

    def __init__(self, kind: str, entries: Mapping[str, E], *, takes_code: bool = False) -> None:
        self.kind, self.takes_code = kind, takes_code
        self._entries: dict[str, E] = dict(entries)

    def __getitem__(self, name: str) -> E:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def check(self, name: str, option: str) -> None:
        """Check that a name is an entry, or refers to code where this is allowed.

        Args:
            name: the given name.
            option: the command-line option, for the message: "--method".

        Raises:
            ZskdError: unknown name; the message suggests the nearest, or lists all.
        """
        if name in self._entries or (self.takes_code and is_code(name)):
            return
        hint = suggestion(name, self._entries)
        code = ", or name your own as file.py:Name" if self.takes_code and "?" not in hint else ""
        raise ZskdError(f"{option} is {name!r}, which is no {self.kind}{hint}{code}")

    @staticmethod
    def label(name: str) -> str:
        """Return the name for files and tables: the name itself, or the name of the object in code."""
        return name.rpartition(":")[2]

    def load(self, name: str) -> Any:
        """Import the object of a name.

        Raises:
            ZskdError: unknown name, or code that cannot be imported.
        """
        self.check(name, f"the {self.kind}")
        entry = self._entries.get(name)
        return import_object(entry.target if isinstance(entry, Entry) else name)


METHODS = Registry(
    "method",
    {
        "zskd": Entry(
            "zskd.synthesis.methods.zskd:ZSKD",
            "soft targets from Dirichlet distributions shaped by class similarity (Nayak et al. 2019)",
        ),
        "soft_targeted": Entry(
            "zskd.synthesis.methods.soft_targeted:SoftTargeted",
            "soft targets through the features before the last layer (Wang 2021)",
        ),
        "class_impressions": Entry(
            "zskd.synthesis.methods.class_impressions:ClassImpressions",
            "one-hot targets (Mopuri et al. 2018)",
        ),
        "noise": Entry(
            "zskd.synthesis.methods.noise:Noise",
            "no optimisation: the start images (Nayak et al. 2021)",
        ),
    },
    takes_code=True,
)
"""Methods that make a transfer set: subclasses of `synthesis.methods.base.Method`."""

START_IMAGES = Registry(
    "start image",
    {
        "smooth": Entry("zskd.synthesis.inversion.initial:smooth", "sum of random grids of several sizes"),
        "shapes": Entry(
            "zskd.synthesis.inversion.initial:shapes",
            "random shapes on a plain background (after Baradad et al. 2021)",
        ),
        "uniform": Entry("zskd.synthesis.inversion.initial:uniform", "white noise of U(0, 1)"),
        "gaussian": Entry("zskd.synthesis.inversion.initial:gaussian", "white noise of N(0, 1)"),
    },
    takes_code=True,
)
"""Initial images of the optimisation: functions (streams, shape, box) → images."""

PIXEL_RULES = Registry(
    "pixel rule",
    {
        "project": PixelRule(
            "zskd.synthesis.inversion.pixels:project", "clipped to the input box at every step"
        ),
        "free": PixelRule("zskd.synthesis.inversion.pixels:free", "clipped only when stored"),
        "minmax": PixelRule(
            "zskd.synthesis.inversion.pixels:minmax",
            "the whole batch is stretched to the box at every step (the authors' release)",
            couples=True,
        ),
    },
)
"""Rules for pixels that leave the input box: functions (images, box) that change images in place."""

LOSSES = Registry(
    "loss",
    {
        "kl": Entry("zskd.distillation.losses:kl", "Kullback–Leibler divergence of the softened outputs"),
        "l1": Entry("zskd.distillation.losses:l1", "absolute difference of the logits"),
        "mse": Entry("zskd.distillation.losses:mse", "squared difference of the logits"),
        "ce": Entry("zskd.distillation.losses:ce", "cross-entropy with the teacher's predicted class"),
    },
    takes_code=True,
)
"""Losses of the student: functions (student's logits, teacher's logits, settings) → scalar."""

OPTIMISERS = Registry(
    "optimiser",
    {
        "adam": Entry("zskd.training.optimisers:adam", "Adam (Kingma and Ba 2015)"),
        "muon": Entry(
            "zskd.training.optimisers:muon", "momentum, orthogonal steps for matrices (Jordan et al. 2024)"
        ),
        "sgd": Entry("zskd.training.optimisers:sgd", "gradient descent with momentum 0.9"),
    },
    takes_code=True,
)
"""Optimisers: functions (parameters, learning rate) → optimiser."""

ARCHITECTURES = Registry(
    "model",
    {
        "lenet5": Entry("zskd.models.lenet:lenet5", "LeNet-5"),
        "lenet5_half": Entry("zskd.models.lenet:lenet5_half", "LeNet-5 with half the filters"),
        "lenet5_small": Entry("zskd.models.lenet:lenet5_small", "the smaller half of DAFL and DFAD"),
        "lenet5_bn": Entry("zskd.models.lenet:lenet5_bn", "LeNet-5 with batch-norm"),
    },
    takes_code=True,
)
"""Networks: functions (channels, classes, size) → network. The user's own functions take no arguments."""

HALF = "half"
STUDENTS = Registry(
    "student",
    {
        HALF: Entry("zskd.models.factory:half", "a copy of the teacher with half the filters"),
        **ARCHITECTURES,
    },
    takes_code=True,
)
"""Students: the networks above, or a narrower copy of the teacher."""

GENERATOR_METHODS = Registry(
    "generator method",
    {
        "dfad": Entry(
            "zskd.distillation.adversarial.dfad:DFAD", "large differences of the logits (Fang et al. 2019)"
        ),
        "zskt": Entry(
            "zskd.distillation.adversarial.zskt:ZSKT",
            "large divergences of the outputs (Micaelli and Storkey 2019)",
        ),
    },
    takes_code=True,
)
"""Objectives of a generator: subclasses of `distillation.adversarial.base.GeneratorMethod`."""

CONTROLS = Registry(
    "control",
    {
        "class_impressions": Control("class_impressions", None, "class impressions"),
        "noise_smooth": Control("noise", "smooth", "smooth noise"),
        "noise_shapes": Control("noise", "shapes", "random shapes"),
        "noise_white": Control("noise", "uniform", "white noise"),
    },
)
"""Further arms of a run."""

REGISTRIES: Mapping[str, Registry[Any]] = {
    "--method": METHODS,
    "--synthesis.start": START_IMAGES,
    "--synthesis.pixels": PIXEL_RULES,
    "--distill.loss": LOSSES,
    "--distill.optimiser": OPTIMISERS,
    "--model": ARCHITECTURES,
    "--student": STUDENTS,
    "--distill.generator.method": GENERATOR_METHODS,
    "--controls": CONTROLS,
}
"""Command-line option -> its registry."""
