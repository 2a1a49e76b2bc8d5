"""Data, files and folders as they are met: what once was wrong silently, or refused for the wrong reason."""

import errno
import json
import os
import re
import struct
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from zskd.cli.main import main as run
from zskd.core.code import without_folders
from zskd.core.errors import ZskdError
from zskd.core.files import sha256_file
from zskd.core.remote import download, upload
from zskd.core.versions import versions
from zskd.data import download as downloading
from zskd.data.folder import files_below, read_image
from zskd.export.onnx import export_onnx
from zskd.models.chain import read_layers
from zskd.models.checkpoint import Card, Origin, save_checkpoint
from zskd.models.class_names import check_classes, misplaced, places
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.exported import ExportedNetwork
from zskd.models.factory import Layers
from zskd.run.verify import verified
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.spec import SetSpec
from zskd.transfer_set.manifest import MANIFEST

SPEC = InputSpec(shape=(1, 8, 8))


def classifier(names: tuple[str, ...] | None = None) -> Classifier:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, len(names or "abc")))
    return Classifier(network.eval(), spec=SPEC, class_names=names).freeze()


def checkpoint(folder: Path, names: tuple[str, ...] | None = None) -> Path:
    network = classifier(names)
    card = Card(architecture=Layers(layers=tuple(read_layers(network.module))), origin=Origin(how="trained"))
    return save_checkpoint(network, card, folder)


