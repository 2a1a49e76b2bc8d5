"""Settings of further sources of the images of a student's batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cyclopts import Parameter

from zskd.config.checks import Config
from zskd.config.groups import SOURCES
from zskd.config.names import StartName
from zskd.config.registry import START_IMAGES


@Parameter(group=SOURCES)
@dataclass(frozen=True, kw_only=True)
class FreshConfig(Config):
    """Start images that are drawn anew for every batch."""

    section: ClassVar[str] = "distill.fresh"

    share: float = 0.0
    """Share of start images, drawn anew for each batch, 0 to 1."""
    start: StartName = "shapes"
    """Which start images, or file.py:Name."""

    def __post_init__(self) -> None:
        """Check share and name."""
        super().__post_init__()
        START_IMAGES.check(self.start, self.option("start"))
        self.check_range("share", low=0, high=1)


@Parameter(group=SOURCES)
@dataclass(frozen=True, kw_only=True)
class ReplayConfig(Config):
    """Images of earlier batches, from any source, on which the student differed most from the teacher."""

    section: ClassVar[str] = "distill.replay"

    share: float = 0.0
    """Share of images of earlier batches that were most difficult for the student, 0 to 1."""
    keep: int = 2000
    """Largest number of difficult images to keep, and at most 256 MB of them. Their difficulty is measured
    again when they are shown."""

    def __post_init__(self) -> None:
        """Check share and number."""
        super().__post_init__()
        self.check_range("share", low=0, high=1)
        self.check_range("keep", low=1)


@Parameter(group=SOURCES)
@dataclass(frozen=True, kw_only=True)
class PicturesConfig(Config):
    """Pictures of the user's, from `--images` and `--few`; without these options nothing of it is used."""

    section: ClassVar[str] = "distill.pictures"

    share: float = 0.5
    """Share of pictures of `--images` among the images that would be of the transfer set, 0 to 1."""
    count: int = 20000
    """Largest number of pictures of `--images`; of more, equal numbers of each predicted class are kept."""
    few_share: float = 0.25
    """The same share for pictures of `--few`, which are shown again and again, each time changed strongly."""

    @property
    def shares(self) -> dict[str, float]:
        """The share of each kind, by its option: "images" and "few"."""
        return {"images": self.share, "few": self.few_share}

    def share_option(self, kind: str) -> str:
        """Return the option of the share of a kind."""
        return self.option({"images": "share", "few": "few_share"}[kind])

    def __post_init__(self) -> None:
        """Check shares and number."""
        super().__post_init__()
        self.check_range("share", "few_share", low=0, high=1)
        self.check_range("count", low=1)
