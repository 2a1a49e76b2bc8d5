"""Artefacts at addresses such as `s3://bucket/set`, by fsspec: a folder of files that is whole or absent.

A store of objects cannot rename a folder. So the list of an artefact's files, with sizes and hashes, is
written last: without a list nothing is there, and a file that does not fit it is refused. An artefact is
never replaced, so that the files of two are never mixed.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from filelock import FileLock
from pydantic import AfterValidator, Field

from zskd.core.artefact import Artefact, Count, JsonObject, Name, Sha256, parse
from zskd.core.errors import ZskdError, readable_errors
from zskd.core.files import cache_folder, folder_lock, make_folder, sha256_file, whole_file
from zskd.core.progress import Progress, readable_bytes
from zskd.core.reading import LARGEST_TEXT, one_line_errors, parse_json

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

LIST = "zskd-files.json"
"""The list of an artefact's files, beside them."""
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs"}
"""Package that fsspec needs for a protocol."""
PROTOCOLS = (*_PACKAGES, "file", "local", "memory")
_AGAIN, _RIGHTS = "write it again to another address", "look at the address and your rights there"
_ADDRESS = re.compile(r"([a-z0-9]+)://(?!.*::)[^*?\[\]]*[^*?\[\]/]/*")
"""Protocol and path, without what stands for several names and without fsspec's chains of protocols."""


def _inside(name: str) -> str:
    parts = name.split("/")
    if name == LIST or any(not part or part.startswith(".") or set(part) & set("\\:") for part in parts):
        raise ValueError(f"{name!r} is no name of a file below a folder")
    return name


class StoredFile(Artefact):
    """One file of an artefact."""

    size: Count
    """Bytes."""
    sha256: Sha256


class Stored(Artefact):
    """The list of an artefact's files."""

    format: Literal["zskd-files/1"]
    files: Annotated[dict[Annotated[Name, AfterValidator(_inside)], StoredFile], Field(min_length=1)]
    """By name, with slashes between folders."""


def is_address(place: str) -> bool:
    """Whether a place is an address, such as s3://bucket/set, and no path of this machine."""
    return "://" in place


def download(address: str, progress: Progress | None = None) -> Path:
    """Return a folder of this machine with the files of an artefact, hashes checked.

    Files are kept in the cache of zskd, by the hash of the artefact's list, and read from it the next time.

    Args:
        address: of the artefact: protocol://path.
        progress: reports every file.

    Raises:
        ZskdError: the address is none, or the artefact is not there, unfinished, damaged, or too large.
    """
    store, root = _store(address)
    data = _read_list(store, root, address)
    stored = stored_files(data, address)
    folder = cache_folder() / "remote" / hashlib.sha256(data).hexdigest()
    make_folder(folder.parent)
    with FileLock(folder.with_suffix(".lock")):
        # those who tidy caches delete old files and leave the rest
        sizes = {name: one.size for name, one in stored.files.items()}
        if folder.is_dir() and not sizes.items() <= _sizes(folder).items():
            shutil.rmtree(folder)
        if not folder.is_dir():
            _read_files(store, root, address, stored, folder, progress or Progress())
    return folder


def _read_files(
    store: AbstractFileSystem, root: str, address: str, stored: Stored, folder: Path, progress: Progress
) -> None:
    """Fill a folder that is absent; an interrupted command goes on behind the files that it has read."""
    unfinished = make_folder(folder.with_suffix(".part"))
    there = _sizes(unfinished)
    missing = {name: one for name, one in stored.files.items() if there.get(name) != one.size}
    _check_disk(missing.values(), address, folder.parent)
    done = len(stored.files) - len(missing)
    try:
        with progress.task(f"reading {address}", len(stored.files), "files", done) as task:
            for name, one in missing.items():
                with whole_file(unfinished / name) as temporary:
                    _read_file(store, f"{root}/{name}", temporary, one, f"{address}/{name}")
                task.advance()
        with readable_errors(folder, "write"):
            unfinished.rename(folder)
    finally:
        with suppress(OSError):  # it is gone, or has files to go on with
            unfinished.rmdir()


def upload(folder: str | Path, address: str, progress: Progress | None = None) -> None:
    """Write all files of a folder to an address; hidden ones and links are left out.

    Args:
        folder: a complete artefact; it is not changed.
        address: where no other artefact is: protocol://path.
        progress: reports every file.

    Raises:
        ZskdError: the address is none, another artefact is there, or it cannot be written to.
    """
    store, root = _store(address)
    folder = Path(folder)
    files, data = _listed(folder)
    with one_line_errors(f"cannot write {address}", _RIGHTS):
        if store.exists(f"{root}/{LIST}"):
            if _read_list(store, root, address) == data:
                return
            raise _finished(address)
        with (progress or Progress()).task(f"writing {address}", len(files), "files") as task:
            for name in files:
                store.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
                store.put_file(str(folder / name), f"{root}/{name}")
                task.advance()
        store.pipe_file(f"{root}/{LIST}.part", data)
        store.mv(f"{root}/{LIST}.part", f"{root}/{LIST}")  # local files appear whole by this alone


