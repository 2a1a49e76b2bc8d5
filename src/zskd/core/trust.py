"""The user's own code that was named before: it may run again without being named, while it is unchanged.

A card names the code that builds its network, and must not decide that it runs. So this user's own list holds
which functions were named on a command line or in Python, with their arguments and the hashes of their files.
It lies in the user's state folder (`XDG_STATE_HOME`), outside of anything that others hand over. A hash
covers the file itself, not what it imports.
"""

from __future__ import annotations

from pathlib import Path

from platformdirs import user_state_path

from zskd.core.code import format_call, parse_call
from zskd.core.errors import ZskdError
from zskd.core.files import make_folder, sha256_file, write_json
from zskd.core.reading import read_json

_LIST = "trusted-code.json"


def remember(target: str) -> None:
    """Add `file.py:Name(arguments)` to the list; where it cannot be written, the user is asked again."""
    found = _locate(target)
    if found is None or is_trusted(target):
        return
    key, file = found
    try:
        path = make_folder(user_state_path("zskd")) / _LIST
        write_json(path, _known() | {key: sha256_file(file)})
    except ZskdError:
        return


def is_trusted(target: str) -> bool:
    """Return whether `file.py:Name(arguments)` was named before, and its file is the same today.

    Names of packages (`package.module:Name`) are never trusted: which file they mean depends on the folder.
    """
    found = _locate(target)
    if found is None:
        return False
    key, file = found
    known = _known().get(key)
    return known is not None and known == sha256_file(file)


def _locate(target: str) -> tuple[str, Path] | None:
    """Return the key of a function in a file, and its file; None for another name or a missing file."""
    name, arguments = parse_call(target)
    source, _, function = name.rpartition(":")
    file = Path(source)
    if file.suffix != ".py" or not file.is_file():
        return None
    return f"{file.resolve()}:{format_call(function, arguments)}", file


def _known() -> dict[str, object]:
    """Return the list: key -> hash; empty where there is none, or it cannot be read."""
    try:
        return read_json(user_state_path("zskd") / _LIST, "the list of trusted code", "delete it")
    except ZskdError:
        return {}
