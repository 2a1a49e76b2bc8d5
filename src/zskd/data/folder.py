"""Labelled images in folders: one folder per class, grey or RGB."""

from __future__ import annotations

import io
import os
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from zskd.core.errors import ZskdError, first_few, has_hidden, readable_errors
from zskd.core.reading import one_line_errors, opened
from zskd.core.types import Images
from zskd.data.packed import ENDINGS, Picture, ScratchError
from zskd.models.class_names import check_folders, composed, numbers_of_folders

_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""What a file may be, whatever its name: for some others Pillow starts a program (Ghostscript)."""
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture upright, by its EXIF orientation. Pillow's own function also writes the EXIF data
again, which fails where they are not quite right."""
_Kind = TypeVar("_Kind", bound=Picture)


def check_channels(shape: tuple[int, int, int]) -> None:
    """Refuse a shape (C, H, W) that no picture can be read as.

    Raises:
        ZskdError: it has other than one or three channels.
    """
    if shape[0] not in (1, 3):
        raise ZskdError(f"pictures are read as grey or RGB, but the network takes {shape[0]} channels")


def read_image(source: Picture, shape: tuple[int, int, int]) -> np.ndarray:
    """Read a picture as float32 in [0, 1] of `shape` (channels, height, width), resized bilinearly.

    Raises:
        ZskdError: not a readable picture, or `shape` has other than one or three channels.
    """
    check_channels(shape)
    channels, height, width = shape
    with (
        opened(source) if isinstance(source, Path) else io.BytesIO(source.read()) as stream,
        one_line_errors(f"{source} is no readable picture", "leave it out or replace it"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # of odd metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with _formats_told(), Image.open(stream, formats=_FORMATS) as picture:
            converted = _in_bytes(_upright(picture)).convert("L" if channels == 1 else "RGB")
            if converted.size != (width, height):
                converted = converted.resize((width, height), Image.Resampling.BILINEAR)
            pixels = np.asarray(converted, dtype=np.float32) / 255
    return pixels.reshape(height, width, channels).transpose(2, 0, 1).copy()


@contextmanager
def _formats_told() -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError as error:  # its words name the stream
        raise ValueError(f"its format is none of {', '.join(_FORMATS)}") from error


def _upright(picture: Image.Image) -> Image.Image:
    """Return a picture as it is to be looked at: phones store portraits sideways, and say so beside them."""
    picture.load()  # of its errors, none is of metadata; and Pillow itself turns a TIFF while it loads
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # its reader fails in many ways, and the pixels are sound
        return picture
    method = _UPRIGHT.get(orientation)
    return picture if method is None else picture.transpose(method)


def _in_bytes(picture: Image.Image) -> Image.Image:
    """Return a picture with pixels of 0 to 255; `convert` alone would clip those of 16 bits, and call all of
    [0, 1] black.

    Raises:
        ValueError: pixels are outside of the range of their kind, or not finite.
    """
    if picture.mode != "F" and not picture.mode.startswith("I"):
        return picture
    pixels = np.asarray(picture, dtype=np.float32)
    largest, kind = (1, "fractions") if picture.mode == "F" else (65535, "integers")
    if not (pixels.min() >= 0 and pixels.max() <= largest):  # also for NaN
        raise ValueError(
            f"its pixels are from {pixels.min():g} to {pixels.max():g}, not {kind} in 0 to {largest}"
        )
    in_bytes = pixels * 255 if largest == 1 else pixels / 257
    return Image.fromarray(np.rint(in_bytes))  # `convert` would cut off what is behind the point


def read_pictures(
    files: Sequence[_Kind],
    shape: tuple[int, int, int],
    batch: int,
    on_broken: Callable[[_Kind, ZskdError], None],
) -> Iterator[tuple[list[int], Images]]:
    """Read pictures a few at a time, and leave out what cannot be read.

    Args:
        files: the pictures.
        shape: channels, height and width that they are resized to.
        batch: largest number of pictures at once.
        on_broken: receives each of them that cannot be read, and why.

    Yields:
        Places in `files` and images (n, C, H, W) in [0, 1] of at least one picture.

    Raises:
        ZskdError: `shape` has other than one or three channels.
        ScratchError: pictures cannot be kept on the disk.
    """
    check_channels(shape)
    for start in range(0, len(files), batch):
        rows, read = list[int](), []
        for row, path in enumerate(files[start : start + batch], start=start):
            try:
                read.append(read_image(path, shape))
            except ScratchError:
                raise
            except ZskdError as error:
                on_broken(path, error)
            else:
                rows.append(row)
        if read:
            yield rows, torch.from_numpy(np.stack(read))


def class_folders(root: Path) -> tuple[str, ...]:
    """Return the class names: the sorted names of the folders in `root`, hidden ones excluded.

    Raises:
        ZskdError: the folder cannot be read, a name cannot be written into a card, or two names are the same
            but for the way their letters are written.
    """
    with readable_errors(root, "read"):
        folders = [one.name for one in root.iterdir() if one.is_dir() and not one.name.startswith(".")]
    for name in folders:
        if has_hidden(name):
            raise ZskdError(f"the folder {root / name} has a name that is no plain text in UTF-8: rename it")
    twice = [name for name, count in Counter(map(composed, folders)).items() if count > 1]
    if twice:
        raise ZskdError(f"{root} has two folders {twice[0]} whose letters are stored differently: join them")
    return tuple(sorted(folders))


def picture_files(root: Path) -> list[Path]:
    """Return all files below a folder whose names end like those of pictures, sorted, hidden ones excluded.

    Raises:
        ZskdError: there is no such folder, or no such file in it.
    """
    if not root.is_dir():
        raise ZskdError(f"there is no folder {root}: give a folder with pictures")
    found = pictures_below(root)
    if not found:
        raise ZskdError(f"{root} holds no picture ({', '.join(sorted(ENDINGS))})")
    return found


def classes_of_files(root: Path, files: Sequence[Path], names: tuple[str, ...]) -> list[int | None]:
    """Return the class of each file whose folder in `root` is named after one; None for the others.

    The folder may also be called as `zskd export` calls it; a / in a name may stand for a folder in another.

    Args:
        root: folder of all files.
        files: below it.
        names: of the classes.

    Raises:
        ZskdError: folders are numbers in an order that nobody knows.
    """
    number_of = numbers_of_folders(names)
    check_folders(names, (path.relative_to(root).parts[0] for path in files))

    def class_of(path: Path) -> int | None:
        folders = map(composed, path.relative_to(root).parts[:-1])
        found = [number_of.get(name) for name in accumulate(folders, "{}/{}".format)]
        return next((one for one in reversed(found) if one is not None), None)

    return [class_of(path) for path in files]


def class_of_each(root: Path, files: Sequence[Picture], names: tuple[str, ...]) -> Tensor:
    """Return the class of each file (N,), int64, as `classes_of_files` does.

    Args:
        root: folder of all files.
        files: below it.
        names: of the classes.

    Raises:
        ZskdError: a file is in no folder, or in one with the name of no class, or the pictures are in other
            files.
    """
    advice = f"for labels, give folders named after the teacher's classes ({first_few(names, 5)})"
    paths = [path for path in files if isinstance(path, Path)]
    if len(paths) < len(files):
        raise ZskdError(f"{root} has no folders: {advice}")
    labels = classes_of_files(root, paths, names)
    if None in labels:
        path = paths[labels.index(None)]
        first, *more = path.relative_to(root).parts
        where = f"the folder {first!r}, which is no class" if more else "no folder"
        raise ZskdError(f"{path} is in {where}: {advice}")
    return torch.tensor(labels, dtype=torch.int64)


def pictures_below(folder: Path) -> list[Path]:
    """Return the same as `picture_files`; nothing where there is none."""
    return files_below(folder, ENDINGS)


def files_below(folder: Path, endings: Collection[str]) -> list[Path]:
    """Return all files below a folder with one of these endings, sorted; links to folders are followed.

    Files and folders whose names begin with a dot are left out.

    Raises:
        ZskdError: one of the folders cannot be read.
    """
    found, seen = list[Path](), set[tuple[int, int]]()

    def refuse(error: OSError) -> None:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return  # callers tell what they need instead
        with readable_errors(Path(error.filename or folder), "read"):
            raise error

    for root, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        place = Path(root).stat()
        if (place.st_dev, place.st_ino) in seen:  # a link back
            folders.clear()
            continue
        seen.add((place.st_dev, place.st_ino))
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(root, name) for name in files if not name.startswith("."))
        found += [path for path in paths if path.suffix.lower() in endings and path.is_file()]
    return sorted(found)


def read_folder(
    root: Path, names: tuple[str, ...], shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Read all pictures below `root/<class>/`.

    Returns:
        Images (N, C, H, W) float32 in [0, 1], and labels (N,) int64, indices into `names`.

    Raises:
        ZskdError: a class folder is missing, unknown or empty, or a file is not a readable picture.
    """
    found = {composed(name): root / name for name in class_folders(root)}
    wanted = list(map(composed, names))
    if found.keys() != set(wanted):
        lacking, more = sorted(set(wanted) - found.keys()), sorted(found.keys() - set(wanted))
        lacks = [f"lacks the class folders {', '.join(lacking)}"] if lacking else []
        has = [f"has folders of no class: {', '.join(more)}"] if more else []
        raise ZskdError(f"{root} {' and '.join(lacks + has)}")
    files = [(path, label) for label, name in enumerate(wanted) for path in pictures_below(found[name])]
    labels = np.array([label for _, label in files], dtype=np.int64)
    empty = [name for label, name in enumerate(names) if not (labels == label).any()]
    if empty:
        raise ZskdError(f"{root / empty[0]} holds no picture ({', '.join(sorted(ENDINGS))})")
    return np.stack([read_image(path, shape) for path, _ in files]), labels
