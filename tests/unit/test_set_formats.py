"""Transfer sets in the formats of other people, read back by their libraries, and read as pictures."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from conftest import Lines
from zskd.cli.main import main
from zskd.core.errors import ZskdError
from zskd.core.extras import import_extra
from zskd.data.folder import read_image
from zskd.data.pictures import find_pictures, hash_pictures
from zskd.models.classifier import Classifier
from zskd.synthesis.given import build_picture_set
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.export import parquet as parquet_format
from zskd.transfer_set.export import webdataset as webdataset_format
from zskd.transfer_set.export.imagefolder import export_imagefolder
from zskd.transfer_set.export.parquet import export_parquet
from zskd.transfer_set.export.webdataset import export_webdataset

import_extra("torchvision")  # with a CPU build of torch it needs that
import_extra("pyarrow")
import datasets  # noqa: E402
import pyarrow  # noqa: E402
import webdataset  # noqa: E402
from pyarrow import parquet  # noqa: E402
from torchvision.datasets import ImageFolder  # noqa: E402

datasets.disable_progress_bars()
SHAPE = (1, 32, 32)
EXPORTS = {
    "parquet": export_parquet,
    "webdataset": export_webdataset,
    "imagefolder": export_imagefolder,
}


@pytest.fixture(scope="module")
def exported(teacher: Classifier, small_set: TransferSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set of 50 images in each format; the files of Parquet and the tars hold up to 30."""
    root = tmp_path_factory.mktemp("formats")
    with pytest.MonkeyPatch.context() as patch:
        for module in (parquet_format, webdataset_format):
            patch.setattr(module, "IN_ONE_FILE", 30)
        for name, export in EXPORTS.items():
            assert export(teacher, small_set, root / name) == root / name
    return root


def loaded(folder: Path, cache: Path) -> datasets.Dataset:
    return datasets.load_dataset(str(folder), split="train", cache_dir=str(cache))


@dataclass
class Checker:
    """Compares samples with the set, and their logits with what the teacher outputs for their pixels."""

    teacher: Classifier
    images: TransferSet

    def check(self, samples: list[tuple[Image.Image, int, object, object]]) -> None:
        pixels = torch.stack([torch.from_numpy(np.array(one[0].convert("L"))) for one in samples])[:, None]
        assert torch.equal(pixels, (self.images.all_images() * 255).round().byte())
        assert [label for _, label, _, _ in samples] == self.images.labels.tolist()
        targets, logits = (torch.tensor([one[place] for one in samples]) for place in (2, 3))
        assert torch.equal(targets, self.images.column("targets"))
        with torch.no_grad():
            torch.testing.assert_close(logits, self.teacher(pixels.float() / 255), atol=1e-4, rtol=1e-4)


@pytest.fixture
def checker(teacher: Classifier, small_set: TransferSet) -> Checker:
    return Checker(teacher, small_set)


def test_datasets_opens_parquet_with_the_types_of_its_columns(
    exported: Path, checker: Checker, tmp_path: Path
) -> None:
    numbers = datasets.List(datasets.Value("float32"), length=10)
    expected = {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=[str(k) for k in range(10)]),
        "target": numbers,
        "logits": numbers,
    }
    files = sorted((exported / "parquet" / "data").iterdir())
    assert [path.name for path in files] == ["train-00000.parquet", "train-00001.parquet"]
    without_card = datasets.Dataset.from_parquet(str(files[1]), cache_dir=str(tmp_path))
    read = loaded(exported / "parquet", tmp_path)
    assert read.features == without_card.features == expected
    assert [read.num_rows, without_card.num_rows] == [50, 20]
    assert isinstance(read[0]["image"], Image.Image)
    checker.check([(one["image"], one["label"], one["target"], one["logits"]) for one in read])


def test_webdataset_opens_the_tars(exported: Path, checker: Checker) -> None:
    files = str(exported / "webdataset" / "train-{000000..000001}.tar")
    read = webdataset.WebDataset(files, shardshuffle=False).decode("pil").to_tuple("png", "cls", "json")
    samples = list(read)
    checker.check([(image, k, facts["target"], facts["logits"]) for image, k, facts in samples])
    assert all(facts["class"] == str(k) for _, k, facts in samples)


def test_datasets_opens_the_tars_with_class_names(exported: Path, checker: Checker, tmp_path: Path) -> None:
    read = loaded(exported / "webdataset", tmp_path)
    assert read.features["cls"] == datasets.ClassLabel(names=[str(k) for k in range(10)])
    checker.check([(one["png"], one["cls"], one["json"]["target"], one["json"]["logits"]) for one in read])


