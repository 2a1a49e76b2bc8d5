"""The walls of the package: which room may import which. docs/architecture.md tells why."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "zskd"


def test_imports_go_down_the_storeys_and_stages_stay_apart(capsys: pytest.CaptureFixture[str]) -> None:
    """Contracts stand in pyproject.toml; the same check as `lint-imports` on the command line."""
    code = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert code == 0, capsys.readouterr().out


def test_the_contract_names_every_room() -> None:

    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (layers,) = (one["layers"] for one in contracts if one["type"] == "layers")
    named = {room.strip().removeprefix("zskd.") for layer in layers for room in layer.split("|")}
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert named == rooms
    assert len(rooms) <= 16


def test_no_file_lies_loose() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_files_fit_on_a_few_screens() -> None:
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert max(lengths.values()) <= 350, max(lengths, key=lambda path: lengths[path])


def test_names_differ_in_more_than_case() -> None:
    """`Distill` beside `distill` was a trap; so is any public pair like it, in a module or in the package."""
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text("utf-8"))
    public = [alias.name for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    for names in (public, *map(public_names, sorted(PACKAGE.rglob("*.py")))):
        assert len({name.lower() for name in names}) == len(names), names


def public_names(path: Path) -> list[str]:
    definitions = (ast.FunctionDef, ast.ClassDef)
    body = ast.parse(path.read_text("utf-8")).body
    return [node.name for node in body if isinstance(node, definitions) and not node.name.startswith("_")]
