"""Everything that has a name, in one table for each kind.

Command line, recipes, `--help`, the tables of the docs and the contract tests read these tables; no list of
such names stands anywhere else. They hold import strings, so that reading them imports nothing.

To add something to the package: one file, and one line here. From outside the package nothing is needed:
where a table is open, `file.py:Name` or `package.module:Name` stands for the user's own.
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
    """One name."""

    target: str
    """What it stands for, as `package.module:Name`."""
    summary: str
    """What that is, in a few words, with its source."""


@dataclass(frozen=True)
class PixelRule(Entry):
    """What happens to pixels that leave the input box."""

    couples: bool = False
    """Whether an image then depends on the others of its batch."""


@dataclass(frozen=True)
class Control:
    """An arm that differs from the main one in its method alone."""

    method: str
    start: str | None
    """First image, where it is not the main arm's."""
    summary: str
    """How tables and figures call it."""


E = TypeVar("E", Entry, PixelRule, Control)


class Registry(Mapping[str, E], Generic[E]):
    """The names of one kind.

    Args:
        kind: what they are, for messages.
        entries: by name, in the order in which they are listed.
        takes_code: whether a name may also be code of the user's own.
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
        """Refuse a name that is neither here nor, where that is allowed, code.

        Args:
            name: as it was given.
            option: by which it was given, for the message: "--method".

        Raises:
            ZskdError: naming the nearest, or all that there are.
        """
        if name in self._entries or (self.takes_code and is_code(name)):
            return
        hint = suggestion(name, self._entries)
        code = ", or name your own as file.py:Name" if self.takes_code and "?" not in hint else ""
        raise ZskdError(f"{option} is {name!r}, which is no {self.kind}{hint}{code}")

    @staticmethod
    def label(name: str) -> str:
        """Return what files and tables call something: its name, or that of the code behind it."""
        return name.rpartition(":")[2]

    def load(self, name: str) -> Any:
        """Import what a name stands for.

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
            "soft targets by way of the features in front of the last layer (Wang 2021)",
        ),
        "class_impressions": Entry(
            "zskd.synthesis.methods.class_impressions:ClassImpressions",
            "one-hot targets (Mopuri et al. 2018)",
        ),
        "noise": Entry(
            "zskd.synthesis.methods.noise:Noise",
            "no optimisation: every image stays as it started (Nayak et al. 2021)",
        ),
    },
    takes_code=True,
)
"""How a transfer set is filled: subclasses of `synthesis.methods.base.Method`."""

START_IMAGES = Registry(
    "start image",
    {
        "smooth": Entry("zskd.synthesis.inversion.initial:smooth", "random grids of several sizes, added"),
        "shapes": Entry(
            "zskd.synthesis.inversion.initial:shapes",
            "random shapes before a plain background (after Baradad et al. 2021)",
        ),
        "uniform": Entry("zskd.synthesis.inversion.initial:uniform", "white noise of U(0, 1)"),
        "gaussian": Entry("zskd.synthesis.inversion.initial:gaussian", "white noise of N(0, 1)"),
    },
    takes_code=True,
)
"""Where the optimisation of an image begins: functions (streams, shape, box) → images."""

PIXEL_RULES = Registry(
    "pixel rule",
    {
        "project": PixelRule(
            "zskd.synthesis.inversion.pixels:project", "put back into the input box at every step"
        ),
        "free": PixelRule("zskd.synthesis.inversion.pixels:free", "put back only when stored"),
        "minmax": PixelRule(
            "zskd.synthesis.inversion.pixels:minmax",
            "the whole batch is stretched to the box at every step (the authors' release)",
            couples=True,
        ),
    },
)
"""What happens to pixels that leave the input box: functions (images, box) that change images in place."""

LOSSES = Registry(
    "loss",
    {
        "kl": Entry("zskd.distillation.losses:kl", "Kullback–Leibler divergence of the softened outputs"),
        "l1": Entry("zskd.distillation.losses:l1", "absolute difference of the logits"),
        "mse": Entry("zskd.distillation.losses:mse", "squared difference of the logits"),
        "ce": Entry("zskd.distillation.losses:ce", "cross-entropy with the class that the teacher gives"),
    },
    takes_code=True,
)
"""What the student minimises: functions (student's logits, teacher's logits, settings) → scalar."""

OPTIMISERS = Registry(
    "optimiser",
    {
        "adam": Entry("zskd.training.optimisers:adam", "Adam (Kingma and Ba 2015)"),
        "muon": Entry(
            "zskd.training.optimisers:muon", "momentum with orthogonal steps of matrices (Jordan et al. 2024)"
        ),
        "sgd": Entry("zskd.training.optimisers:sgd", "gradient descent with momentum 0.9"),
    },
    takes_code=True,
)
"""How weights are changed: functions (parameters, learning rate) → optimiser."""

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
"""Networks by name: functions (channels, classes, size) → network. The user's own take no arguments."""

HALF = "half"
STUDENTS = Registry(
    "student",
    {
        HALF: Entry("zskd.models.factory:half", "a copy of the teacher with half the filters"),
        **ARCHITECTURES,
    },
    takes_code=True,
)
"""Networks that a student can be: those above, or a copy of the teacher."""

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
"""What a generator is trained for: subclasses of `distillation.adversarial.base.GeneratorMethod`."""

CONTROLS = Registry(
    "control",
    {
        "class_impressions": Control("class_impressions", None, "class impressions"),
        "noise_smooth": Control("noise", "smooth", "smooth noise"),
        "noise_shapes": Control("noise", "shapes", "random shapes"),
        "noise_white": Control("noise", "uniform", "white noise"),
    },
)
"""Arms that are run beside the main one."""

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
"""All tables, by the option whose choices they are."""
