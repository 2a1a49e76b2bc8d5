"""The scripts and notebooks of examples/ run, with small sizes."""

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from zskd.models.exported import ExportedNetwork

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
SMALL = {"count": 40, "steps": 10, "epochs": 2, "seeds": 1}
"""In the place of what the first cell of a notebook sets."""


def script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders by example: a notebook finds what its script made, as it would on a second run."""
    return tmp_path_factory.mktemp("examples")


def test_each_kind_of_user_has_a_short_script_and_a_notebook() -> None:
    names = ["engineer", "newcomer", "researcher"]
    assert [path.stem for path in SCRIPTS] == [path.stem for path in NOTEBOOKS] == names
    for path in SCRIPTS:
        code = re.sub(r'"""(.|\n)*?"""', "", path.read_text(encoding="utf-8"))
        assert sum(bool(line.strip()) for line in code.splitlines()) < 60, path.name
        assert not re.search(r"import zskd\.|from zskd", code), f"{path.name} needs a private import"


@pytest.mark.slow
def test_the_engineer_gets_an_onnx_file(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = script("engineer")["main"](shared / "engineer", count=40, steps=10)
    assert ExportedNetwork(file).shape == (1, 16, 16)
    assert "agreement with the teacher on real images" in capsys.readouterr().out


@pytest.mark.slow
def test_the_researcher_gets_a_table(shared: Path) -> None:
    module = script("researcher")
    record = module["run"](shared / "researcher", 0, count=40, steps=10, epochs=2)
    lines = module["table"]([record, record]).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| PAIRS (default)", "| random shapes"]
    assert lines[2].endswith("| 2 |")


@pytest.mark.slow
def test_the_newcomer_gets_pictures(tmp_path: Path) -> None:
    found = script("newcomer")["main"](tmp_path, epochs=2, count=40, steps=10)
    assert found.n == 500
    assert list((tmp_path / "pictures").rglob("*.png"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_cells_of_a_notebook_run(path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells)
    assert cells[0]["metadata"]["tags"] == ["parameters"]
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict[str, Any] = {}
    for cell in cells:
        exec(compile("".join(cell["source"]), path.name, "exec"), names)
        if cell is cells[0]:
            names.update(
                {name: SMALL.get(name, value) for name, value in names.items()}, folder=shared / path.stem
            )
