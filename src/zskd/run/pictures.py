"""Pictures of the user's: the sets of `--images` and `--few`."""

from __future__ import annotations

from pathlib import Path

from zskd.config.recipe import Recipe
from zskd.core.errors import ZskdError
from zskd.core.progress import Progress
from zskd.data.folder import check_channels, class_of_each
from zskd.data.pictures import find_pictures
from zskd.models.classifier import Classifier
from zskd.synthesis.given import build_picture_set, picture_passes
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
        ZskdError: a folder is missing or has no picture that can be read, or there are too many to be few,
            or a few pictures have no label where the settings read labels.
    """
    check_pictures(recipe, teacher, folder)
    most, labelled = _most(recipe, teacher), _labelled(recipe)
    return {
        kind: build_picture_set(
            teacher,
            source,
            folder / "pictures" / kind,
            count=most[kind],
            seed=recipe.seed,
            labelled=labelled[kind],
            progress=progress,
        )
        for kind, source in recipe.picture_folders.items()
    }


def check_pictures(recipe: Recipe, teacher: Classifier, folder: Path) -> None:
    """Refuse pictures that no set can be made of, as far as their names and folders tell.

    Args:
        recipe: as for `picture_sets`.
        teacher: for its classes and the shape of its images; trained or not.
        folder: as for `picture_sets`, there or not.

    Raises:
        ZskdError: as for `picture_sets`, or the teacher takes neither grey pictures nor RGB, or what is
            written to `folder` would be among the pictures.
    """
    for kind, source in recipe.picture_folders.items():
        if folder.resolve().is_relative_to(source.resolve()):
            raise ZskdError(
                f"{folder} is inside the folder of --{kind}: its own pictures would be read, too; choose "
                "another folder with --out"
            )
        check_channels(teacher.spec.shape)
        find_pictures(source)
    if recipe.few is not None:
        _check_few(recipe.few, teacher.class_names, labelled=_labelled(recipe)["few"])


def passes_of_pictures(recipe: Recipe, teacher: Classifier) -> int:
    """Return the passes of the teacher for the sets of the recipe's pictures, at most.

    Args:
        recipe: as for `picture_sets`.
        teacher: for its classes and the size of its images; trained or not.

    Raises:
        ZskdError: a folder is missing, or has no picture.
    """
    most = _most(recipe, teacher)
    return sum(picture_passes(teacher, one, most[kind]) for kind, one in recipe.picture_folders.items())


def _most(recipe: Recipe, teacher: Classifier) -> dict[str, int]:
    """Return the largest number of pictures of each kind."""
    return {"images": recipe.distill.pictures.count, "few": _FEW * teacher.classes}


def _labelled(recipe: Recipe) -> dict[str, bool]:
    """Return whether labels are read from the pictures of each kind."""
    return {"images": False, "few": recipe.distill.label_weight > 0}


def _check_few(source: Path, class_names: tuple[str, ...], *, labelled: bool) -> None:
    """Refuse more pictures than are few, of all classes together, or of one where there are labels."""
    files, where, most = find_pictures(source), source, _FEW * len(class_names)
    found = len(files)
    if labelled:
        counts = class_of_each(source, files, class_names).bincount()
        found, where, most = int(counts.max()), source / class_names[int(counts.argmax())], _FEW
    if found > most:
        in_all = "" if labelled else f", {most:,} in all"
        raise ZskdError(
            f"{where} holds {found:,} pictures, and --few takes up to {_FEW} of each class{in_all}: "
            f"give --images {source}"
        )
