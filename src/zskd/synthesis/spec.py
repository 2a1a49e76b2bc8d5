"""All that determines a transfer set, together with the teacher."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from zskd.config.checks import LAST_SEED, Config, from_values
from zskd.config.identity import from_former_keys, plain, split_spread
from zskd.config.registry import PIXEL_RULES
from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.core.code import is_code
from zskd.core.errors import ZskdError
from zskd.synthesis.inversion.objective import Objective, as_objective
from zskd.synthesis.methods.base import Method, make_method
from zskd.synthesis.plan import optimised_before, row_size
from zskd.transfer_set.manifest import PICTURES, REAL
from zskd.transfer_set.storage import Storage, usual_storage

HELD_OUT = 1 << 40
"""Index of the first image of held-out sets; no set for training reaches it."""
_MOST_SHARDS = 1_000_000
"""A manifest lists all of them."""


@dataclass(frozen=True, kw_only=True)
class SetSpec(Config):
    """All that determines a transfer set, together with the teacher."""

    method: str = "zskd"
    """A name of `METHODS`, or code of the user's own."""
    method_settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings that only this method has."""
    count: int
    """Number of images."""
    seed: int = 0
    """Seed of targets, start images and random maps."""
    first_index: int = 0
    """Index of the first image: `HELD_OUT` for a held-out set."""
    targets: TargetsConfig = field(default_factory=TargetsConfig)
    """Settings of the targets."""
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    """Settings of the synthesis."""

    def __post_init__(self) -> None:
        """Refuse an empty set, an unknown method, and a tolerance where images of a batch are coupled."""
        super().__post_init__()
        self.check_range("count", low=1)
        self.check_range("seed", "first_index", low=0, high=LAST_SEED)
        if self.couples and self.synthesis.tolerance:
            raise ZskdError(
                f"--synthesis.tolerance must be 0 with --method {self.method}: its objective couples the "
                "images of a batch, and all of them take the same steps (a preset of the method has 0)"
            )
        if self.synthesis.shard_size % self.together:
            raise ZskdError(
                f"--synthesis.shard-size must be a multiple of {self.together} with --method {self.method} "
                "and candidates: images with the same start image are in the same shard"
            )

    @property
    def own_method(self) -> Method:
        """The method with its settings."""
        return make_method(self.method, self.method_settings)

    @property
    def objective(self) -> Objective:
        """What the optimisation of an image minimises."""
        return as_objective(self.own_method.objective(self.synthesis))

    def storage(self, shape: tuple[int, int, int]) -> Storage:
        """Return how the images are stored, of a shape (C, H, W)."""
        if self.synthesis.storage == "auto":
            return "float32" if self.own_method.differs_finely else usual_storage(shape)
        return self.synthesis.storage

    @property
    def has_traces(self) -> bool:
        """Whether images take steps towards a target, which can be followed."""
        return self.optimises and self.own_method.by_objective

    @property
    def couples(self) -> bool:
        """Whether an image depends on the others of its batch."""
        return PIXEL_RULES[self.synthesis.pixels].couples or self.objective.couples

    @property
    def chains(self) -> bool:
        """Whether a batch continues from the batch before it, inside one shard."""
        return self.synthesis.carry_images or self.synthesis.carry_moments

    @property
    def together(self) -> int:
        """How many consecutive images must be in the same shard: those with the same start image, where it is
        chosen among the candidates of the shard."""
        return self.own_method.images_per_start if self.synthesis.candidates > 1 else 1

    def unit_of_rows(self, classes: int) -> int:
        """Return what the count must be a multiple of in the order "rows"."""
        return classes * len(self.targets.betas) * self.together

    def shard_size(self, classes: int) -> int:
        """Return the number of images per shard: the setting, or one row in the order "rows".

        Raises:
            ZskdError: the count is no multiple of the number of rows, or images with the same start image
                would be in two of them.
        """
        if self.targets.order == "rows":
            unit = self.unit_of_rows(classes)
            if self.count % unit:
                groups = "" if self.together == 1 else f", in whole groups of {self.together}"
                raise ZskdError(
                    f"--targets.order rows needs equally many images of each class and β{groups}: give "
                    f"--count a multiple of {unit}, not {self.count}"
                )
            return row_size(self.count, classes, self.targets)
        return self.synthesis.shard_size

    def indices(self, number: int, classes: int) -> range:
        """Return the positions of a shard's images in the set, before any is dropped."""
        first = number * self.shard_size(classes)
        return range(first, min(first + self.shard_size(classes), self.count))

    def planned(self, indices: range, classes: int) -> int:
        """Return how many of some consecutive images are to be optimised, whatever the method."""
        first, end = (
            optimised_before(
                index,
                count=self.count,
                classes=classes,
                config=self.targets,
                noise_share=self.synthesis.noise_share,
            )
            for index in (indices.start, indices.stop)
        )
        return end - first

    @property
    def searches_rate(self) -> bool:
        """Whether the learning rate is searched before the set is made."""
        return self.synthesis.learning_rate_search > 0 and self.has_traces

    @property
    def asks_about_flips(self) -> bool:
        """Whether the teacher is asked about mirrored impressions before the set is made."""
        config = self.synthesis
        asked = config.changes == "by_teacher" and config.warp.flip > 0
        return asked and self.has_traces

    @property
    def optimises(self) -> bool:
        """Whether any image is optimised."""
        config = self.synthesis
        return self.own_method.optimises and config.noise_share < 1 and config.steps > 0

    @property
    def needs_shard(self) -> bool:
        """Whether an image can only be made together with its whole shard.

        It can if objective or pixel rule couple the images, if a batch continues from the one before, or if
        start images are chosen among the candidates of all.
        """
        return self.couples or self.chains or self.synthesis.candidates > 1

    @property
    def nests(self) -> bool:
        """Whether a smaller set of the same settings is a prefix of this one.

        It is not if the plan of an image depends on the count, images of a batch are coupled, start images
        are chosen among the candidates of a shard, whose last one is smaller, or some images are dropped.
        """
        apart = not self.couples and self.synthesis.candidates == 1
        return apart and self.targets.order == "interleaved" and self.synthesis.missed == "keep"

    def shards(self, classes: int) -> int:
        """Return the number of shards.

        Raises:
            ZskdError: there are too many to be listed.
        """
        size = self.shard_size(classes)
        found = -(-self.count // size)
        if found > _MOST_SHARDS:
            raise ZskdError(
                f"{self.count:,} images, {size:,} in a file, are more than {_MOST_SHARDS:,} files: lower "
                "--count, or raise --synthesis.shard-size"
            )
        return found


def spec_values(spec: SetSpec) -> dict[str, Any]:
    """Return a spec as a manifest holds it: nested plain values, under their former names."""
    spread, settings = split_spread(spec.method, spec.method_settings)
    values: dict[str, Any] = plain(spec) | {"method_settings": settings}
    if not settings:
        del values["method_settings"]
    for newer, absent in (
        ("candidates", 1),
        ("storage", "auto"),
        ("shard_mb", 0),
        ("precision", "float32"),
        ("changes", "all"),
        ("learning_rate_search", 0),
    ):  # than the first manifests
        if values["synthesis"][newer] == absent:
            values["synthesis"] = {key: one for key, one in values["synthesis"].items() if key != newer}
    targets: dict[str, Any] = {}
    for name, value in values["targets"].items():
        targets |= {"spread": spread, name: value} if name == "priors" else {name: value}
    return values | {"targets": targets}


def read_spec(values: Mapping[str, Any], *, trusted: Collection[str] = ()) -> SetSpec:
    """Return the spec that a manifest holds.

    Args:
        values: as `spec_values` returned them.
        trusted: the user's code that may run if the manifest names it; no other code is imported.

    Raises:
        ZskdError: the values are damaged, belong to real images, or name code that is not trusted.
    """
    if values.get("method") in (REAL, PICTURES):
        raise ZskdError("this set holds real images, which were not synthesised: give a synthesised set")
    known = from_former_keys(values)
    for name in _code_in(known):
        if name not in trusted:
            raise ZskdError(
                f"this set was made with the code {name}, which a manifest may not run: "
                f"give --trust {name} if you trust it"
            )
    return from_values(SetSpec, known, "the manifest's settings")


def check_spec(values: Mapping[str, Any]) -> None:
    """Check that `read_spec` could read what a manifest holds; nothing is imported.

    Settings of real images, and those of a set that was made with the user's code, are not checked.

    Raises:
        ZskdError: the values are damaged.
    """
    if values.get("method") not in (REAL, PICTURES) and not _code_in(from_former_keys(values)):
        read_spec(values)


def _code_in(values: Mapping[str, Any]) -> list[str]:
    """Return the user's code, `file.py:Name`, that the values name as method or start image."""
    synthesis = values.get("synthesis")
    start = synthesis.get("start") if isinstance(synthesis, Mapping) else None
    return [name for name in (values.get("method"), start) if isinstance(name, str) and is_code(name)]
