"""Pictures of the user's: the sets of `--images` and `--few`."""

from __future__ import annotations

from pathlib import Path

from zskd.config.recipe import Recipe
from zskd.core.errors import ZskdError
from zskd.core.progress import Progress
from zskd.data.folder import picture_files
from zskd.models.classifier import Classifier
from zskd.synthesis.given import build_picture_set
from zskd.transfer_set.dataset import TransferSet

_FEW = 20
"""Pictures of each class that are few."""


def picture_sets(
    recipe: Recipe, teacher: Classifier, folder: Path, progress: Progress
) -> dict[str, TransferSet]:
    """Return the sets of the recipe's pictures, by their options: "images" and "few".

    Args:
        recipe: with the folders of the pictures.
        teacher: frozen.
        folder: of the run or of the student; the sets are written to `pictures/` in it.
        progress: receives a line for each file that cannot be read.

    Raises:
        ZskdError: a folder is missing or has no picture that can be read, or there are too many to be few.
    """
    most = {"images": recipe.distill.pictures.count, "few": _FEW * teacher.classes}
    for kind, source in recipe.picture_folders.items():
        found = len(picture_files(source))
        if kind == "few" and found > most[kind]:
            raise ZskdError(
                f"{source} holds {found:,} pictures, and --few takes up to {_FEW} of each class, "
                f"{most[kind]:,} in all: give --images {source}"
            )
    return {
        kind: build_picture_set(
            teacher, source, folder / "pictures" / kind, count=most[kind], seed=recipe.seed, progress=progress
        )
        for kind, source in recipe.picture_folders.items()
    }
