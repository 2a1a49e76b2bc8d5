"""Settings of the real images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from cyclopts import Parameter

from zskd.config.checks import Config

Twin = Literal["transposed", "inverted", "permuted"]


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """Real images: to train a teacher on, and to test on once at the end."""

    section: ClassVar[str] = "data"

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
        super().__post_init__()
        self.check_range("validation", low=0, high=0.9)

    @property
    def label(self) -> str:
        """How results call the data set."""
        return self.name if self.twin == "none" else f"{self.name}-{self.twin}"
