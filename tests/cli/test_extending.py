"""The tutorial of docs/extending.md: its files are saved and its commands run, word for word."""

import ast
import re
from pathlib import Path

import pytest

from conftest import run_blocks

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"<!-- file (\S+) -->\n```python\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE))


def test_a_method_takes_thirty_lines_at_most() -> None:
    assert len(FILES["my_methods.py"].splitlines()) <= 30


@pytest.mark.parametrize("name", FILES)
def test_no_file_needs_a_private_import(name: str) -> None:
    imported = [node for node in ast.walk(ast.parse(FILES[name])) if isinstance(node, ast.ImportFrom)]
    assert not [node.module for node in imported if (node.module or "").startswith("zskd")]


@pytest.mark.slow
def test_the_tutorial_runs_as_it_stands(tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    found = re.findall(r"^```bash\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    assert len(found) == 4
    run_blocks(found, tmp_path)
    page = (tmp_path / "runs" / "digits" / "README.md").read_text(encoding="utf-8")
    assert "CONFIDENT (default)" in page
