"""Artefacts at addresses, in the file systems of fsspec itself: whole or absent, and with checked hashes."""

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import zskd
from conftest import Stopped
from zskd.cli.main import main
from zskd.core.errors import ZskdError
from zskd.core.files import cache_folder, sha256_file
from zskd.core.remote import LIST, download, upload, uploaded
from zskd.transfer_set.dataset import TransferSet

SYNTHESIS = ("--count", "20", "--synthesis.steps", "1", "--synthesis.shard-size", "10", "--quiet")
TRAINING = ("--distill.steps", "3", "--distill.start", "random", "--no-estimate", "--quiet")


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache and a memory file system of the test's own."""
    monkeypatch.setenv("ZSKD_CACHE", str(tmp_path / "cache"))
    MemoryFileSystem.store.clear()
    yield
    MemoryFileSystem.store.clear()


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def failing(monkeypatch: pytest.MonkeyPatch, method: str, after: int) -> None:
    """Let the store fail at one of its calls, as a connection does."""
    usual, calls = getattr(MemoryFileSystem, method), iter(range(1000))

    def fail(self: MemoryFileSystem, *args: object, **more: object) -> object:
        if next(calls) >= after:
            raise OSError("the connection is lost")
        return usual(self, *args, **more)

    monkeypatch.setattr(MemoryFileSystem, method, fail)


def test_a_student_is_made_and_measured_at_addresses_with_the_bytes_of_folders(
    teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = tmp_path / "here"
    upload(teacher_folder, "memory://bucket/teacher")
    synthesise = ["synthesize", "memory://bucket/teacher", *SYNTHESIS, "--out", "memory://bucket/set"]
    with monkeypatch.context() as broken:
        failing(broken, "put_file", 1)
        assert main(synthesise) == 2
    assert "cannot write memory://bucket/set (the connection is lost)" in capsys.readouterr().err
    with monkeypatch.context() as nothing_made_again:
        nothing_made_again.setattr("zskd.synthesis.build.make_shards", None)
        assert main(synthesise) == 0
    assert main(["synthesize", str(teacher_folder), *SYNTHESIS, "--out", str(here / "set")]) == 0
    places = (str(teacher_folder), str(here / "set")), ("memory://bucket/teacher", "memory://bucket/set")
    for made_of, student in zip(places, (str(here / "student"), "memory://bucket/student"), strict=True):
        assert main(["distill", *made_of, *TRAINING, "--out", student]) == 0
    told = capsys.readouterr()
    assert "student in memory://bucket/student" in told.out
    for name in ("set", "student"):
        assert contents(download(f"memory://bucket/{name}")) == contents(here / name)
    assert not list((tmp_path / "cache" / "unfinished").glob("*/made"))
    given = ("--teacher", "memory://bucket/teacher", "--set", "memory://bucket/set", "--no-estimate")
    assert main(["evaluate", "memory://bucket/student", *given]) == 0
    assert "agreement with the teacher on memory://bucket/set" in capsys.readouterr().out
    assert main(synthesise) == 2
    assert "memory://bucket/set is finished already" in capsys.readouterr().err


@pytest.mark.parametrize("protocol", ["file", "local", "memory"])
def test_an_artefact_comes_back_as_it_was(small_set: TransferSet, tmp_path: Path, protocol: str) -> None:
    address = f"{protocol}://{tmp_path}/there/set"
    (tmp_path / "elsewhere").write_text("private")
    source = Path(shutil.copytree(small_set.folder, tmp_path / "source"))
    (source / "link").symlink_to(tmp_path / "elsewhere")
    (source / ".hidden").write_text("mine")
    (source / "below").mkdir()
    (source / "below" / "names ä.txt").write_text("")
    upload(source, address)
    upload(source, address)  # the same again
    found = download(address)
    assert contents(found) == {name: sha for name, sha in contents(source).items() if name != "link"}
    assert TransferSet(found).fingerprint() == small_set.fingerprint()
    store, root = fsspec.core.url_to_fs(address)
    assert {name.rpartition("/")[2] for name in store.find(root)} >= {LIST, "manifest.json"}
    assert not store.exists(f"{root}/{LIST}.part")
    for one in store.find(root):
        if not one.endswith(LIST):
            store.rm_file(one)
    assert download(address) == found, "read again from the cache"


@pytest.mark.parametrize(("method", "after"), [("put_file", 2), ("mv", 0), ("pipe_file", 0)])
def test_an_upload_that_fails_leaves_nothing_to_be_read_and_can_be_repeated(
    monkeypatch: pytest.MonkeyPatch, method: str, after: int
) -> None:
    def make(key: str) -> list[str]:
        with uploaded("memory://b/x", key) as folder:
            found = sorted(path.name for path in folder.iterdir())
            for name in ("card.json", "curve.json", "model.safetensors"):
                (folder / name).write_text(name)
        return found

    with monkeypatch.context() as broken:
        failing(broken, method, after)
        with pytest.raises(ZskdError, match=r"cannot write memory://b/x \(the connection is lost\)"):
            make("one")
    with pytest.raises(ZskdError, match="no whole artefact at memory://b/x"):
        download("memory://b/x")
    assert len(make("one")) == 3, "what was made is there"
    assert len(contents(download("memory://b/x"))) == 3
    MemoryFileSystem().rm("/b/x", recursive=True)
    assert make("one") == [], "it was deleted when it had been written"


def test_what_was_not_uploaded_is_continued_by_the_same_settings_alone() -> None:
    for key in ("one", "two"):
        with suppress(Stopped), uploaded("memory://b/x", key) as folder:
            (folder / key).write_text(key)
            raise Stopped
    with uploaded("memory://b/x", "one") as folder:
        assert [path.name for path in folder.iterdir()] == ["one"]
        with pytest.raises(ZskdError, match="in use by another"), uploaded("memory://b/x", "one"):
            pass


def test_an_artefact_is_never_replaced(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "card.json").write_text(name)
    upload(tmp_path / "one", "memory://b/x")
    with pytest.raises(ZskdError, match="memory://b/x is finished already"):
        upload(tmp_path / "two", "memory://b/x")
    assert (download("memory://b/x") / "card.json").read_text() == "one"
    with pytest.raises(ZskdError, match="give a whole folder"):
        upload(tmp_path / "nothing", "memory://b/y")


@pytest.mark.parametrize("bytes_", [b"oNe", b"", b"longer"])
def test_damaged_files_are_refused_and_not_kept(tmp_path: Path, bytes_: bytes) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "card.json").write_text("one")
    upload(tmp_path / "made", "memory://b/x")
    MemoryFileSystem().pipe_file("/b/x/card.json", bytes_)
    for _ in range(2):
        with pytest.raises(ZskdError, match=r"memory://b/x/card\.json is not the file that was written"):
            download("memory://b/x")
    assert [path.suffix for path in (cache_folder() / "remote").iterdir()] == [".lock"]
    MemoryFileSystem().rm_file("/b/x/card.json")
    with pytest.raises(ZskdError, match=r"cannot read memory://b/x/card\.json"):
        download("memory://b/x")


