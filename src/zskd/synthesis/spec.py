"""All that determines a transfer set, together with the teacher."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import TypeAdapter, ValidationError

from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.core.artefact import JsonObject
from zskd.core.errors import ZskdError, one_line
from zskd.synthesis.methods.registry import METHODS
from zskd.synthesis.plan import row_size
from zskd.transfer_set.manifest import REAL

HELD_OUT = 1 << 40
"""First index of images that no transfer set for training ever holds."""


@dataclass(frozen=True, kw_only=True)
class SetSpec:
    """All that determines a transfer set, together with the teacher."""

    method: str = "zskd"
    """A key of `METHODS`."""
    count: int
    """Number of images."""
    seed: int = 0
    """Run seed."""
    first_index: int = 0
    """Index of the first image: `HELD_OUT` for a set to measure on."""
    targets: TargetsConfig = field(default_factory=TargetsConfig)
    """Settings of the targets."""
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    """Settings of the synthesis."""

    def __post_init__(self) -> None:
        """Refuse an empty set and an unknown method."""
        if self.count < 1:
            raise ZskdError(f"a transfer set needs at least one image, not {self.count}")
        if self.method not in METHODS:
            raise ZskdError(f"unknown method {self.method!r}: choose one of {', '.join(METHODS)}")

    def shard_size(self, classes: int) -> int:
        """Images per shard: the setting, or one row in the order of rows.

        Raises:
            ZskdError: the rows would not be equal.
        """
        if self.targets.order == "rows":
            rows = classes * len(self.targets.betas)
            if self.count % rows:
                raise ZskdError(
                    f"--targets.order rows wants as many images of each class and β: give --count a multiple "
                    f"of {rows}, not {self.count}"
                )
            return row_size(self.count, classes, self.targets)
        return self.synthesis.shard_size

    def indices(self, number: int, classes: int) -> range:
        """Indices of the images that a shard is made of, before any is dropped."""
        first = number * self.shard_size(classes)
        return range(first, min(first + self.shard_size(classes), self.count))

    @property
    def optimises(self) -> bool:
        """Whether any image is more than noise."""
        return self.method != "noise" and self.synthesis.noise_share < 1 and self.synthesis.steps > 0

    @property
    def nests(self) -> bool:
        """Whether its first images are what a smaller set of the same settings would be.

        Not where the place of an image hangs on the count, images of a batch share something, or some are
        dropped.
        """
        config = self.synthesis
        return self.targets.order == "interleaved" and config.pixels != "minmax" and config.missed == "keep"

    def shards(self, classes: int) -> int:
        """Number of shards."""
        return -(-self.count // self.shard_size(classes))


def read_spec(values: JsonObject) -> SetSpec:
    """Return the spec that a manifest holds.

    Raises:
        ZskdError: it is damaged.
    """
    if values.get("method") == REAL:
        raise ZskdError("these are real images, which nothing has optimised: there is nothing to make again")
    try:
        return TypeAdapter(SetSpec).validate_python(values)
    except ValidationError as error:
        raise ZskdError(f"the manifest's settings are damaged: {one_line(error)}") from error
