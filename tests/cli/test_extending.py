"""The tutorial of docs/extending.md: its files are saved and its commands run, word for word."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from limits import LIMIT

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
    (tmp_path / "zskd").write_text(f'#!/bin/sh\nexec {sys.executable} -m zskd "$@"\n')
    (tmp_path / "zskd").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    found = re.findall(r"^```bash\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    assert len(found) == 3
    for block in found:
        done = subprocess.run(
            ["bash", "-e", "-c", block],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    page = (tmp_path / "runs" / "digits" / "README.md").read_text(encoding="utf-8")
    assert "CONFIDENT (default)" in page