def test_torchvision_and_datasets_open_the_folders(exported: Path, checker: Checker, tmp_path: Path) -> None:
    folder = ImageFolder(str(exported / "imagefolder"), allow_empty=True)
    assert folder.classes == [str(k) for k in range(10)]
    by_row = sorted(folder.samples, key=lambda sample: Path(sample[0]).name)
    records = map(json.loads, (exported / "imagefolder" / "metadata.jsonl").read_text().splitlines())
    checker.check(
        [
            (Image.open(file), k, facts["target"], facts["logits"])
            for (file, k), facts in zip(by_row, records, strict=True)
        ]
    )
    read = sorted(
        loaded(exported / "imagefolder", tmp_path), key=lambda one: Path(one["image"].filename).name
    )
    checker.check([(one["image"], one["label"], one["target"], one["logits"]) for one in read])
    assert all(one["class"] == str(one["label"]) for one in read)


@pytest.mark.parametrize("name", EXPORTS)
def test_the_card_tells_where_the_set_comes_from(exported: Path, small_set: TransferSet, name: str) -> None:
    _, front, text = (exported / name / "README.md").read_text("utf-8").split("---\n", 2)
    assert yaml.safe_load(front)["task_categories"] == ["image-classification"]
    assert "# Transfer set of 50 images" in text
    assert "without any of its training data, by the method `zskd`" in text
    assert small_set.manifest.teacher_sha256 in text
    assert small_set.fingerprint() in text
    settings = json.loads(text.partition("```json\n")[2].partition("\n```")[0])
    assert settings == small_set.manifest.spec
    tau = settings["synthesis"]["tau"]
    assert f"10 probabilities that the teacher should output at the temperature {tau}" in text
    assert "These images are no photographs." in text
    assert str(Path.home()) not in text


def test_the_card_of_real_pictures_says_so(exported: Path, teacher: Classifier, tmp_path: Path) -> None:
    made = build_picture_set(teacher, exported / "imagefolder", tmp_path / "set")
    text = (export_webdataset(teacher, made, tmp_path / "out") / "README.md").read_text("utf-8")
    assert "Whether they may be passed on is a question of where they came from" in text
    assert "`cls` | its label, or else the class that the teacher predicts |" in text
    assert "10 probabilities that the teacher outputs at the temperature 10" in text
    shard = next(iter(made))
    assert torch.allclose(shard.targets, torch.softmax(shard.logits / 10, dim=1), atol=1e-6)
    assert f"SHA-256 of the pictures: {made.manifest.data_sha256}" in text
    assert "no photographs" not in text


