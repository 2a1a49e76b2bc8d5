"""Files that are whole or absent, their hashes and the lock, with real processes that are killed."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from limits import LIMIT
from zskd.core.errors import ZskdError
from zskd.core.files import (
    first_difference,
    folder_lock,
    make_folder,
    remove_file,
    sha256_file,
    sha256_json,
    whole_file,
    whole_folder,
    write_json,
    write_text,
)
from zskd.core.reading import read_json


def names(folder: Path) -> list[str]:
    return sorted(child.name for child in folder.iterdir())


def process(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )


def test_a_file_appears_only_when_its_writer_is_done(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "a.txt"
    with whole_file(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.parent == path.parent / ".a.txt.zskd-part"
        assert temporary.parent.stat().st_mode & 0o077 == 0, "others can see what is not whole"
        assert temporary.suffix == path.suffix
    assert path.read_text() == "whole"
    assert names(path.parent) == ["a.txt"]


def test_a_reader_keeps_the_old_file_while_the_new_one_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with path.open() as reader, whole_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        inode = temporary.stat().st_ino
        assert reader.read() == "old"
    assert path.read_text() == "new"
    assert path.stat().st_ino == inode, "the file was copied and not renamed"


@pytest.mark.parametrize("failure", [ValueError("no"), KeyboardInterrupt(), ZskdError("no")])
def test_the_old_file_survives_a_failing_writer_and_nothing_is_left_behind(
    tmp_path: Path, failure: BaseException
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write() -> None:
        with whole_file(path) as temporary:
            temporary.write_text("half")
            raise failure

    with pytest.raises(type(failure)):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


KILLED = (
    "import os, signal, sys; from pathlib import Path; from zskd.core.files import whole_file\n"
    "with whole_file(Path(sys.argv[1])) as temporary:\n"
    "    temporary.write_text('half'); temporary.with_name('.tmpAbC123').write_text('of safetensors')\n"
    "    os.kill(os.getpid(), signal.SIGKILL)\n"
)


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A file of which a writer was killed."""
    path = tmp_path / "a.txt"
    path.write_text("old")
    with process(KILLED, path) as writer:
        assert writer.wait(LIMIT) == -signal.SIGKILL
    assert names(tmp_path) == [".a.txt.zskd-part", "a.txt"]
    assert len(names(tmp_path / ".a.txt.zskd-part")) == 2
    return path


def test_the_old_file_survives_a_killed_writer_and_the_next_one_cleans_up(killed: Path) -> None:
    assert killed.read_text() == "old"
    write_text(killed.with_name("b.txt"), "another file")
    assert names(killed.parent) == [".a.txt.zskd-part", "a.txt", "b.txt"]
    write_text(killed, "new")
    assert killed.read_text() == "new"
    assert names(killed.parent) == ["a.txt", "b.txt"]


def test_a_file_is_deleted_with_what_a_killed_writer_left(killed: Path) -> None:
    remove_file(killed)
    assert names(killed.parent) == []
    remove_file(killed)


def a_file(place: Path) -> None:
    place.write_text("mine")


def a_link(place: Path) -> None:
    (place.parent / "elsewhere").mkdir()
    (place.parent / "elsewhere" / ".tmpabcdef").write_text("mine")
    place.symlink_to("elsewhere")


def a_broken_link(place: Path) -> None:
    place.symlink_to("nowhere")


def a_folder_with_a_note(place: Path) -> None:
    place.mkdir()
    (place / ".tmpabcdef").write_text("of a writer, perhaps")
    (place / "note").write_text("mine")


def a_folder_with_a_folder(place: Path) -> None:
    (place / ".tmpabcdef").mkdir(parents=True)


@pytest.mark.parametrize(
    "put",
    [a_file, a_link, a_broken_link, a_folder_with_a_note, a_folder_with_a_folder],
    ids=lambda f: f.__name__,
)
def test_what_is_not_of_a_killed_writer_is_named_and_left_alone(
    tmp_path: Path, put: Callable[[Path], None]
) -> None:
    put(tmp_path / ".a.txt.zskd-part")
    before = sorted(tmp_path.rglob("*"))
    for do in (lambda: write_text(tmp_path / "a.txt", "x"), lambda: remove_file(tmp_path / "a.txt")):
        with pytest.raises(ZskdError, match=r"\.a\.txt\.zskd-part.* is in the way") as caught:
            do()
        assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_name_that_is_a_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (".", ".."):
        with pytest.raises(ZskdError, match="cannot write"):
            write_text(Path(name), "x")
    assert names(tmp_path) == []