def test_a_download_goes_on_behind_the_files_that_it_has_read(tmp_path: Path) -> None:
    for name in ("a/one", "a/two", "three"):
        (tmp_path / "made" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "made" / name).write_text(name)
    upload(tmp_path / "made", "memory://b/x")
    MemoryFileSystem().pipe_file("/b/x/three", b"THREE")
    with pytest.raises(ZskdError, match="three is not the file"):
        download("memory://b/x")
    MemoryFileSystem().pipe_file("/b/x/three", b"three")
    MemoryFileSystem().rm("/b/x/a", recursive=True)  # these are not read again
    found = download("memory://b/x")
    assert [(found / name).read_text() for name in ("a/one", "a/two", "three")] == ["a/one", "a/two", "three"]
    assert not list((cache_folder() / "remote").glob("*.part"))


ENTRY = {"size": 1, "sha256": "0" * 64}
LISTS = {
    "none": b"",
    "half": b'{"format": "zskd-files/1", "fil',
    "another format": {"format": "zskd-files/2", "files": {"a": ENTRY}},
    "no files": {"format": "zskd-files/1", "files": {}},
    "no size": {"format": "zskd-files/1", "files": {"a": {"sha256": "0" * 64}}},
    **{
        f"the name {name!r}": {"format": "zskd-files/1", "files": {name: ENTRY}}
        for name in ("../a", "/a", "a/../b", "a//b", ".lock", "a\\b", "c:a", "s3://b/a", "", LIST, "a\nb")
    },
}


@pytest.mark.parametrize("kind", list(LISTS))
def test_a_list_that_is_damaged_or_leads_elsewhere_is_refused(kind: str) -> None:
    value = LISTS[kind]
    MemoryFileSystem().pipe_file(
        f"/b/x/{LIST}", value if isinstance(value, bytes) else json.dumps(value).encode()
    )
    with pytest.raises(ZskdError, match=rf"^memory://b/x/{LIST}.* is damaged") as told:
        download("memory://b/x")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "address",
    [
        "htps://a/b",
        "simplecache::memory://a",
        "memory://a::s3://b",
        "memory://*",
        "memory://",
        "S3://a",
        "://a",
    ],
)
def test_what_is_no_address_is_told_with_the_protocols(address: str) -> None:
    for use in (download, lambda one: upload(Path(), one)):
        with pytest.raises(ZskdError, match=r"is no address of files: give s3://bucket/name"):
            use(address)


def test_only_what_is_typed_can_be_an_address() -> None:
    package = Path(zskd.__file__).parent
    users = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "core.remote" in path.read_text(encoding="utf-8")
    }
    assert users == {"cli/places.py"}, "a reader of files must not fetch what they name"


def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    assert main(["evaluate", "s3://bucket/student"]) == 2
    assert "s3:// needs packages that are missing: pip install 'zskd[remote]' s3fs" in capsys.readouterr().err
