"""Files and folders as people have them: links, devices, hidden folders, turned pictures, odd names."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zskd.cli.outputs import must_be_absent
from zskd.core.errors import ZskdError
from zskd.core.files import whole_folder, write_text
from zskd.data.folder import picture_files, read_image
from zskd.data.pictures import find_pictures
from zskd.models.classifier import Classifier
from zskd.teacher.named.facts import Fact, Facts, Given, settle
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.export.imagefolder import export_imagefolder
from zskd.transfer_set.export.mat import export_mat


def picture(path: Path, *, turned: bool = False) -> Path:
    """Write a picture whose upper half is white, or the same stored sideways as a phone does."""
    pixels = np.zeros((8, 8), dtype=np.uint8)
    pixels[:4] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if turned:
        pixels, exif[0x0112] = np.rot90(pixels), 6
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, exif=exif)
    return path


def test_a_pipe_is_no_file_to_replace_and_a_link_stays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ZskdError, match="pipe is a device or a pipe: give a file"):
        write_text(tmp_path / "pipe", "text")
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "old.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "there" / "old.txt")
    write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "there" / "old.txt").read_text() == "new"


def test_a_folder_that_cannot_be_replaced_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    must_be_absent(tmp_path / "link")
    with whole_folder(tmp_path / "link") as made:
        (made / "file").write_text("text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "empty" / "file").read_text() == "text"
    monkeypatch.chdir(tmp_path)
    for place in (".", "/"):
        with pytest.raises(ZskdError, match="cannot be replaced by a new folder: name one inside of it"):
            must_be_absent(Path(place))


def test_a_name_that_is_no_text_is_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(ZskdError, match=r"no text in UTF-8 \(…caf\\udce9\): rename that file"):
        write_text(tmp_path / "card.json", os.fsdecode(b"caf\xe9"))
    assert not list(tmp_path.iterdir())


def test_links_to_folders_are_followed_and_hidden_folders_are_not_read(tmp_path: Path) -> None:
    far = picture(tmp_path / "far" / "1.png").parent
    near = picture(tmp_path / "pictures" / "dog" / "1.png")
    picture(tmp_path / "pictures" / ".thumbnails" / "1.png")
    (tmp_path / "pictures" / "cat").symlink_to(far)
    (far / "back").symlink_to(tmp_path / "pictures")  # without an end
    found = picture_files(tmp_path / "pictures")
    assert found == [tmp_path / "pictures" / "cat" / "1.png", near]
    assert find_pictures(tmp_path / "pictures") == found


def test_a_picture_that_is_stored_sideways_is_read_upright(tmp_path: Path) -> None:
    upright, turned = picture(tmp_path / "a.png"), picture(tmp_path / "b.jpg", turned=True)
    np.testing.assert_allclose(read_image(turned, (1, 8, 8)), read_image(upright, (1, 8, 8)), atol=0.02)


def test_names_of_a_library_are_told_apart_and_those_of_the_user_are_refused() -> None:
    facts = Facts(shape=Fact((3, 8, 8), "x"), class_names=Fact(("crane", "dog", "crane"), "x"))
    assert settle(facts, Given()).class_names == ("crane (0)", "dog", "crane (2)")
    with pytest.raises(ZskdError, match="--class-names has 'a' twice"):
        settle(facts, Given(class_names=("a", "b", "a")))


def test_a_class_named_train_is_no_split(teacher: Classifier, small_set: TransferSet, tmp_path: Path) -> None:
    folder = export_imagefolder(teacher, small_set, tmp_path / "pictures")
    head = (folder / "README.md").read_text(encoding="utf-8").split("---")[1]
    assert "path: '**'" in head
    assert "split: train" in head


def test_a_set_that_no_mat_file_can_hold_is_refused_at_once(
    small_set: TransferSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zskd.transfer_set.export.mat._LARGEST", len(small_set) * 4)
    with pytest.raises(ZskdError, match=r"more than the 4 GiB of a \.mat file: export them --to parquet"):
        export_mat(small_set, tmp_path / "set.mat")
    assert not list(tmp_path.iterdir())
