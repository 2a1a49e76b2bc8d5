"""The public API: every name is documented, and every argument is named where its meaning is told."""

import ast
import dataclasses
import inspect
import re
from pathlib import Path

import pytest

import zskd

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = [name for name in zskd.__all__ if not name.startswith("__")]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_a_docstring(name: str) -> None:
    thing = getattr(zskd, name)
    if inspect.isclass(thing) or inspect.isfunction(thing):
        text = inspect.getdoc(thing) or ""
        assert len(text.split()) > 3, name
        assert not text.startswith(f"{name}("), f"{name} has the docstring that dataclasses make up"


@pytest.mark.parametrize("name", [one for one in PUBLIC if inspect.isfunction(getattr(zskd, one))])
def test_every_argument_of_a_public_function_is_explained(name: str) -> None:
    function = inspect.unwrap(getattr(zskd, name))
    text = inspect.getdoc(function) or ""
    unexplained = [
        one
        for one in inspect.signature(function).parameters
        if not re.search(rf"\b{one}\b", text) and len(inspect.signature(function).parameters) > 1
    ]
    assert not unexplained


@pytest.mark.parametrize("name", [one for one in PUBLIC if one.endswith("Config")])
def test_a_settings_class_is_frozen_and_tells_its_option(name: str) -> None:
    kind = getattr(zskd, name)
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    if name != "FitConfig":  # of every training
        assert kind.option("x").startswith(f"--{kind.section.replace('_', '-')}.")


def test_public_functions_of_two_networks_take_the_teacher_first() -> None:
    for name in PUBLIC:
        thing = getattr(zskd, name)
        if inspect.isfunction(thing):
            given = list(inspect.signature(inspect.unwrap(thing)).parameters)
            if {"teacher", "student"} <= set(given):
                assert given[:2] == ["teacher", "student"], name


def test_no_example_needs_a_private_import() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for block in re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), flags=re.DOTALL | re.M):
            for node in ast.walk(ast.parse(block)):
                module = node.module if isinstance(node, ast.ImportFrom) else None
                assert not (module or "").startswith("zskd."), page