def test_the_same_set_gives_the_same_bytes(
    exported: Path,
    teacher: Classifier,
    small_set: TransferSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (parquet_format, webdataset_format):
        monkeypatch.setattr(module, "IN_ONE_FILE", 30)
    for name in ("parquet", "webdataset"):
        EXPORTS[name](teacher, small_set, tmp_path / name)
        for path in (exported / name).rglob("*.*"):
            again = tmp_path / path.relative_to(exported)
            assert path.is_dir() or path.read_bytes() == again.read_bytes(), path


def test_the_command_writes_each_format_and_asks_for_the_teacher(
    teacher_folder: Path,
    small_set: TransferSet,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in EXPORTS:
        command = ["export", str(small_set.folder), "--to", name, "--out", str(tmp_path / name)]
        assert main(command) == 2
        assert "add --teacher FOLDER" in capsys.readouterr().err
        assert main([*command, "--teacher", str(teacher_folder)]) == 0
        assert capsys.readouterr().out == f"exported to {tmp_path / name}\n"
        assert main([*command, "--teacher", str(teacher_folder)]) == 2
        assert (
            f"{tmp_path / name} is there already: choose another name, or delete it"
            in capsys.readouterr().err
        )
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    out = str(tmp_path / "without")
    command = ["export", str(small_set.folder), "--to", "parquet", "--teacher", str(teacher_folder)]
    assert main([*command, "--out", out]) == 2
    assert capsys.readouterr().err == (
        "zskd: error: pyarrow is not installed: install it with pip install 'zskd[sets]'\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(EXPORTS)


def test_the_libraries_start_no_thread_when_they_are_imported() -> None:
    """Forks of tests/warm need it; see tests/conftest.py."""
    tasks = Path("/proc/self/task")  # not there on other systems
    names = [(task / "comm").read_text().strip() for task in tasks.glob("*")]
    assert "jemalloc_bg_thd" not in names


# -- the same formats as pictures from elsewhere


def png(value: int, size: int = 8) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((size, size), value, np.uint8)).save(file, "png")
    return file.getvalue()


def pixels_of(source: Path) -> set[bytes]:
    return {read_image(one, SHAPE).tobytes() for one in find_pictures(source)}


@pytest.mark.parametrize("name", ["parquet", "webdataset", "imagefolder"])
def test_an_exported_set_is_read_as_pictures(
    exported: Path, teacher: Classifier, tmp_path: Path, name: str
) -> None:
    lines = Lines()
    made = build_picture_set(teacher, exported / name, tmp_path / name, count=20, progress=lines)
    assert lines.lines[0].startswith(f"pictures: 20 of 50 in {exported / name} are kept")
    same = build_picture_set(teacher, exported / "imagefolder", tmp_path / "same", count=20)
    assert {one.numpy().tobytes() for one in made.all_images()} == {
        one.numpy().tobytes() for one in same.all_images()
    }
    assert made.manifest.data_sha256 == hash_pictures(exported / name)
    assert sorted(path.name for path in made.folder.iterdir()) == ["manifest.json", "shard-00000.safetensors"]


def test_one_file_is_read_as_a_folder_of_them(exported: Path) -> None:
    of_folder = pixels_of(exported / "imagefolder")
    for name, ending in (("parquet", "parquet"), ("webdataset", "tar")):
        files = sorted((exported / name).rglob(f"*.{ending}"))
        found = [pixels_of(path) for path in files]
        assert [len(find_pictures(path)) for path in files] == [30, 20]
        assert set.union(*found) == pixels_of(exported / name) == of_folder
        assert hash_pictures(files[0]) != hash_pictures(files[1])


def test_distill_takes_parquet(
    exported: Path, teacher_folder: Path, small_set: TransferSet, tmp_path: Path
) -> None:
    command = [
        "distill",
        str(teacher_folder),
        str(small_set.folder),
        "--distill.steps",
        "2",
        "--workers",
        "1",
    ]
    command += ["--distill.start", "random", "--no-estimate", "--quiet", "--out", str(tmp_path / "student")]
    assert main([*command, "--images", str(exported / "parquet")]) == 0
    assert len(TransferSet(tmp_path / "student" / "pictures" / "images")) == 50


def test_what_datasets_writes_is_read(tmp_path: Path) -> None:
    """Its pictures are in a column of another name here, and in two groups of rows."""
    pictures = [Image.fromarray(np.full((40, 30, 3), value, np.uint8)) for value in (10, 20, 30)]
    columns = {"photo": pictures, "label": [0, 1, 0]}
    made = datasets.Dataset.from_dict(columns).cast_column("photo", datasets.Image())
    made.to_parquet(str(tmp_path / "photos.parquet"), batch_size=2)
    found = find_pictures(tmp_path)
    assert [read_image(one, (3, 4, 4))[0, 0, 0] * 255 for one in found] == [10, 20, 30]
    assert str(found[1]) == f"{tmp_path / 'photos.parquet'} row 1"


def test_what_webdataset_writes_is_read_up_to_the_first_dot(tmp_path: Path) -> None:
    """A mask, a text and a hidden file are no pictures."""
    jpeg = io.BytesIO()
    Image.fromarray(np.full((8, 8), 77, np.uint8)).save(jpeg, "jpeg")
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        writer.write({"__key__": "in/0001", "jpg": jpeg.getvalue(), "mask.png": png(1), "txt": "no"})
        writer.write({"__key__": "in/0002", "PNG": png(2), "cls": 1})
    with tarfile.open(tmp_path / "a.tar", "a") as tar:
        add(tar, "in/._0003.png", png(3))
        link = tarfile.TarInfo("0004.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    found = find_pictures(tmp_path / "a.tar")
    assert [str(one) for one in found] == [f"{tmp_path}/a.tar/in/0001.jpg", f"{tmp_path}/a.tar/in/0002.PNG"]
    assert [round(read_image(one, (1, 8, 8))[0, 0, 0] * 255) for one in found] == [77, 2]


def add(tar: tarfile.TarFile, name: str, content: bytes, **facts: int) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for fact, value in facts.items():
        setattr(member, fact, value)
    tar.addfile(member, io.BytesIO(content))


def write_parquet(path: Path, **columns: list[object]) -> Path:
    parquet.write_table(pyarrow.table(columns), path, row_group_size=5)
    return path


def test_rows_are_read_in_any_order_and_no_second_time(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", img=[png(value) for value in range(23)])
    found = find_pictures(path, scratch=tmp_path)
    order = np.random.default_rng(0).permutation(23).tolist()
    assert [found[row].read() for row in order] == [png(row) for row in order]
    path.unlink()
    assert [found[row].read() for row in order] == [png(row) for row in order]
    assert list(tmp_path.iterdir()) == []


def test_broken_pictures_are_left_out_one_by_one(
    teacher: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zskd.data.packed.MOST_BYTES", 1000)
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n"
    contents = [png(1), None, b"no picture", postscript, bytes(1001), png(6)]
    write_parquet(tmp_path / "a.parquet", image=contents)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number, content in enumerate(contents):
            add(tar, f"\x1b[31m{number}.png", content or b"")
    for name, where in (("a.parquet", "a.parquet row {}"), ("a.tar", "a.tar/\\x1b[31m{}.png")):
        lines = Lines()
        made = build_picture_set(teacher, tmp_path / name, tmp_path / f"of {name}", progress=lines)
        assert len(made) == 2
        *broken, summary = lines.lines
        assert "2 of 2" in summary
        for row, line in zip((1, 2, 3, 4), broken, strict=True):
            assert line.startswith(f"warning: {tmp_path / where.format(row)} is no readable picture (")
            assert line.endswith("; it is left out")
            assert line.isprintable()
        assert "its format is none of PNG, JPEG, " in broken[2]
        assert "it is larger than 0 MiB" in broken[3]


def huge_header() -> bytes:
    """A tar file whose long name claims to have 2 GB."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2**31
    return header.tobuf(tarfile.GNU_FORMAT) + bytes(10_240)


def negative_size() -> bytes:
    """A tar file in which the next header would be the same again."""
    header = bytearray(tarfile.TarInfo("a.png").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + b"\xfe\x00"  # -512, in base 256
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header[:512]):06o}\0 ".encode()
    return bytes(header) + bytes(10_240)


def whole_tar(mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:  # type: ignore[call-overload]
        for number in range(3):
            add(tar, f"{number}.png", png(number))
    return file.getvalue()


def whole_parquet(**columns: list[object]) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.tar",
            whole_tar()[:700],
            "a.tar is no readable tar file (unexpected end of data): give one that",
        ),
        ("a.tar", whole_tar()[:1500], "is no readable tar file (a header is damaged)"),
        ("a.tar", whole_tar("w:gz"), "is no readable tar file"),
        ("a.tar", huge_header(), "is no readable tar file (a header is too large)"),
        ("a.tar", negative_size(), "is no readable tar file"),
        ("a.tar", whole_tar()[:1024] + b"x" * 2048, "is no readable tar file (a header is damaged)"),
        ("a.tar", bytes(10_240), "a.tar holds no picture: give files with some"),
        ("a.parquet", b"PAR1 no PAR1", "a.parquet is no readable Parquet file ("),
        ("a.parquet", whole_parquet(image=[png(1)])[:-40], "a.parquet is no readable Parquet file ("),
        ("a.parquet", whole_parquet(image=["a.png"]), "a.parquet has no column of pictures: give files with"),
        ("a.parquet", whole_parquet(a=[b"1"], b=[b"2"]), "several columns of bytes (a, b): name the one of"),
        (
            "a.zip",
            b"PK",
            "a.zip is no file of pictures: give a folder of them, a .tar file of WebDataset or a",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ZskdError) as told:
        find_pictures(tmp_path / name)
    assert message in str(told.value)
    assert str(told.value).isprintable()


def test_a_folder_of_several_kinds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(whole_tar())
    (tmp_path / "b.png").write_bytes(png(1))
    with pytest.raises(
        ZskdError, match="holds .tar files beside pictures: name the folder or file to be read"
    ):
        find_pictures(tmp_path)
    (tmp_path / "b.png").rename(tmp_path / "b.parquet")
    with pytest.raises(ZskdError, match="holds .parquet files beside .tar files: name the folder or file"):
        hash_pictures(tmp_path)


def test_labels_come_from_folders_only(exported: Path, teacher: Classifier, tmp_path: Path) -> None:
    with pytest.raises(ZskdError, match="for labels, give folders named after the teacher's classes"):
        build_picture_set(teacher, exported / "parquet", tmp_path / "set", labelled=True)


def test_more_pictures_than_a_list_should_hold_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zskd.data.packed.MOST_PICTURES", 2)
    (tmp_path / "a.tar").write_bytes(whole_tar())
    write_parquet(tmp_path / "a.parquet", image=[png(1)] * 3)
    for name in ("a.tar", "a.parquet"):
        with pytest.raises(ZskdError, match=f"{name} holds more than 2 pictures: give a part of them"):
            find_pictures(tmp_path / name)