def test_a_disk_error_while_writing_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with (
        pytest.raises(ZskdError, match=r"^cannot write .*a\.txt: No space left on device$"),
        whole_file(path),
    ):
        raise OSError(28, os.strerror(28))
    assert names(tmp_path) == []


def test_rights_of_a_new_file_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "x")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ZskdError, match=r"cannot create the folder .*file/sub: Not a directory"):
        write_text(tmp_path / "file" / "sub" / "a.txt", "x")
    with pytest.raises(ZskdError, match=r"cannot create the folder .*file: File exists"):
        make_folder(tmp_path / "file")
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(ZskdError, match=r"cannot write .*folder: "):
        write_text(tmp_path / "folder", "x")
    assert names(tmp_path) == ["file", "folder"]


def test_json_comes_back_in_order_and_readable(tmp_path: Path) -> None:
    value = {"b": [1, 0.1], "a": {"ß": None}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json", "a test", "look") == value
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text.index('"b"') < text.index('"a"')
    assert "ß" in text
    assert text.endswith("}\n")


def test_numbers_that_json_does_not_know_are_not_written(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"loss": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert read_json(tmp_path / "a.json", "a test", "look") == {"loss": 1.0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is missing: it should be the card"),
        (b"", "the card, is damaged"),
        (b'{"a": ', "the card, is damaged"),
        (b'{"a": "\xff"}', "the card, is damaged"),
        (b"[1, 2]", "does not hold a JSON object"),
        (b"null", "does not hold a JSON object"),
    ],
)
def test_json_that_cannot_be_used_is_named_with_its_role(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "card.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ZskdError, match=rf"card\.json.*{message}") as caught:
        read_json(path, "the card", "make it again")
    assert "\n" not in str(caught.value)


def test_hashes_are_those_of_the_bytes(tmp_path: Path) -> None:
    for content in (b"", b"abc", bytes(range(256)) * 5000):
        (tmp_path / "a").write_bytes(content)
        assert sha256_file(tmp_path / "a") == hashlib.sha256(content).hexdigest()
    with pytest.raises(ZskdError, match="there is no file .*nowhere"):
        sha256_file(tmp_path / "nowhere")


def test_the_hash_of_a_json_value_ignores_the_order_of_keys_and_nothing_else() -> None:
    one = sha256_json({"a": 1, "b": {"c": [1, 2], "d": None}})
    assert one == sha256_json({"b": {"d": None, "c": [1, 2]}, "a": 1})
    assert one == hashlib.sha256(b'{"a": 1, "b": {"c": [1, 2], "d": null}}').hexdigest()
    others = [{"a": 2, "b": {}}, {"a": 1, "b": {"c": [2, 1], "d": None}}, {"a": 1}]
    assert len({one, *map(sha256_json, others)}) == 4


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, "spec.b (2 there, 3 now)"),
        ({"a": {"b": {"c": 0.1}}}, {"a": {"b": {"c": 0.2}}}, "spec.a.b.c (0.1 there, 0.2 now)"),
        ({"a": 1}, {"a": 1, "b": 2}, "spec.b (None there, 2 now)"),
        ({"a": None}, {"a": {"b": 1}}, "spec.a"),
        (3, 4, "spec (3 there, 4 now)"),
        ("f" * 64, "0" * 64, "spec"),
        ({"a": [1, 2]}, {"a": [1, 3]}, "spec.a ([1, 2] there, [1, 3] now)"),
        ({"a": 1, "gone": 2}, {"a": 1}, "spec.gone (2 there, None now)"),
        ({"a": {"b": 1}}, {"a": None}, "spec.a"),
    ],
)
def test_the_first_difference_is_named(old: object, new: object, expected: str) -> None:
    assert first_difference(old, new, "spec") == expected


def test_at_the_top_the_first_difference_has_no_leading_dot() -> None:
    assert first_difference({"seed": 0}, {"seed": 1}, "") == "seed (0 there, 1 now)"


