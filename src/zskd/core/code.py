"""Names with arguments, `NAME(key=value, …)`, and the user's own code by name: `file.py:Name`.

Arguments are literals: reading them runs nothing. Importing the name of code, `package.module:Name` or
`file.py:Name`, runs code. A name that was read from a file (a card, a manifest) must not be imported unless
the user has given the same name.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import keyword
import math
import re
import sys
import sysconfig
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from reprlib import repr as short
from types import ModuleType
from typing import Any

from zskd.core.errors import ZskdError, one_line
from zskd.core.files import sha256_file

_IMPORTED_HERE = "__imported_by_zskd__"
"""Attribute of modules that this file imported by path. A file of the same name may replace such a module."""


_LONGEST = 1000
"""Characters of the arguments of a name; Python's parser has no limit of its own."""
_WORDS: dict[str, object] = {"true": True, "false": False}
"""Bare words that are no text, because the text "false" would count as true."""


_ENDING = re.compile(r"\.py(?=[:(@]|$)")
"""Of a file of code; the name of a folder may hold `.py`, too."""


def parse_call(text: str) -> tuple[str, dict[str, Any]]:
    """Return the name in `NAME` or `NAME(key=value, …)`, and its arguments.

    A value is a number, a text in quotes, True, False (or true, false), None, or a list, tuple or dictionary
    of such. A bare word is a text: `norm=group` is `norm="group"`. No expression is evaluated.

    Raises:
        ZskdError: the arguments cannot be read, one has no name or stands twice, or a value is no literal.
    """
    name, call = _split(text)
    if call is None:
        if "(" in name.rpartition(":")[2]:
            raise ZskdError(
                f"the arguments of {short(text)} cannot be read: write NAME(key=value, …), with "
                'quotes round a word of Python: key="in"'
            )
        return name, {}
    if call.args:
        raise ZskdError(f"an argument of {short(text)} has no name: write NAME(key=value, …)")
    arguments: dict[str, Any] = {}
    for one in call.keywords:
        if one.arg is None:
            raise ZskdError(f"an argument of {short(text)} has no name: write NAME(key=value, …)")
        if one.arg in arguments:
            raise ZskdError(f"{short(text)} gives {one.arg} twice: give it once")
        arguments[one.arg] = _value(one.value, one.arg, text)
    return name, arguments


def format_call(name: str, arguments: Mapping[str, Any]) -> str:
    """Return a name with its arguments as text, from which `parse_call` reads them again."""
    inner = ", ".join(f"{key}={_format(value)}" for key, value in arguments.items())
    return f"{name}({inner})" if inner else name


def without_folders(value: Any) -> Any:
    """Return a JSON value whose texts lack the folders of files, which would tell of the machine.

    Of `/home/me/my code/m.py:Method(a=b/c)` the name of the file and what follows it is left.
    """
    if isinstance(value, Mapping):
        return {key: without_folders(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(one) for one in value]
    if not isinstance(value, str):
        return value
    end = next((found.end() for found in _ENDING.finditer(value)), len(value))
    return value[:end].replace("\\", "/").rpartition("/")[2] + value[end:]


def split_names(text: str) -> list[str]:
    """Return the names in a list with commas, which may have arguments: `mlp(widths=(8, 4)), resnet8`."""
    names, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth <= 0:
            names.append("")
        else:
            names[-1] += character
    return [name.strip() for name in names if name.strip()]


def _split(text: str) -> tuple[str, ast.Call | None]:
    """Return the part before the arguments, and the arguments; None without readable ones.

    They begin at the first parenthesis from which the rest is one call: a path may hold others.
    """
    if text.endswith(")"):
        for start in (i for i, character in enumerate(text) if character == "("):
            if len(text) - start <= _LONGEST:
                try:
                    call = ast.parse(f"f{text[start:]}", mode="eval").body
                except (SyntaxError, ValueError, RecursionError, MemoryError):
                    continue
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
                    return text[:start], call
    return text, None


def _value(node: ast.expr, key: str, text: str) -> Any:
    """Return the value of a literal; bare words are texts."""
    match node:
        case ast.Name(id=word):
            return _WORDS.get(word, word)
        case ast.Constant(value=None | bool() | str() | int() as value):
            return value
        case ast.Constant(value=float() as value) if math.isfinite(value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)) if type(
            value
        ) is not bool and math.isfinite(value):
            return -value
        case ast.Tuple(elts=items):
            return tuple(_value(item, key, text) for item in items)
        case ast.List(elts=items):
            return [_value(item, key, text) for item in items]
        case ast.Dict(keys=keys, values=values) if all(keys):
            names = [_value(one, key, text) for one in keys if one is not None]
            if all(isinstance(one, str) for one in names):
                return dict(zip(names, (_value(one, key, text) for one in values), strict=True))
    raise ZskdError(
        f"the value of {key} in {short(text)} is not plain: write a number, a word, a text in quotes, or a "
        "list of these"
    )


def _format(value: Any) -> str:
    match value:
        case str() if value.isidentifier() and value.isascii() and value not in (*keyword.kwlist, *_WORDS):
            return value
        case tuple():
            return f"({', '.join(map(_format, value))}{',' if len(value) == 1 else ''})"
        case list():
            return f"[{', '.join(map(_format, value))}]"
        case dict():
            return f"{{{', '.join(f'{key!r}: {_format(one)}' for key, one in value.items())}}}"
    return repr(value)


def is_code(name: str) -> bool:
    """Return whether a name, with or without arguments, refers to code, not to an entry of a registry."""
    return ":" in _split(name)[0]


def import_object(target: str) -> Any:
    """Import `package.module:Name` or `file.py:Name` and return the object.

    A file is run once; it is run again only after it was changed.

    Raises:
        ZskdError: the file, module or name does not exist, or the import fails.
    """
    source, _, attribute = target.rpartition(":")
    if not attribute.isidentifier():  # found out before the module runs
        raise ZskdError(f"cannot import {target}: {attribute!r} is no name of a function or class")
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
    found = import_object(target)
    home, file = (found.func if isinstance(found, partial) else found).__module__, target.rpartition(":")[0]
    # of two files with one name, only the last that was imported is among the modules
    own = file.endswith(".py") and home == Path(file).stem
    source = file if own else getattr(sys.modules[home], "__file__", None)  # a notebook has none
    return sha256_file(Path(source)) if source else None


def _changed(file: str) -> int:
    if not Path(file).is_file():
        raise ZskdError(f"there is no file {file}")
    return Path(file).stat().st_mtime_ns


@cache
def _from_file(file: str, _changed: int) -> ModuleType:
    path = Path(file).resolve()
    other = sys.modules.get(path.stem)
    if other is not None and not hasattr(other, _IMPORTED_HERE) and _is_of(other, path):
        setattr(other, _IMPORTED_HERE, True)  # by another file of the user's own; run again if it is changed
        return other
    if (
        path.stem in sys.stdlib_module_names
        or _is_installed(path.stem)
        or (other is not None and not hasattr(other, _IMPORTED_HERE))
    ):
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


def _is_of(module: ModuleType, path: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).resolve() == path


def _is_installed(name: str) -> bool:
    """Return whether an installed package has a name: another module would take its place everywhere."""
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    places = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    return found is not None and (found.origin or "").startswith(places)


def _from_package(name: str) -> ModuleType:
    _add_to_path("")  # the current folder, as for `python -m`
    return importlib.import_module(name)


def _add_to_path(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(0, folder)
