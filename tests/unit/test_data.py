"""Real images: IDX files, digits, folder trees and the checked download, all made or served here."""

import gzip
import hashlib
import os
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from zskd.cli.main import main as run
from zskd.config.data import DataConfig
from zskd.core.errors import ZskdError
from zskd.core.files import cache_folder
from zskd.data.datasets import Dataset, Split, load_data
from zskd.data.folder import read_image
from zskd.data.idx import read_idx
from zskd.models.checkpoint import load_checkpoint

SHAPE = (1, 32, 32)
REAL = Path(__file__).resolve().parents[3] / "shared" / "data"
PARTS = {"train": 40, "t10k": 20}
FILES = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
]


def idx(values: np.ndarray) -> bytes:
    """The format as yann.lecun.com described it."""
    head = struct.pack(">HBB", 0, 0x08, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    return head + values.astype(np.uint8).tobytes()


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    made = {}
    for part, n in PARTS.items():
        made[f"{part}-images-idx3-ubyte"] = rng.integers(0, 256, (n, 28, 28))
        made[f"{part}-labels-idx1-ubyte"] = np.arange(n) % 10
    return made


def write_mnist(folder: Path, *, packed: bool = False, **changed: bytes) -> Path:
    """Four small files; `changed` replaces contents, by the name with `_` for `-`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in arrays().items():
        content = changed.get(name.replace("-", "_"), idx(values))
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
        else:
            (folder / name).write_bytes(content)
    return folder


def mnist(folder: Path, shape: tuple[int, int, int] = SHAPE, name: str = "mnist") -> Dataset:
    return load_data(DataConfig(name=name, dir=folder, validation=0), shape)  # type: ignore[arg-type]


def equal(one: Dataset, other: Dataset) -> bool:
    pairs = ((one.train, other.train), (one.validation, other.validation), (one.test, other.test))
    return all(torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) for a, b in pairs)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("inside", ["MNIST/raw", ""])
def test_idx_files_are_found_in_both_layouts_plain_and_packed(
    tmp_path: Path, inside: str, packed: bool
) -> None:
    write_mnist(tmp_path / inside, packed=packed)
    data = mnist(tmp_path, (1, 28, 28))
    for split, part in ((data.train, "train"), (data.test, "t10k")):
        pixels = arrays()[f"{part}-images-idx3-ubyte"]
        np.testing.assert_array_equal(split.images[:, 0].numpy(), pixels.astype(np.float32) / np.float32(255))
        np.testing.assert_array_equal(split.labels.numpy(), np.arange(PARTS[part]) % 10)
    assert data.class_names == tuple("0123456789")
    assert (data.train_size, len(data.validation)) == (40, 0)


def test_fashion_mnist_has_its_own_folder_and_names(tmp_path: Path) -> None:
    write_mnist(tmp_path / "FashionMNIST" / "raw")
    data = mnist(tmp_path, name="fashion-mnist")
    assert (data.class_names[0], data.class_names[9]) == ("T-shirt/top", "Ankle boot")
    with pytest.raises(ZskdError, match="mnist is not in"):
        mnist(tmp_path)


def test_the_resize_is_torchs_bilinear_one_with_half_pixel_centres(tmp_path: Path) -> None:
    data = mnist(write_mnist(tmp_path))
    pixels = torch.from_numpy(arrays()["train-images-idx3-ubyte"]).float()[:, None] / 255
    wanted = F.interpolate(pixels, size=(32, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(data.train.images, wanted, rtol=0, atol=1e-6)
    # by hand: output row 0 lies at input -0.0625 and is clipped to row 0; row 4 lies at 3.4375
    column = pixels[0, 0].numpy()
    expected = 0.5625 * column[3, 0] + 0.4375 * column[4, 0]
    assert float(data.train.images[0, 0, 4, 0]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("side", [16, 28, 40])
def test_pixels_stay_inside_0_and_1_at_any_size(tmp_path: Path, side: int) -> None:
    data = mnist(write_mnist(tmp_path), (1, side, side))
    for split in (data.train, data.test):
        assert split.images.shape[1:] == (1, side, side)
        assert split.images.dtype == torch.float32
        assert 0 <= float(split.images.min()) < 0.1
        assert 0.9 < float(split.images.max()) <= 1


def test_a_missing_idx_file_is_told_with_its_place(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / FILES[3]).unlink()
    with pytest.raises(ZskdError, match=r"mnist is not in .*t10k-labels-idx1-ubyte \(each plain.*MNIST/raw"):
        mnist(tmp_path)
    with pytest.raises(ZskdError, match=r"there is no file .*nothing and no nothing\.gz"):
        read_idx(tmp_path / "nothing")


LABELS = idx(np.arange(40) % 10)
IMAGES = idx(np.zeros((40, 28, 28)))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train_labels_idx1_ubyte", b"", "no IDX file of bytes: its magic number is missing"),
        ("train_labels_idx1_ubyte", b"\0\0\x0d\x01" + LABELS[4:], "magic number is 00000d01"),
        ("train_images_idx3_ubyte", b"\x89PNG" + IMAGES[4:], "magic number is 89504e47"),
        ("train_images_idx3_ubyte", b"\0\0\x08\0", "magic number is 00000800"),
        ("train_images_idx3_ubyte", IMAGES[:10], "cut off inside its header"),
        ("train_images_idx3_ubyte", IMAGES[:-1], "holds 31,359 values instead of 31,360"),
        ("train_images_idx3_ubyte", IMAGES + b"\0", "holds more than 31,360 values"),
        ("train_labels_idx1_ubyte", idx(np.full(40, 10)), "labels go up to 10, but there are ten"),
        (
            "train_labels_idx1_ubyte",
            idx(np.zeros(39)),
            r"images \(40, 28, 28\) and labels \(39,\) do not fit",
        ),
        ("train_labels_idx1_ubyte", idx(np.zeros((40, 1))), "do not fit"),
        ("train_images_idx3_ubyte", idx(np.zeros((40, 784))), "do not fit"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_damaged_idx_files_are_named(
    tmp_path: Path, file: str, content: bytes, message: str, packed: bool
) -> None:
    write_mnist(tmp_path, packed=packed, **{file: content})
    with pytest.raises(ZskdError, match=message) as caught:
        mnist(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_empty_idx_files_are_refused(tmp_path: Path) -> None:
    empty = {
        "train_images_idx3_ubyte": idx(np.zeros((0, 28, 28))),
        "train_labels_idx1_ubyte": idx(np.zeros(0)),
    }
    write_mnist(tmp_path, **empty)
    with pytest.raises(ZskdError, match="would hold 0 values"):
        mnist(tmp_path)


def test_a_packed_file_is_refused_wherever_it_is_cut_off(tmp_path: Path) -> None:
    whole = gzip.compress(LABELS, mtime=0)
    for n in range(len(whole)):
        (tmp_path / "labels.gz").write_bytes(whole[:n])
        with pytest.raises(ZskdError, match=r"labels\.gz (is damaged or cut off|is no IDX file)"):
            read_idx(tmp_path / "labels")
    (tmp_path / "labels.gz").write_bytes(whole)
    np.testing.assert_array_equal(read_idx(tmp_path / "labels"), np.arange(40) % 10)


def test_damage_inside_a_packed_file_is_noticed(tmp_path: Path) -> None:
    broken = bytearray(gzip.compress(LABELS, mtime=0))
    broken[-6] ^= 0xFF  # of the checksum
    (tmp_path / "labels.gz").write_bytes(broken)
    with pytest.raises(ZskdError, match="is damaged or cut off"):
        read_idx(tmp_path / "labels")


def test_digits_have_fixed_sizes(digits: Dataset) -> None:
    assert digits.train_size == 1297
    assert len(digits.train) + len(digits.validation) == 1297
    assert len(digits.validation) == pytest.approx(129.7, abs=1)
    assert len(digits.test) == 500
    assert digits.train.images.shape[1:] == SHAPE


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    all_parts = load_data(DataConfig(name="digits", validation=0), (1, 8, 8))
    ours = torch.cat([all_parts.train.images, all_parts.test.images]).flatten(1)
    labels = torch.cat([all_parts.train.labels, all_parts.test.labels])
    theirs = load_digits()

    def rows(images: np.ndarray, classes: np.ndarray) -> list[bytes]:
        return sorted(row.tobytes() for row in np.column_stack([images, classes]).astype(np.float64))

    assert rows(16 * ours.numpy(), labels.numpy()) == rows(theirs.data, theirs.target)


def test_digits_are_split_in_the_same_way_every_time(digits: Dataset) -> None:
    assert equal(digits, load_data(DataConfig(name="digits"), SHAPE))
    other = load_data(DataConfig(name="digits", validation=0.3), SHAPE)
    assert torch.equal(other.test.images, digits.test.images)
    assert len(other.validation) > len(digits.validation)


def test_digits_are_split_by_class(digits: Dataset) -> None:
    whole = torch.cat([s.labels for s in (digits.train, digits.validation, digits.test)]).bincount()
    for split in (digits.train, digits.validation, digits.test):
        wanted = whole * len(split) / 1797
        assert float((split.labels.bincount(minlength=10) - wanted).abs().max()) <= 1.5


def test_digits_are_divided_without_loss_and_without_overlap(digits: Dataset) -> None:
    from sklearn.datasets import load_digits

    def rows(images: torch.Tensor, labels: torch.Tensor) -> list[tuple[bytes, int]]:
        return [(i.numpy().tobytes(), int(k)) for i, k in zip(images, labels, strict=True)]

    native = load_data(DataConfig(name="digits"), (1, 8, 8))
    bunch = load_digits()
    original = rows(torch.from_numpy(bunch.images / 16).float()[:, None], torch.from_numpy(bunch.target))
    parts = [rows(s.images, s.labels) for s in (native.train, native.validation, native.test)]
    assert sorted(chain(*parts)) == sorted(original)
    twins = len(original) - len(set(original))
    shared = sum(len(set(parts[a]) & set(parts[b])) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert shared <= twins


def test_no_validation_part_when_its_share_is_0() -> None:
    data = load_data(DataConfig(name="digits", validation=0), (1, 8, 8))
    assert (len(data.train), len(data.validation), len(data.test)) == (1297, 0, 500)


def test_no_data_is_told_to_whoever_asks_for_some() -> None:
    with pytest.raises(ZskdError, match=r"needs real images: give --data\.name"):
        load_data(DataConfig(name="none"), SHAPE)


@pytest.mark.parametrize("name", ["digits", "mnist", "fashion-mnist"])
def test_grey_data_do_not_fit_a_network_of_three_channels(name: str) -> None:
    with pytest.raises(ZskdError, match=rf"{name} has grey images, but the network takes 3 channels"):
        load_data(DataConfig(name=name), (3, 32, 32))  # type: ignore[arg-type]


COLOURED = ("digits-colour", "digits-textured")
SMALL = (3, 16, 16)


@pytest.fixture(scope="module")
def in_colour() -> dict[str, Dataset]:
    return {
        name: load_data(DataConfig(name=name), SMALL)  # type: ignore[arg-type]
        for name in (*COLOURED, "digits-pairs")
    }


def nearest(pictures: torch.Tensor, digits: Split) -> torch.Tensor:
    """The digit whose grey values have the largest absolute correlation with a picture in one colour."""

    def centred(values: torch.Tensor) -> torch.Tensor:
        flat = values.flatten(1) - values.flatten(1).mean(1, keepdim=True)
        return flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-9)

    return (centred(pictures) @ centred(digits.images).T).abs().argmax(1)


def test_digits_in_colour_have_three_channels_and_fixed_sizes(in_colour: dict[str, Dataset]) -> None:
    sizes = {"digits-colour": (4668, 520, 500), "digits-textured": (4668, 520, 500)}
    for name, data in in_colour.items():
        parts = (data.train, data.validation, data.test)
        assert tuple(map(len, parts)) == sizes.get(name, (3870, 430, 1720))
        assert data.train_size == len(data.train) + len(data.validation)
        for part in parts:
            assert part.images.shape[1:] == SMALL
            assert part.images.dtype == torch.float32
            assert 0 <= float(part.images.min()) < float(part.images.max()) <= 1
    assert in_colour["digits-pairs"].class_names == tuple(f"{number:02d}" for number in range(43))


def test_a_coloured_digit_is_that_grey_digit(in_colour: dict[str, Dataset]) -> None:
    """Each channel is a grey digit of the same split, stretched, and the label is the label of that digit."""
    data, grey = in_colour["digits-colour"], load_data(DataConfig(name="digits"), (1, 16, 16))
    for part, of in ((data.train, grey.train), (data.validation, grey.validation), (data.test, grey.test)):
        for channel in range(3):
            found = nearest(part.images[:, channel], of)
            assert torch.equal(of.labels[found], part.labels)
            times = len(part) // len(of)
            assert float((found == torch.arange(len(of)).repeat(times)).float().mean()) > 0.99


@pytest.mark.parametrize("name", COLOURED)
def test_colours_tell_nothing_of_the_class(name: str, in_colour: dict[str, Dataset]) -> None:
    """Analysis of variance: the colours of edge and stroke, and which of them is the lighter, by class."""
    from sklearn.feature_selection import f_classif

    train = in_colour[name].train
    grey = load_data(DataConfig(name="digits"), (1, 16, 16)).train.images.repeat(4, 1, 1, 1)
    rows = torch.arange(len(train))
    ground = train.images.flatten(2)[rows, :, grey.flatten(1).argmin(1)]
    stroke = train.images.flatten(2)[rows, :, grey.flatten(1).argmax(1)]
    lighter = (stroke.mean(1) > ground.mean(1)).float()[:, None]
    assert 0.45 < float(lighter.mean()) < 0.55
    colours = torch.cat([ground, stroke, lighter], 1)
    assert min(f_classif(colours.numpy(), train.labels.numpy())[1]) > 0.01


@pytest.mark.parametrize("name", COLOURED)
def test_the_test_digits_keep_their_colours_whatever_the_validation_share(name: str) -> None:
    one, other = (
        load_data(DataConfig(name=name, validation=share), (3, 8, 8))  # type: ignore[arg-type]
        for share in (0, 0.5)
    )
    assert torch.equal(one.test.images, other.test.images)
    assert len(one.train) == one.train_size == len(other.train) + len(other.validation)


def test_textures_change_inside_digits_and_behind_them(in_colour: dict[str, Dataset]) -> None:
    grey = load_data(DataConfig(name="digits"), (1, 16, 16)).test.images
    for name in COLOURED:
        for mask in ((grey > 0.9).float(), (grey < 0.02).float()):
            images, pixels = in_colour[name].test.images, mask.sum((2, 3))
            mean = (images * mask).sum((2, 3)) / pixels
            error = ((images - mean[..., None, None]) ** 2 * mask).sum((2, 3)) / pixels
            change = float(error.nanmean() ** 0.5)
            assert (change < 0.02) if name == "digits-colour" else (0.03 < change < 0.2)


def test_pairs_are_made_of_two_digits_of_their_own_split(in_colour: dict[str, Dataset]) -> None:
    data, grey = in_colour["digits-pairs"], load_data(DataConfig(name="digits"), (1, 8, 8))
    splits = {"train": grey.train, "validation": grey.validation, "test": grey.test}
    digits, labels = (
        torch.cat([getattr(of, kind) for of in splits.values()]) for kind in ("images", "labels")
    )
    homes = torch.tensor([number for number, of in enumerate(splits.values()) for _ in range(len(of))])
    heights = [F.pad(digits, (0, 0, top, 8 - top)) for top in range(9)]
    everywhere = Split(torch.cat(heights), labels.repeat(9))
    for number, name in enumerate(splits):
        part = getattr(data, name)
        assert part.labels.bincount(minlength=43).unique().numel() == 1
        images, pair = part.images[::7, 0], part.labels[::7]
        for half, wanted in ((images[:, :, :8], pair // 10), (images[:, :, 8:], pair % 10)):
            found = nearest(half, everywhere)
            assert torch.equal(everywhere.labels[found], wanted)
            assert (homes.repeat(9)[found] == number).all()


def test_pairs_fit_any_size_and_need_two_digits_of_each_class() -> None:
    wide = load_data(DataConfig(name="digits-pairs", validation=0), (3, 9, 30))
    assert (wide.train.images.shape[1:], len(wide.validation)) == ((3, 9, 30), 0)
    with pytest.raises(ZskdError, match="digits-pairs needs images of at least 8×8 pixels, not 7×32"):
        load_data(DataConfig(name="digits-pairs"), (3, 7, 32))
    with pytest.raises(ZskdError, match="digits-pairs needs two validation digits of each class: give"):
        load_data(DataConfig(name="digits-pairs", validation=0.01), (3, 8, 8))


def test_digits_in_colour_are_the_same_every_time(in_colour: dict[str, Dataset]) -> None:
    for name, data in in_colour.items():
        again = load_data(DataConfig(name=name), SMALL)  # type: ignore[arg-type]
        assert again.fingerprint() == data.fingerprint()


def test_a_teacher_of_pairs_is_trained_from_the_command_line(tmp_path: Path) -> None:
    given = ("--model", "lenet5", "--shape", "3", "16", "16", "--teacher.steps", "2", "--quiet")
    assert run(["teacher", "train", "--data.name", "digits-pairs", *given, "--out", str(tmp_path / "t")]) == 0
    teacher = load_checkpoint(tmp_path / "t")[0]
    assert (teacher.classes, teacher.spec.shape) == (43, SMALL)
    assert teacher.class_names == tuple(f"{number:02d}" for number in range(43))


@pytest.mark.parametrize("name", [*COLOURED, "digits-pairs"])
def test_data_in_colour_do_not_fit_a_network_of_one_channel(name: str) -> None:
    with pytest.raises(ZskdError, match=rf"{name} has images in colour, but the network takes 1 channel: .*"):
        load_data(DataConfig(name=name), SHAPE)  # type: ignore[arg-type]


def picture(path: Path, colour: tuple[int, int, int], side: int = 6) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), colour).save(path)


COLOURS = {"cat": (255, 0, 0), "dog": (0, 0, 255), "elk": (0, 255, 0)}


def tree(root: Path, per_class: int = 5, classes: tuple[str, ...] = ("cat", "dog", "elk")) -> Path:
    for name in classes:
        for i in range(per_class):
            picture(root / name / f"{i}.png", COLOURS[name])
    return root


def own(root: Path | None, shape: tuple[int, int, int] = (3, 6, 6), validation: float = 0) -> Dataset:
    return load_data(DataConfig(name="folder", dir=root, validation=validation), shape)


def test_a_divided_tree_keeps_its_test_part_and_its_colours(tmp_path: Path) -> None:
    tree(tmp_path / "train", 4)
    tree(tmp_path / "test", 2)
    data = own(tmp_path)
    assert data.class_names == ("cat", "dog", "elk")
    assert (len(data.train), len(data.test), data.train_size) == (12, 6, 12)
    for split in (data.train, data.test):
        for image, label in zip(split.images, split.labels, strict=True):
            colour = torch.tensor(COLOURS[data.class_names[int(label)]]) / 255
            assert torch.equal(image, colour[:, None, None].expand(3, 6, 6))


def test_val_is_another_name_for_the_test_part(tmp_path: Path) -> None:
    tree(tmp_path / "train", 4)
    tree(tmp_path / "val", 2)
    assert len(own(tmp_path).test) == 6


def test_an_undivided_tree_is_divided_by_class_and_always_in_the_same_way(tmp_path: Path) -> None:
    tree(tmp_path, 10)
    data = own(tmp_path, validation=0.25)
    assert data.train_size == 24
    assert [s.labels.bincount().tolist() for s in (data.train, data.validation, data.test)] == [
        [6, 6, 6],
        [2, 2, 2],
        [2, 2, 2],
    ]
    assert equal(data, own(tmp_path, validation=0.25))


def test_colour_pictures_become_grey_by_luminance(tmp_path: Path) -> None:
    tree(tmp_path)
    data = own(tmp_path, (1, 6, 6))
    grey = {
        int(label): float(image.mean())
        for image, label in zip(data.train.images, data.train.labels, strict=True)
    }
    for label, weight in enumerate((0.299, 0.114, 0.587)):  # of red, blue and green (ITU-R 601)
        assert grey[label] == pytest.approx(weight, abs=0.005)


def test_grey_pictures_fit_a_network_of_three_channels(tmp_path: Path) -> None:
    Image.new("L", (6, 6), 51).save(tmp_path / "a.png")
    assert np.array_equal(
        read_image(tmp_path / "a.png", (3, 6, 6)), np.full((3, 6, 6), 0.2, dtype=np.float32)
    )


def without_test(data: DataConfig, shape: tuple[int, int, int]) -> Dataset:
    """The data without their test split, which is empty; all else is as with it."""
    alone, whole = load_data(data, shape, test=False), load_data(data, shape)
    assert len(whole.test)
    assert (len(alone.test), alone.test.images.shape[1:]) == (0, shape)
    assert equal(alone, replace(whole, test=alone.test))
    assert (alone.class_names, alone.train_size) == (whole.class_names, whole.train_size)
    return alone


@pytest.mark.parametrize("name", ["digits", "digits-colour", "digits-textured", "digits-pairs"])
def test_digits_are_the_same_without_their_test_part(name: str) -> None:
    without_test(DataConfig(name=name), (1 if name == "digits" else 3, 8, 16))  # type: ignore[arg-type]


def test_files_of_the_test_part_alone_are_not_opened(tmp_path: Path) -> None:
    images, folders = tmp_path / "mnist", tmp_path / "tree"
    write_mnist(images)
    tree(folders / "train", 4)
    tree(folders / "test", 2)
    without_test(DataConfig(name="folder", dir=tree(tmp_path / "undivided", 10)), (3, 6, 6))
    both = (
        (DataConfig(name="mnist", dir=images, validation=0.25), (1, 28, 28)),
        (DataConfig(name="folder", dir=folders, validation=0.25), (3, 6, 6)),
    )
    before = [without_test(data, shape) for data, shape in both]
    for path in (*images.rglob("t10k*"), *folders.rglob("test/*/*.png")):
        path.write_text("damaged")
    for (data, shape), found in zip(both, before, strict=True):
        with pytest.raises(ZskdError):
            load_data(data, shape)
        assert equal(load_data(data, shape, test=False), found)


def test_16_bit_grey_pictures_keep_their_shades(tmp_path: Path) -> None:
    shades = np.array([[0, 16384], [32768, 65535]], dtype=np.uint16)
    Image.fromarray(shades).save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png", (1, 2, 2))
    np.testing.assert_allclose(read[0], shades / 65535, atol=0.01)


def test_pictures_of_other_sizes_are_resized(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg", (255, 255, 255), side=20)
    read = read_image(tmp_path / "a.jpg", (3, 4, 8))
    assert read.shape == (3, 4, 8)
    np.testing.assert_allclose(read, 1, atol=0.01)


def test_trees_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(ZskdError, match="needs its folder: give --data-dir"):
        own(None)
    with pytest.raises(ZskdError, match=r"there is no folder .*nowhere"):
        own(tmp_path / "nowhere")
    tree(tmp_path / "one", classes=("cat",))
    with pytest.raises(ZskdError, match="at least two class folders, found: cat"):
        own(tmp_path / "one")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ZskdError, match="at least two class folders, found: none"):
        own(tmp_path / "empty")
    (tree(tmp_path / "hole") / "fox").mkdir()
    with pytest.raises(ZskdError, match=r"hole/fox holds no picture"):
        own(tmp_path / "hole")
    tree(tmp_path / "differ" / "train")
    tree(tmp_path / "differ" / "test", classes=("cat", "dog"))
    with pytest.raises(ZskdError, match=r"differ/test lacks the class folders elk$"):
        own(tmp_path / "differ")
    (tmp_path / "differ" / "test" / "ape").mkdir()
    with pytest.raises(ZskdError, match=r"lacks the class folders elk and has folders of no class: ape$"):
        own(tmp_path / "differ")
    tree(tmp_path / "few", 1)
    with pytest.raises(ZskdError, match="too few images to split"):
        own(tmp_path / "few")
    with pytest.raises(ZskdError, match="grey or RGB, but the network takes 2 channels"):
        own(tree(tmp_path / "fine"), (2, 6, 6))


def test_a_training_part_without_a_known_test_part_is_not_taken_for_a_class(tmp_path: Path) -> None:
    tree(tmp_path / "train")
    tree(tmp_path / "valid")
    with pytest.raises(ZskdError, match="test"):
        own(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no picture at all"])
def test_a_file_that_is_no_picture_is_named(tmp_path: Path, content: bytes) -> None:
    (tree(tmp_path) / "dog" / "bad.png").write_bytes(content)
    with pytest.raises(ZskdError, match=r"dog/bad\.png is no readable picture"):
        own(tmp_path)


@pytest.mark.filterwarnings("ignore")  # of Pillow, about what is wrong with the file
@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "bmp", "ppm"])
def test_damaged_pictures_are_read_or_named_but_never_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """Cut off, or with one byte changed, at many places."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)  # damaged sizes are not to fill the memory
    rng = np.random.default_rng(0)
    Image.fromarray((rng.random((12, 12, 3)) * 255).astype(np.uint8)).save(tmp_path / f"whole.{ending}")
    whole = (tmp_path / f"whole.{ending}").read_bytes()
    path, said = tmp_path / f"cut.{ending}", []
    for n in range(0, len(whole), max(1, len(whole) // 200)):
        for content in (whole[:n], whole[:n] + bytes([whole[n] ^ 0xFF]) + whole[n + 1 :]):
            path.write_bytes(content)
            try:
                assert read_image(path, (3, 6, 6)).shape == (3, 6, 6)
            except ZskdError as error:
                said.append(str(error))
    assert len(said) > 10
    assert all(text.startswith(f"{path} is no readable picture") for text in said)


def test_other_files_between_pictures_are_passed_over(tmp_path: Path) -> None:
    tree(tmp_path)
    (tmp_path / "cat" / "notes.txt").write_text("x")
    (tmp_path / "labels.csv").write_text("x")
    data = own(tmp_path)
    assert len(data.train) + len(data.test) == 15


@pytest.mark.skipif(
    not (REAL / "MNIST" / "raw").is_dir(), reason="the real MNIST files are not beside the checkout"
)
def test_the_real_mnist_has_its_published_sizes() -> None:
    data = load_data(DataConfig(name="mnist", dir=REAL), (1, 28, 28))
    assert (data.train_size, len(data.train), len(data.validation), len(data.test)) == (
        60_000,
        54_000,
        6_000,
        10_000,
    )
    assert float(data.test.images.max()) == 1.0
    # sizes of the classes 0 and 9 in the test set, as published
    assert data.test.labels.bincount()[[0, 9]].tolist() == [980, 1009]


@dataclass
class Mirror:
    """A web server on this machine that gives the files of one folder."""

    url: str
    folder: Path
    server: ThreadingHTTPServer
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    folder = write_mnist(tmp_path / "served" / "good", packed=True).parent
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, format: str, *arguments: object) -> None:
            asked.append(self.path)

    sums = {f"{n}.gz": hashlib.sha256((folder / "good" / f"{n}.gz").read_bytes()).hexdigest() for n in FILES}
    monkeypatch.setattr("zskd.data.download._SHA256", {"mnist": sums})
    monkeypatch.setenv("ZSKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Mirror(f"http://127.0.0.1:{server.server_port}/", folder, server, asked)
        server.shutdown()


def use(monkeypatch: pytest.MonkeyPatch, *urls: str) -> None:
    monkeypatch.setattr("zskd.data.download._MIRRORS", {"mnist": urls})


CLOSED = "http://127.0.0.1:9/"


def cached() -> list[str]:
    return sorted(f"{p.relative_to(cache_folder())}" for p in cache_folder().rglob("*") if p.is_file())


COMPLETE = sorted(f"MNIST/raw/{name}.gz" for name in FILES)


@pytest.mark.parametrize("first", ["absent", "closed"])
def test_the_second_mirror_is_asked_when_the_first_fails(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, first: str, tmp_path: Path
) -> None:
    use(monkeypatch, CLOSED if first == "closed" else f"{mirror.url}absent/", f"{mirror.url}good/")
    data = load_data(DataConfig(name="mnist", validation=0), SHAPE)
    assert equal(data, mnist(write_mnist(tmp_path / "mine")))
    assert cached() == COMPLETE


def test_the_second_time_nothing_is_asked(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, f"{mirror.url}good/")
    data = load_data(DataConfig(name="mnist", validation=0), SHAPE)
    assert len(mirror.asked) == 4
    mirror.server.shutdown()
    assert equal(data, load_data(DataConfig(name="mnist", validation=0), SHAPE))
    assert len(mirror.asked) == 4


def test_a_file_with_another_checksum_is_refused_and_not_kept(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(mirror.folder / "evil", packed=True, t10k_labels_idx1_ubyte=idx(np.full(20, 3)))
    use(monkeypatch, f"{mirror.url}evil/")
    with pytest.raises(ZskdError, match=r"cannot download mnist; tried .*evil/t10k-labels-idx1-ubyte\.gz"):
        load_data(DataConfig(name="mnist"), SHAPE)
    assert "MNIST/raw/t10k-labels-idx1-ubyte.gz" not in cached()
    use(monkeypatch, f"{mirror.url}evil/", f"{mirror.url}good/")
    assert load_data(DataConfig(name="mnist", validation=0), SHAPE).test.labels[:3].tolist() == [0, 1, 2]


def test_a_damaged_file_in_the_cache_is_fetched_again(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, f"{mirror.url}good/")
    load_data(DataConfig(name="mnist", validation=0), SHAPE)
    damaged = cache_folder() / COMPLETE[0]
    damaged.write_bytes(damaged.read_bytes()[:-7])
    load_data(DataConfig(name="mnist", validation=0), SHAPE)
    assert len(mirror.asked) == 5
    assert damaged.read_bytes() == (mirror.folder / "good" / damaged.name).read_bytes()


def test_when_all_mirrors_fail_one_error_says_what_was_tried_and_what_to_do(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, f"{mirror.url}absent/", CLOSED)
    with pytest.raises(ZskdError) as caught:
        load_data(DataConfig(name="mnist"), SHAPE)
    said = str(caught.value)
    assert f"tried {mirror.url}absent/train-images-idx3-ubyte.gz (HTTPError) and {CLOSED}" in said
    assert all(f"{name}.gz" in said for name in FILES)
    assert "into DIR/MNIST/raw and add --data-dir DIR" in said
    assert "\n" not in said
    assert cached() == []


def test_the_advice_of_that_error_works(mirror: Mirror, tmp_path: Path) -> None:
    write_mnist(tmp_path / "DIR" / "MNIST" / "raw", packed=True)
    assert mnist(tmp_path / "DIR").train_size == 40
    assert mirror.asked == []


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSKD_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("ZSKD_CACHE")
    assert cache_folder().name == "zskd"
    assert os.fspath(cache_folder()) != os.fspath(tmp_path)


def twin(of: DataConfig, kind: str, shape: tuple[int, int, int] = SHAPE) -> Dataset:
    return load_data(replace(of, twin=kind), shape)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["transposed", "inverted", "permuted"])
def test_a_twin_has_the_same_labels_and_splits_and_other_images(kind: str) -> None:
    digits = DataConfig(name="digits")
    original, other = load_data(digits, SHAPE), twin(digits, kind)
    for one, two in ((original.train, other.train), (original.validation, other.validation)):
        assert torch.equal(one.labels, two.labels)
    assert torch.equal(original.test.labels, other.test.labels)
    back = {
        "transposed": lambda images: images.mT,
        "inverted": lambda images: 1 - images,
        # the same order for all images: pixels that differ in the original differ in the twin
        "permuted": lambda images: images,
    }[kind](other.test.images)
    if kind == "permuted":
        assert not torch.equal(back, original.test.images)
        assert torch.equal(back.flatten(1).sort(1).values, original.test.images.flatten(1).sort(1).values)
        columns = [set(map(tuple, one.test.images.flatten(1).T.tolist())) for one in (original, other)]
        assert columns[0] == columns[1]
        assert torch.equal(twin(digits, kind).test.images, other.test.images)
    else:
        torch.testing.assert_close(back, original.test.images)
    assert original.fingerprint() != other.fingerprint()
    assert replace(digits, twin=kind).label == f"digits-{kind}"  # type: ignore[arg-type]


def test_only_square_images_are_transposed() -> None:
    with pytest.raises(ZskdError, match="--data.twin transposed needs square images"):
        twin(DataConfig(name="digits"), "transposed", (1, 16, 24))
