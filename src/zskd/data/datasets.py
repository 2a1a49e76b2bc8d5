"""Real images: for training a teacher, and for one test of a student at the end."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from zskd.config.data import DataConfig
from zskd.core.errors import ZskdError
from zskd.core.types import Images, Labels
from zskd.data.colour_digits import PAIRS, coloured, paired, textured
from zskd.data.download import idx_folder
from zskd.data.folder import class_folders, read_folder
from zskd.data.idx import read_idx
from zskd.models.class_names import check_classes, places

_SPLIT_SEED = 0
"""Fixed, so that the same images are test and validation images in every run."""
_ORDER_SEED = 0
"""Fixed, so that there is only one permuted twin."""
_DIGITS_TEST = 500
_DRAWS = 4
"""Pictures in colour of each digit for training or validation; each digit of the test has one."""
_PAIRS_TRAIN, _PAIRS_TEST = 100, 40
"""Pictures of each pair of digits: for training and validation together, and for the test."""
_PAIRS_LEAST = 8
"""Least height and width of a picture of two digits."""
_FOLDER_TEST_SHARE = 0.2


@dataclass(frozen=True)
class Split:
    """Images (N, C, H, W) in [0, 1] with their labels (N,)."""

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """A data set at the input size of a network."""

    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    train_size: int
    """Number of training images before the validation split: 100 % of `--rate`."""

    def fingerprint(self) -> str:
        """Return a SHA-256 over all images, labels and class names."""
        digest = hashlib.sha256(repr(self.class_names).encode())
        for split in (self.train, self.validation, self.test):
            digest.update(split.images.contiguous().numpy().data)
            digest.update(split.labels.contiguous().numpy().data)
        return digest.hexdigest()

    def for_classes(self, names: tuple[str, ...]) -> Dataset:
        """Return the images with the numbers that a network with these class names gives to their classes.

        Raises:
            ZskdError: the network has other classes.
        """
        order = places(names, self.class_names)
        if order is None:
            check_classes(names, self.class_names)
        if order is None or order == tuple(range(len(order))):
            return self
        number = torch.tensor(order)
        train, validation, test = (
            replace(split, labels=number[split.labels]) for split in (self.train, self.validation, self.test)
        )
        return Dataset(train, validation, test, names, self.train_size)


def load_data(data: DataConfig, shape: tuple[int, int, int], *, test: bool = True) -> Dataset:
    """Load a data set at the input size of a network.

    The validation images are a fixed part of the training set, with the same share of each class. The test
    set is that of the publisher; without one, it is a fixed part of the images.

    Args:
        data: name and folder of the data set, validation share, and twin.
        shape: channels, height and width of the images to return.
        test: whether test images are read. Without them the split is empty, and files of their own are not
            opened.

    Raises:
        ZskdError: missing or damaged data, other channels, or no data set in the settings.
    """
    if data.name == "none":
        raise ZskdError("this step needs real images: give --data.name and, for your own, --data-dir")
    loaded, twin = _LOADERS[data.name](data, shape, test), _TWINS[data.twin]
    return replace(
        loaded, train=twin(loaded.train), validation=twin(loaded.validation), test=twin(loaded.test)
    )


def load_test(data: DataConfig, shape: tuple[int, int, int]) -> Dataset:
    """Load the test images alone; the other splits are empty. Class folders in `test/` need no `train/`.

    Args:
        data: name and folder of the data set, and twin; no validation images are taken.
        shape: channels, height and width of the images to return.

    Raises:
        ZskdError: as for `load_data`.
    """
    root, place = Path(data.dir or ""), folder_of_test(data)
    if place is None or place == root or not place.is_dir():
        loaded = load_data(replace(data, validation=0.0), shape)
        return replace(loaded, train=_none_of(loaded.train))
    names = class_folders(root / "train" if (root / "train").is_dir() else place)
    test = _TWINS[data.twin](_to_split(*read_folder(place, names, shape)))
    return Dataset(_none_of(test), _none_of(test), test, names, 0)


def folder_of_test(data: DataConfig) -> Path | None:
    """Return the folder that the test images of class folders are read from; None for other data."""
    if data.name != "folder" or data.dir is None:
        return None
    root = Path(data.dir)
    return next((root / name for name in ("test", "val") if (root / name).is_dir()), root)


def _none_of(split: Split) -> Split:
    return Split(split.images[:0], split.labels[:0])


_Loader = Callable[[DataConfig, tuple[int, int, int], bool], Dataset]
"""Returns a data set; its test split is empty where the last argument is false."""


def _load_digits(data: DataConfig, shape: tuple[int, int, int], test: bool) -> Dataset:
    _check_channels(data, shape, 1)
    return _digits_by_split(_all_digits(shape[1:]), data, test)


def _in_colour(
    draw: Callable[[Images, str], Images],
) -> _Loader:
    """Return the loader of digits that `draw` turns into images of three channels, each several times."""

    def load(data: DataConfig, shape: tuple[int, int, int], test: bool) -> Dataset:
        _check_channels(data, shape, 3)
        digits = _digits_by_split(_all_digits(shape[1:]), data, test)

        def drawn(of: Split, times: int, part: str) -> Split:
            return Split(draw(of.images.repeat(times, 1, 1, 1), part), of.labels.repeat(times))

        train, validation = (
            drawn(digits.train, _DRAWS, "training"),
            drawn(digits.validation, _DRAWS, "validation"),
        )
        of_test = drawn(digits.test, 1, "test")
        return Dataset(train, validation, of_test, digits.class_names, _DRAWS * digits.train_size)

    return load


def _load_digit_pairs(data: DataConfig, shape: tuple[int, int, int], test: bool) -> Dataset:
    """Pairs of digits; the digits of a split are in no pair of another split."""
    _check_channels(data, shape, 3)
    size = shape[1:]
    if min(size) < _PAIRS_LEAST:
        raise ZskdError(
            f"{data.name} needs images of at least {_PAIRS_LEAST}×{_PAIRS_LEAST} pixels, not "
            f"{size[0]}×{size[1]}: choose other data or a network of larger images"
        )
    side = min(size[0], size[1] // 2)
    digits = _digits_by_split(_all_digits((side, side)), data, test)
    validation = round(data.validation * _PAIRS_TRAIN)
    train, held_out, of_test = (
        Split(*paired(of.images, of.labels, size, count, part))
        for part, of, count in (
            ("training", digits.train, _PAIRS_TRAIN - validation),
            ("validation", digits.validation, validation),
            ("test", digits.test, _PAIRS_TEST if test else 0),
        )
    )
    return Dataset(train, held_out, of_test, PAIRS, _PAIRS_TRAIN * len(PAIRS))


def _all_digits(size: tuple[int, int]) -> Split:
    """The 1,797 real digits that come with scikit-learn (Alpaydin and Kaynak 1998), 8×8 pixels, resized.

    Its file is read without scikit-learn, which takes a second to import.
    """
    package = find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    rows = np.loadtxt(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    pixels = rows[:, :64].reshape(-1, 8, 8).astype(np.float32) / 16
    return _grey_split(pixels, rows[:, 64], size)


def _digits_by_split(everything: Split, data: DataConfig, test: bool) -> Dataset:
    train, of_test = _divide(everything, _DIGITS_TEST)
    return _with_validation(train, of_test if test else _none_of(train), tuple("0123456789"), data)


_FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def _load_idx(data: DataConfig, shape: tuple[int, int, int], test: bool) -> Dataset:
    _check_channels(data, shape, 1)
    folder = idx_folder(data.name, data.dir)
    splits = []
    for prefix in ("train", "t10k") if test else ("train",):
        images = read_idx(folder / f"{prefix}-images-idx3-ubyte")
        labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte")
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or not len(labels):
            raise ZskdError(f"{folder}: {prefix} images {images.shape} and labels {labels.shape} do not fit")
        if labels.max() > 9:
            raise ZskdError(f"{folder}: {prefix} labels go up to {labels.max()}, but there are ten classes")
        splits.append(_grey_split(images.astype(np.float32) / 255, labels, shape[1:]))
    names = _FASHION if data.name == "fashion-mnist" else tuple("0123456789")
    return _with_validation(splits[0], splits[1] if test else _none_of(splits[0]), names, data)


def _load_folder(data: DataConfig, shape: tuple[int, int, int], test: bool) -> Dataset:
    if data.dir is None:
        raise ZskdError(
            "your own data needs its folder: give --data-dir TREE with train/<class>/ and test/<class>/"
        )
    root = Path(data.dir)
    if not root.is_dir():
        raise ZskdError(f"there is no folder {root}: give --data-dir a folder with one sub-folder per class")
    train_root = root / "train"
    test_root = folder_of_test(data)
    has_split = train_root.is_dir() and test_root != root
    if train_root.is_dir() != (test_root != root):
        raise ZskdError(f"{root} needs both train/ and test/ (or val/), or neither and one folder per class")
    names = class_folders(train_root if has_split else root)
    if len(names) < 2:
        raise ZskdError(f"{root} needs at least two class folders, found: {', '.join(names) or 'none'}")
    if has_split and test_root is not None:
        train = _to_split(*read_folder(train_root, names, shape))
        of_test = _to_split(*read_folder(test_root, names, shape)) if test else _none_of(train)
        return _with_validation(train, of_test, names, data)
    train, of_test = _divide(_to_split(*read_folder(root, names, shape)), _FOLDER_TEST_SHARE)
    return _with_validation(train, of_test if test else _none_of(train), names, data)


def _transposed(images: Images) -> Images:
    if images.shape[2] != images.shape[3]:
        raise ZskdError(f"--data.twin transposed needs square images, not {tuple(images.shape[2:])}")
    return images.transpose(2, 3).contiguous()


def _permuted(images: Images) -> Images:
    order = torch.randperm(math.prod(images.shape[2:]), generator=torch.Generator().manual_seed(_ORDER_SEED))
    return images.flatten(2)[:, :, order].view_as(images)


def _on_images(change: Callable[[Images], Images]) -> Callable[[Split], Split]:
    return lambda split: replace(split, images=change(split.images))


_LOADERS: dict[str, _Loader] = {
    "digits": _load_digits,
    "digits-colour": _in_colour(coloured),
    "digits-textured": _in_colour(textured),
    "digits-pairs": _load_digit_pairs,
    "mnist": _load_idx,
    "fashion-mnist": _load_idx,
    "folder": _load_folder,
}


_TWINS: dict[str, Callable[[Split], Split]] = {
    "none": lambda split: split,
    "transposed": _on_images(_transposed),
    "inverted": _on_images(lambda images: 1 - images),
    "permuted": _on_images(_permuted),
}


def _check_channels(data: DataConfig, shape: tuple[int, int, int], channels: int) -> None:
    if shape[0] != channels:
        kind = "grey images" if channels == 1 else "images in colour"
        others = {1: "such as digits", 3: "such as digits-colour"}.get(shape[0], "--data.name none")
        raise ZskdError(
            f"{data.name} has {kind}, but the network takes {shape[0]} channel{'s' * (shape[0] > 1)}: choose "
            f"other data, {others}, or another network"
        )


def _grey_split(pixels: np.ndarray, labels: np.ndarray, size: tuple[int, int]) -> Split:
    """Resize pixels (N, h, w) bilinearly with half-pixel centres, as OpenCV and the reproduction do."""
    images = torch.from_numpy(pixels).unsqueeze(1)
    if images.shape[-2:] != size:
        images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
    return Split(images.clamp(0, 1), torch.from_numpy(labels.astype(np.int64)))


def _to_split(images: np.ndarray, labels: np.ndarray) -> Split:
    return Split(torch.from_numpy(images), torch.from_numpy(labels))


def _with_validation(train: Split, test: Split, names: tuple[str, ...], data: DataConfig) -> Dataset:
    """Take the validation images from the training images."""
    full = len(train)
    if data.validation <= 0:
        empty = Split(train.images[:0], train.labels[:0])
        return Dataset(train, empty, test, names, full)
    advice = "give more images, or --data.validation 0 for none to choose settings by"
    train, validation = _divide(train, data.validation, advice)
    return Dataset(train, validation, test, names, full)


def _divide(whole: Split, second: float | int, advice: str = "give more images") -> tuple[Split, Split]:
    """Return the rest and a fixed, stratified part of `second` images (a share or a number)."""
    from sklearn.model_selection import train_test_split

    try:
        first_rows, second_rows = train_test_split(
            np.arange(len(whole)), test_size=second, stratify=whole.labels.numpy(), random_state=_SPLIT_SEED
        )
    except ValueError as error:
        raise ZskdError(
            f"too few images to split {second} of {len(whole)} by class ({error}): {advice}"
        ) from error
    return replace(whole, images=whole.images[first_rows], labels=whole.labels[first_rows]), replace(
        whole, images=whole.images[second_rows], labels=whole.labels[second_rows]
    )
