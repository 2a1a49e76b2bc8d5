"""Settings of the real images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from cyclopts import Parameter

from zskd.config.checks import Config
from zskd.config.groups import DATA, RUN_DETAILS
from zskd.core.errors import ZskdError

DataName = Literal[
    "digits",
    "digits-colour",
    "digits-textured",
    "digits-pairs",
    "mnist",
    "fashion-mnist",
    "folder",
    "none",
]
IN_FOLDERS = ("mnist", "fashion-mnist", "folder")
"""Data sets that are files, which may lie in any folder; the others are made of what scikit-learn holds."""
Twin = Literal["transposed", "inverted", "permuted"]


@Parameter(group=DATA)
@dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """Real images: for training a teacher, and for one test at the end."""

    section: ClassVar[str] = "data"

    name: DataName = "digits"
    """Data set. A `folder` is your own, with one sub-folder per class; `none` is for no images."""
    dir: Annotated[Path | None, Parameter(name=("dir", "--data-dir"))] = None
    """Folder of the files; absent: download them to a cache. The MNISTs are in torchvision's layout."""
    validation: Annotated[float, Parameter(group=RUN_DETAILS)] = 0.1
    """Share of the training set for validation, 0 to 0.9. It is the same share of each class; 0 for none."""
    twin: Annotated[Literal["none", Twin], Parameter(group=RUN_DETAILS)] = "none"
    """Change of all images, to test whether a method depends on knowing the data set: exchange rows and
    columns, exchange light and dark, or permute all pixels in one order for all images."""

    def __post_init__(self) -> None:
        """Check the validation share, and that a folder belongs to a data set."""
        super().__post_init__()
        self.check_range("validation", low=0, high=0.9)
        if self.dir is not None and self.name == "none":
            raise ZskdError("--data-dir is the folder of a data set: name it, as in --data.name folder")

    @property
    def label(self) -> str:
        """Name of the data set in results."""
        return self.name if self.twin == "none" else f"{self.name}-{self.twin}"
