"""Pictures from elsewhere, however they come: a folder of files, tar files of WebDataset, or Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from zskd.core.errors import ZskdError
from zskd.core.files import sha256_file, sha256_json
from zskd.data.folder import class_of_each, classes_of_files, files_below, picture_files, pictures_below
from zskd.data.packed import Packed, Picture, check_number
from zskd.data.parquet import parquet_pictures
from zskd.data.webdataset import tar_pictures

_TAR, _PARQUET = ".tar", ".parquet"


def find_pictures(source: Path, scratch: Path | None = None) -> Sequence[Picture]:
    """List the pictures of a source.

    Args:
        source: a folder of pictures, in folders or not; a tar file of WebDataset; a Parquet file; or a folder
            of such files.
        scratch: as for `parquet_pictures`.

    Raises:
        ZskdError: there is no such source, no picture in it, or a file that cannot be read.
    """
    files = _packed_files(source)
    if not files:
        return picture_files(source)
    found = list[Packed]()
    if files[0].suffix.lower() == _PARQUET:
        found += parquet_pictures(files, scratch)
    else:
        for path in files:
            found += tar_pictures(path)
            check_number(len(found), path)
    if not found:
        raise ZskdError(f"{source} holds no picture: give files with some")
    return found


def labelled_files(folder: Path, names: tuple[str, ...]) -> tuple[list[Path], Tensor | None]:
    """List the pictures of a folder with their classes, where any of them is in a folder named after one.

    Args:
        folder: of the pictures.
        names: of the classes.

    Returns:
        Files, sorted, and the class of each (N,), int64; None where no folder with a picture is named after
            a class.

    Raises:
        ZskdError: there is no such folder, no picture in it, or folders of classes beside others.
    """
    files = picture_files(folder)
    if any(one is not None for one in classes_of_files(folder, files, names)):
        return files, class_of_each(folder, files, names)
    return files, None


def hash_pictures(source: Path) -> str:
    """Return a SHA-256 over the names and contents of all files of a source.

    Raises:
        ZskdError: there is no such source, or no picture in it.
    """
    files = _packed_files(source) or picture_files(source)
    root = source if source.is_dir() else source.parent
    return sha256_json({path.relative_to(root).as_posix(): sha256_file(path) for path in files})


def _packed_files(source: Path) -> list[Path]:
    """Return the files that hold many pictures, all of one kind; none if the source is a folder of pictures.

    Raises:
        ZskdError: a folder holds several kinds, or the source is a file of another kind.
    """
    if source.is_file():
        if source.suffix.lower() in (_TAR, _PARQUET):
            return [source]
        raise ZskdError(
            f"{source} is no file of pictures: give a folder of them, a {_TAR} file of WebDataset or a "
            f"{_PARQUET} file"
        )
    found = files_below(source, (_TAR, _PARQUET))
    kinds = sorted({path.suffix.lower() for path in found})
    if found and (len(kinds) > 1 or pictures_below(source)):
        others = "pictures" if len(kinds) == 1 else f"{kinds[1]} files"
        raise ZskdError(
            f"{source} holds {kinds[0]} files beside {others}: name the folder or file to be read"
        )
    return found
