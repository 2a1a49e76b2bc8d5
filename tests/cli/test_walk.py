"""The walk of docs/walk.md, word for word: from somebody's code and weights to an ONNX file in 8 bits."""

import re
from pathlib import Path

import pytest

from conftest import run_blocks
from zskd.models.exported import ExportedNetwork

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "walk.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_walk_runs_as_it_stands(tmp_path: Path) -> None:
    for name, text in re.findall(r"<!-- file (\S+) -->\n```python\n(.*?)^```$", PAGE, flags=re.S | re.M):
        (tmp_path / name).write_text(text, encoding="utf-8")
    run_blocks(re.findall(r"^```bash\n(.*?)^```$", PAGE, flags=re.S | re.M), tmp_path)
    for name in ("student.onnx", "student-int8.onnx"):
        assert ExportedNetwork(tmp_path / name).shape == (1, 16, 16)