def _sizes(folder: Path) -> dict[str, int]:
    """Return the files of an artefact's folder with their bytes, by name; hidden ones and links are none."""
    sizes = dict[str, int]()
    for path in sorted(folder.rglob("*")):
        below = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in below.parts)
        # the list of an artefact that was written to a folder by its address is made again
        if path.is_file() and not path.is_symlink() and not hidden and below != Path(LIST):
            sizes[below.as_posix()] = path.stat().st_size
    return sizes


def _listed(folder: Path) -> tuple[list[str], bytes]:
    """Return the names of an artefact's files, and their list as it is stored.

    Raises:
        ZskdError: there are none.
    """
    files: JsonObject = {
        name: {"size": size, "sha256": sha256_file(folder / name)} for name, size in _sizes(folder).items()
    }
    stored = parse({"format": "zskd-files/1", "files": files}, Stored, f"{folder}", "give a whole folder")
    return list(files), (json.dumps(stored.to_json(), indent=2, ensure_ascii=False) + "\n").encode()


@contextmanager
def uploaded(address: str, key: str, progress: Progress | None = None) -> Iterator[Path]:
    """Yield a folder of this machine whose files are written to an address at the end of the block.

    If the block or the upload fails, the folder is kept, and the next call with the same address and key
    continues with it.

    Args:
        address: where no artefact is: protocol://path.
        key: identifies what is made.
        progress: reports every file.

    Raises:
        ZskdError: the address is none or holds an artefact, another process writes to it, or the upload
            fails.
    """
    store, root = _store(address)
    unique = hashlib.sha256(f"{address} {key}".encode()).hexdigest()
    place = cache_folder() / "unfinished" / unique
    made = place / "made"
    with folder_lock(place):
        with one_line_errors(f"cannot read {address}", _RIGHTS):
            there = store.exists(f"{root}/{LIST}")
        # what a command has left that was killed behind its upload is taken up once more, and then deleted
        if there and (not _sizes(made) or _listed(made)[1] != _read_list(store, root, address)):
            raise _finished(address)
        yield make_folder(made)
        upload(made, address, progress)
        shutil.rmtree(made)


def stored_files(data: bytes, address: str) -> Stored:
    """Return the list of an artefact's files that somebody wrote to an address.

    Raises:
        ZskdError: it is damaged, or names something that is not below the address.
    """
    with one_line_errors(f"{address}/{LIST} is damaged", _AGAIN):
        values = parse_json(data)
    return parse(values, Stored, f"{address}/{LIST}", _AGAIN)


def _finished(address: str) -> ZskdError:
    return ZskdError(f"{address} is finished already: choose another address, or delete it")


def _store(address: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system of an address, and its path there.

    Raises:
        ZskdError: it is no address, its protocol is unknown, or a package is missing.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None or found[1] not in PROTOCOLS:
        known = ", ".join(PROTOCOLS)
        raise ZskdError(f"{address!r} is no address of files: give s3://bucket/name, or one of {known}")
    protocol = found[1]
    try:
        from fsspec import get_filesystem_class
        from fsspec.core import url_to_fs

        get_filesystem_class(protocol)
    except ImportError as error:
        needed = " ".join(("'zskd[remote]'", *filter(None, [_PACKAGES.get(protocol)])))
        raise ZskdError(f"{protocol}:// needs packages that are missing: pip install {needed}") from error
    with one_line_errors(f"cannot open {address}", _RIGHTS):
        store, path = url_to_fs(address)
        store.invalidate_cache()
    return store, str(path).rstrip("/")


def _read_list(store: AbstractFileSystem, root: str, address: str) -> bytes:
    with one_line_errors(f"cannot read {address}", _RIGHTS):
        try:
            with store.open(f"{root}/{LIST}", "rb") as stream:
                data: bytes = stream.read(LARGEST_TEXT + 1)
        except FileNotFoundError:
            raise ZskdError(
                f"there is no whole artefact at {address} (no {LIST}): look at the address, or write it again"
            ) from None
    if len(data) > LARGEST_TEXT:
        raise ZskdError(f"{address}/{LIST} is larger than a list of files can be: {_AGAIN}")
    return data


def _read_file(store: AbstractFileSystem, path: str, to: Path, stored: StoredFile, address: str) -> None:
    with one_line_errors(f"cannot read {address}", _AGAIN):
        fits = store.size(path) == stored.size
        if fits:
            store.get_file(path, str(to))
    if not fits or sha256_file(to) != stored.sha256:
        raise ZskdError(f"{address} is not the file that was written: {_AGAIN}")


def _check_disk(files: Iterable[StoredFile], address: str, folder: Path) -> None:
    need, free = sum(one.size for one in files), shutil.disk_usage(folder).free
    if need > free:
        raise ZskdError(
            f"{address} needs {readable_bytes(need)} and {folder} has {readable_bytes(free)} free: make "
            "room, or let ZSKD_CACHE name a folder of another disk"
        )
