"""A power cut at every moment of a writer leaves whole artefacts or none, and what was finished stays."""

import errno
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kills.disk import NAMES, Disk, watched
from zskd.core.errors import ZskdError
from zskd.core.files import make_folder, remove_file, sha256_file, whole_folder, write_text
from zskd.models.checkpoint import CARD, Card, load_checkpoint, save_checkpoint
from zskd.models.classifier import Classifier
from zskd.models.factory import describe
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.spec import SetSpec
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.export.imagefolder import export_imagefolder
from zskd.transfer_set.manifest import MANIFEST, read_manifest

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc")
Files = dict[str, bytes]


def files(folder: Path) -> Files:
    """All files that have their name; the private folders of writers hold others."""
    found = [path for path in folder.rglob("*") if path.is_file() and "zskd-part" not in str(path)]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def cut_everywhere(root: Path, write: Callable[[], object], look: Callable[[Path], None]) -> int:
    """Look at what a power cut leaves at each moment of a writer, and return the number of moments.

    Behind the last one, all that was written must be left.
    """
    moments = itertools.count()
    root.mkdir(exist_ok=True)

    def cut(disk: Disk) -> None:
        number = next(moments)
        for names in NAMES:
            left = root.with_name(f"left-{number}-{names}")
            disk.leave(names, left)
            look(left)

    with watched(root, cut) as disk:
        write()
    disk.leave("flushed", root.with_name("left"))
    assert files(root.with_name("left")) == files(root) != {}
    return next(moments)


def test_the_simulation_finds_a_file_that_was_renamed_and_not_flushed(tmp_path: Path) -> None:
    seen: list[Files] = []

    def write() -> None:
        (tmp_path / "root" / "new").write_text("new")
        (tmp_path / "root" / "new").replace(tmp_path / "root" / "a")
        write_text(tmp_path / "root" / "b", "whole")

    with pytest.raises(AssertionError):
        cut_everywhere(tmp_path / "root", write, lambda left: seen.append(files(left)))
    assert {"a": b""} in seen
    assert {"a": b"new"} not in seen


def test_a_file_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a").write_text("old")
    seen: list[Files] = []
    cut_everywhere(
        tmp_path / "root",
        lambda: write_text(tmp_path / "root" / "a", "new"),
        lambda left: seen.append(files(left)),
    )
    assert [file for file in seen if file not in ({"a": b"old"}, {"a": b"new"})] == []
    assert {"a": b"old"} in seen


def test_new_folders_stay_with_what_is_in_them(tmp_path: Path) -> None:
    cut_everywhere(tmp_path / "root", lambda: write_text(tmp_path / "root/deep/er/a", "x"), lambda left: None)


def test_a_checkpoint_with_its_card_can_be_opened(teacher: Classifier, tmp_path: Path) -> None:
    card = Card(architecture=describe("lenet5", shape=teacher.spec.shape, classes=10))
    opened = 0

    def look(left: Path) -> None:
        nonlocal opened
        if (left / "new" / CARD).exists():
            found, _ = load_checkpoint(left / "new")
            opened += found.fingerprint() == teacher.fingerprint()

    cut_everywhere(tmp_path / "root", lambda: save_checkpoint(teacher, card, tmp_path / "root/new"), look)
    assert opened


def test_every_shard_of_a_manifest_is_whole(teacher: Classifier, small_spec: SetSpec, tmp_path: Path) -> None:
    listed: set[int] = set()

    def look(left: Path) -> None:
        if (left / "set" / MANIFEST).exists():
            shards = read_manifest(left / "set").shards
            assert [sha256_file(left / "set" / one.file) for one in shards] == [one.sha256 for one in shards]
            listed.add(len(shards))

    cut_everywhere(
        tmp_path / "root", lambda: build_transfer_set(teacher, small_spec, tmp_path / "root/set"), look
    )
    assert listed == {1, 2}


def test_a_deleted_file_does_not_come_back(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    for name in ("a", "b"):
        (tmp_path / "root" / name).write_text(name)
    cut_everywhere(tmp_path / "root", lambda: remove_file(tmp_path / "root" / "a"), lambda left: None)
    assert files(tmp_path / "left") == {"b": b"b"}


def several_files(folder: Path) -> None:
    with whole_folder(folder) as temporary:
        (temporary / "a").write_text("a")
        (temporary / "below").mkdir()
        (temporary / "below" / "b").write_text("b")


def test_an_exported_folder_is_whole_or_absent(
    teacher: Classifier, small_set: TransferSet, tmp_path: Path
) -> None:
    three = TransferSet(small_set.folder, first=3)
    writers = [several_files, lambda folder: export_imagefolder(teacher, three, folder)]
    for number, write in enumerate(writers):
        root = tmp_path / str(number) / "root"
        root.parent.mkdir()
        seen: list[Files] = []
        moments = cut_everywhere(
            root,
            lambda write=write, root=root: write(root / "out"),  # type: ignore[misc]
            lambda left, seen=seen: seen.append(files(left)),  # type: ignore[misc]
        )
        assert moments > 6
        assert [found for found in seen if found not in ({}, files(root))] == []


@pytest.mark.parametrize(
    ("number", "told"), [(errno.EINVAL, False), (errno.EACCES, False), (errno.EIO, True)]
)
def test_folders_that_cannot_be_flushed_are_no_error_and_a_broken_disk_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, told: bool
) -> None:
    flush = os.fsync

    def fsync(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").is_dir():
            raise OSError(number, os.strerror(number))
        flush(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    if told:
        with pytest.raises(ZskdError, match="cannot create the folder .*: Input/output error"):
            make_folder(tmp_path / "new")
    else:
        several_files(tmp_path / "new")
        write_text(tmp_path / "new" / "c", "c")
        assert files(tmp_path / "new") == {"a": b"a", "below/b": b"b", "c": b"c"}