def told(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run a command that is refused, and return its one line."""
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(run(list(map(str, words))))
    error = capsys.readouterr().err
    assert ended.value.code == 2, error
    assert error.count("\n") == 1, error
    return error


# -- classes


def test_a_class_at_another_place_is_refused_though_others_differ() -> None:
    with pytest.raises(ZskdError, match="the data has cat at another place"):
        check_classes(("bird", "cat", "dog"), ("cat", "dog", "fish"))
    check_classes(("bird", "cat", "dog"), ("oiseau", "chat", "chien"))
    assert misplaced(("a", "b", "c"), ("a", "b", "x")) is None


def test_letters_written_in_two_ways_are_one() -> None:
    """A Mac unpacks file names in another form, which also sorts elsewhere."""
    word = "\N{LATIN SMALL LETTER E WITH ACUTE}clair"
    mac = unicodedata.normalize("NFD", word)
    assert misplaced((mac, "zebra"), ("zebra", word)) == mac
    assert misplaced((mac, "zebra"), (word, "zebra")) is None


def test_numbers_that_nobody_gave_are_no_names() -> None:
    assert misplaced(("0", "1", "2"), ("1", "2", "3")) is None
    numbers = tuple(map(str, range(11)))
    assert misplaced(numbers, tuple(sorted(numbers))) == "2"
    assert places(numbers, tuple(sorted(numbers))) is None, "whose order this is, nobody can tell"
    assert places(tuple(sorted(numbers)), numbers) == (0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 2)
    with pytest.raises(ZskdError, match="--class-names of zskd run"):
        check_classes(numbers, tuple(sorted(numbers)))


# -- pictures


def sideways(path: Path, orientation: int, wrong: bool = True) -> Path:
    """Save a picture with an orientation, and with a tag whose type is not the one of its meaning."""
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    tags = [(0x0112, 3, 1, struct.pack("<HH", orientation, 0))]
    if wrong:  # compression as text
        tags.append((0x011C, 2, 4, b"abc\0"))
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags))
    for tag, kind, count, value in sorted(tags):
        exif += struct.pack("<HHI", tag, kind, count) + value
    Image.fromarray(pixels).save(path, exif=exif + struct.pack("<I", 0))
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright_whatever_else_is_beside_them(orientation: int, tmp_path: Path) -> None:
    from PIL import ImageOps

    plain = sideways(tmp_path / "plain.png", orientation, wrong=False)
    with Image.open(plain) as picture:
        upright = ImageOps.exif_transpose(picture)
        expected = np.asarray(upright, dtype=np.float32) / 255
    shape = (1, *expected.shape)
    odd = sideways(tmp_path / "odd.png", orientation)
    for path in (plain, odd):
        np.testing.assert_array_equal(read_image(path, shape)[0], expected)


def test_a_folder_that_cannot_be_listed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").touch()

    def refused(_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

    assert files_below(tmp_path, (".png",)) == [tmp_path / "a.png"]
    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(ZskdError, match="cannot read .*Permission denied"):
        files_below(tmp_path, (".png",))


def test_few_training_images_do_not_matter_for_a_test(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part, each in (("train", 1), ("test", 3)):
        for name in "abc":
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            for number in range(each):
                Image.new("L", (8, 8), 30 * number).save(folder / f"{number}.png")
    student = checkpoint(tmp_path / "student", ("a", "b", "c"))
    place = ("--data.name", "folder", "--data-dir", str(tmp_path / "data"))
    assert run(["evaluate", str(student), *place]) == 0
    assert "of 9" in capsys.readouterr().out
    error = told(capsys, "teacher", "train", *place, "--out", tmp_path / "teacher")
    assert "--data.validation 0" in error


def test_a_folder_of_no_data_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    student = checkpoint(tmp_path / "student")
    assert "--data.name" in told(capsys, "evaluate", student, "--data-dir", tmp_path)


# -- sets and checkpoints


def test_a_shard_is_not_replaced_by_one_of_other_versions(tmp_path: Path) -> None:
    spec = SetSpec(method="noise", count=4)
    build_transfer_set(classifier(), spec, tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    manifest["versions"]["torch"] = "1.0"
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    assert len(build_transfer_set(classifier(), spec, tmp_path)) == 4  # nothing is missing
    (tmp_path / "shard-00000.safetensors").unlink()
    with pytest.raises(ZskdError, match=re.escape(f"versions.torch (1.0 there, {versions()['torch']} now)")):
        build_transfer_set(classifier(), spec, tmp_path)


def test_an_onnx_file_belongs_to_its_checkpoint(tmp_path: Path) -> None:
    export_onnx(classifier(), tmp_path / "net.onnx")
    assert run(["teacher", "import", str(tmp_path / "net.onnx"), "--out", str(tmp_path / "t")]) == 0
    assert len(verified(tmp_path / "t")) == 1
    with (tmp_path / "t" / "network.onnx").open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(ZskdError, match=r"network.onnx is not the file of its card"):
        verified(tmp_path / "t")
    (tmp_path / "t" / "network.onnx").unlink()
    with pytest.raises(ZskdError, match=r"network.onnx is missing"):
        verified(tmp_path / "t")


def test_a_folder_that_was_written_by_its_address_can_be_written_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.txt").write_text("a")
    upload(tmp_path / "set", f"file://{tmp_path}/first")
    upload(tmp_path / "first", f"file://{tmp_path}/second")
    assert (download(f"file://{tmp_path}/second") / "a.txt").read_text() == "a"


# -- exported networks


def relabelled(source: Path, target: Path, **changes: object) -> Path:
    """Write an exported file whose description says something else."""
    import onnx

    model = onnx.load(source)
    for one in model.metadata_props:
        if one.key == "zskd":
            one.value = json.dumps(json.loads(one.value) | changes)
    onnx.save(model, target)
    return target


def test_exported_files_that_are_not_what_they_say_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "net.onnx"
    export_onnx(classifier(("a", "b", "c")), source)
    ExportedNetwork(source)
    picture = tmp_path / "a.png"
    Image.new("L", (8, 8)).save(picture)
    for number, change in enumerate(({"class_names": ["a", "b"]}, {"shape": [1, 9, 9]})):
        wrong = relabelled(source, tmp_path / f"{number}.onnx", **change)
        assert "is not what it says of itself" in told(capsys, "predict", wrong, picture)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_a_pipe_is_no_exported_network(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.onnx")
    with pytest.raises(ZskdError, match="pipe"):
        ExportedNetwork(tmp_path / "a.onnx")


def test_cards_name_no_folder_of_the_machine() -> None:
    assert without_folders(
        {"method": "/home/Jane Doe/my code/m.py:Method(a=b/c)", "student": "/a b/run"}
    ) == {
        "method": "m.py:Method(a=b/c)",
        "student": "run",
    }
    assert without_folders(["zskd", 3, None, "narrow:0.5"]) == ["zskd", 3, None, "narrow:0.5"]


# -- downloads


def test_a_whole_cache_may_be_one_that_only_others_write_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZSKD_CACHE", str(tmp_path))
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    files = {}
    for name in downloading._SHA256["mnist"]:
        (folder / name).write_bytes(name.encode())
        files[name] = sha256_file(folder / name)
    monkeypatch.setitem(downloading._SHA256, "mnist", files)
    monkeypatch.setattr(downloading, "make_folder", lambda _: pytest.fail("nothing is to be written"))
    assert downloading.idx_folder("mnist", None) == folder


def test_a_full_disk_is_no_lack_of_internet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pooch

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("ZSKD_CACHE", str(tmp_path))
    monkeypatch.setattr(pooch, "retrieve", full)
    with pytest.raises(ZskdError, match="cannot write to .*No space left"):
        downloading.idx_folder("mnist", None)
