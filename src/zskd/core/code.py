"""Code of the user's own, named by the user: `package.module:Name` or `file.py:Name`.

Importing such a name runs it. Whoever takes one from a file that came from elsewhere (a card, a manifest)
must not import it unless the user has named the same.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from zskd.core.errors import ZskdError, one_line
from zskd.core.files import sha256_file

_OURS = "__imported_by_zskd__"
"""Set on modules that were imported from a file here: another file of the same name may take their place."""


def is_code(name: str) -> bool:
    """Return whether a name stands for code and not for an entry of a table."""
    return ":" in name


def import_object(target: str) -> Any:
    """Import `package.module:Name` or `file.py:Name` and return the object.

    A file is run once, however often it is named, unless it has been changed since.

    Raises:
        ZskdError: there is no such file, module or name, or importing it fails.
    """
    place, _, attribute = target.rpartition(":")
    try:
        module = _from_file(place, _changed(place)) if place.endswith(".py") else _from_package(place)
        return getattr(module, attribute)
    except ZskdError:
        raise
    except Exception as error:  # the user's own code may fail in any way
        raise ZskdError(f"cannot import {target}: {one_line(error)}") from error


def code_sha256(target: str) -> str | None:
    """Return the SHA-256 of the source file behind a name; None where it has none."""
    source = sys.modules[import_object(target).__module__].__file__
    return sha256_file(Path(source)) if source else None


def _changed(place: str) -> int:
    if not Path(place).is_file():
        raise ZskdError(f"there is no file {place}")
    return Path(place).stat().st_mtime_ns


@cache
def _from_file(place: str, _changed: int) -> ModuleType:
    path = Path(place).resolve()
    other = sys.modules.get(path.stem)
    if path.stem in sys.stdlib_module_names or (other is not None and not hasattr(other, _OURS)):
        raise ZskdError(
            f"{place}: {path.stem!r} is the name of another module that is in use: rename the file"
        )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    setattr(module, _OURS, True)
    sys.modules[path.stem] = module  # dataclasses, pickle and the like look the module up by its name
    _search(str(path.parent))  # for modules beside it, and for worker processes
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
    return module


def _from_package(name: str) -> ModuleType:
    _search("")  # a module beside the user, as `python -m` would find it
    return importlib.import_module(name)


def _search(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(0, folder)
