"""The user's own code by name: `package.module:Name` or `file.py:Name`.

Importing such a name runs code. A name that was read from a file (a card, a manifest) must not be imported
unless the user has given the same name.
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

_IMPORTED_HERE = "__imported_by_zskd__"
"""Attribute of modules that this file imported by path. A file of the same name may replace such a module."""


def is_code(name: str) -> bool:
    """Return whether a name refers to code, not to an entry of a registry."""
    return ":" in name


def import_object(target: str) -> Any:
    """Import `package.module:Name` or `file.py:Name` and return the object.

    A file is run once; it is run again only after it was changed.

    Raises:
        ZskdError: the file, module or name does not exist, or the import fails.
    """
    source, _, attribute = target.rpartition(":")
    try:
        module = _from_file(source, _changed(source)) if source.endswith(".py") else _from_package(source)
        return getattr(module, attribute)
    except ZskdError:
        raise
    except Exception as error:  # the user's own code may fail in any way
        raise ZskdError(f"cannot import {target}: {one_line(error)}") from error


def code_sha256(target: str) -> str | None:
    """Return the SHA-256 of the source file that defines a name; None without a source file.

    Raises:
        ZskdError: as for `import_object`.
    """
    source = sys.modules[import_object(target).__module__].__file__
    return sha256_file(Path(source)) if source else None


def _changed(file: str) -> int:
    if not Path(file).is_file():
        raise ZskdError(f"there is no file {file}")
    return Path(file).stat().st_mtime_ns


@cache
def _from_file(file: str, _changed: int) -> ModuleType:
    path = Path(file).resolve()
    other = sys.modules.get(path.stem)
    if path.stem in sys.stdlib_module_names or (other is not None and not hasattr(other, _IMPORTED_HERE)):
        raise ZskdError(f"{file}: another module named {path.stem!r} is already imported: rename the file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    setattr(module, _IMPORTED_HERE, True)
    sys.modules[path.stem] = module  # dataclasses and pickle look up the module by its name
    _add_to_path(str(path.parent))  # for other modules in its folder, and for worker processes
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
    return module


def _from_package(name: str) -> ModuleType:
    _add_to_path("")  # the current folder, as for `python -m`
    return importlib.import_module(name)


def _add_to_path(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(0, folder)