HOLD = (
    "import sys, time; from pathlib import Path; from zskd.core.files import folder_lock\n"
    "with folder_lock(Path(sys.argv[1])):\n"
    "    print('held', flush=True); time.sleep(10**6)\n"
)
TRY = (
    "import sys; from pathlib import Path\n"
    "from zskd.core.files import folder_lock; from zskd.core.errors import ZskdError\n"
    "try:\n"
    "    with folder_lock(Path(sys.argv[1])): print('held')\n"
    "except ZskdError as error: print(error)\n"
)


def test_a_second_process_is_refused_and_told_why(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with folder_lock(folder), process(TRY, folder) as second:
        said = second.communicate(timeout=LIMIT)[0].strip()
    assert said.startswith(f"{folder} is in use by another zskd process")
    with process(TRY, folder) as third:
        assert third.communicate(timeout=LIMIT)[0].strip() == "held"


def test_a_second_writer_of_a_folder_is_refused_and_takes_nothing_from_the_first(tmp_path: Path) -> None:
    code = TRY.replace("folder_lock", "whole_folder")
    folder = tmp_path / "made"
    with whole_folder(folder) as temporary:
        (temporary / "one").write_text("1")
        with process(code, folder) as second:
            said = second.communicate(timeout=LIMIT)[0].strip()
        (temporary / "two").write_text("2")
    assert said.startswith(f"{folder} is in use by another zskd process")
    assert names(folder) == ["one", "two"]
    assert names(tmp_path) == ["made"]


@pytest.mark.parametrize("address", ["s3://bucket/run", "file:///tmp/run", "memory://b/x"])
def test_no_folder_is_named_after_the_protocol_of_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.chdir(tmp_path)
    inside = Path(address)
    for write in (lambda: make_folder(inside), lambda: write_text(inside / "a.txt", "x")):
        with pytest.raises(ZskdError, match="is no path of this machine: only zskd synthesize"):
            write()
    with pytest.raises(ZskdError, match="is no path of this machine"), whole_folder(inside):
        pass
    assert names(tmp_path) == []
    make_folder(Path("a:b/c:"))  # a name like any other
    assert names(tmp_path) == ["a:b"]


def test_a_killed_process_gives_the_lock_back(tmp_path: Path) -> None:
    with process(HOLD, tmp_path) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "held"
        with pytest.raises(ZskdError), folder_lock(tmp_path):
            pytest.fail("two processes hold one folder")
        holder.send_signal(signal.SIGKILL)
        holder.wait(LIMIT)
    with folder_lock(tmp_path):
        write_json(tmp_path / "mine.json", {})
    assert json.loads((tmp_path / "mine.json").read_text()) == {}


def test_a_lock_deletes_nothing_in_its_folder_and_below(tmp_path: Path) -> None:
    mine = [
        ".tmpabcdef",
        ".zskd-notes",
        "deep/er/.tmpabcdef",
        "deep/.zskd-notes",
        ".zskd-x/a",
        "deep/.tmp123456/a",
    ]
    for name in mine:
        write_text(tmp_path / name, "mine")
    with folder_lock(tmp_path):
        pass
    assert [name for name in mine if not (tmp_path / name).is_file()] == []


def test_a_lock_of_the_parent_folder_leaves_a_writer_below_alone(tmp_path: Path) -> None:
    with folder_lock(tmp_path / "child"), whole_file(tmp_path / "child" / "a.txt") as temporary:
        temporary.write_text("whole")
        with process(TRY, tmp_path) as other:
            assert other.communicate(timeout=LIMIT)[0].strip() == "held"
    assert (tmp_path / "child" / "a.txt").read_text() == "whole"


def test_a_failing_body_gives_the_lock_back(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), folder_lock(tmp_path):
        _ = 1 / 0
    with folder_lock(tmp_path), process(TRY, tmp_path) as second:
        assert second.communicate(timeout=LIMIT)[0].strip() != "held"


def test_a_folder_that_cannot_be_made_cannot_be_locked(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ZskdError, match="cannot create the folder"), folder_lock(tmp_path / "file"):
        pytest.fail("a file was locked as a folder")
