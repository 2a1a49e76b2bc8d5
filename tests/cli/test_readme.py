"""The README does what it says: its commands and its Python are run, its tables are fresh."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest

from conftest import run_blocks, run_zskd
from limits import LIMIT
from warm import python
from zskd.cli.main import main as run

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
STEPS = (ROOT / "docs" / "first-steps.md").read_text(encoding="utf-8")


def blocks(language: str, page: str = README) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def commands(language: str) -> list[list[str]]:
    lines = "".join(blocks(language) + blocks(language, STEPS)).splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("zskd ")]


@pytest.mark.slow
def test_every_command_of_the_shell_blocks_runs(tmp_path: Path) -> None:
    """In order, in one folder; these blocks are written so that they need nothing but digits."""
    found = commands("bash")
    assert len(found) >= 14
    run_blocks(blocks("bash") + blocks("bash", STEPS), tmp_path)
    for picture in ("similarity.png", "threes.png", "filmstrip.png"):
        assert (tmp_path / picture).is_file()


def test_the_other_commands_are_understood(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They need data of the reader's; what can be checked is that every option exists and is valid."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # else it is asked again and again
    found = [command for command in commands("") if command[1] == "run"]
    assert len(found) >= 5
    for command in found:
        assert run([*command[1:], "--print-config"]) == 0, capsys.readouterr().err


def test_the_readme_is_read_to_its_end() -> None:
    assert len(README.splitlines()) <= 120


def test_the_python_runs(tmp_path: Path) -> None:
    (code,) = blocks("python")
    assert len(code.strip().splitlines()) <= 12
    done = subprocess.run(
        [*python(), "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d % \[", done.stdout)


def test_the_line_that_records_golden_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Word for word, with a network as it comes out of training, dropout and gradients included."""
    (line,) = re.findall(r"`(np\.savez\(.*\))`", README)
    monkeypatch.chdir(tmp_path)
    Path("my_net.py").write_text(
        "from torch import nn\n"
        "def MyNet():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(48, 9), nn.Dropout(), nn.Linear(9, 3))\n"
    )
    before = (
        "import numpy as np, torch; from my_net import MyNet\n"
        "model = MyNet(); torch.save(model.state_dict(), 'net.pt')\n"
        "x, mean, std = torch.rand(5, 3, 4, 4), 0.5, 0.25\n"
        "model.eval()\n"
    )
    done = subprocess.run([*python(), "-c", before + line], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    read = ["teacher", "import", "net.pt", "--model", "my_net.py:MyNet", "--shape", "3", "4", "4"]
    right = ["--mean", "0.5", "--std", "0.25", "--golden", "golden.npz"]
    assert run([*read, *right, "--out", "teacher"]) == 0
    assert "5 golden pairs agree" in run_zskd("inspect", "teacher", "--model", "my_net.py:MyNet").stdout
    wrong = ["--mean", "0.4", "--std", "0.25", "--golden", "golden.npz"]
    assert run([*read, *wrong, "--out", "other"]) == 2
    assert "disagrees with the golden pairs" in capsys.readouterr().err


def test_the_make_targets_that_are_named_exist() -> None:
    named = set(re.findall(r"\bmake (run|test|\w+)\b", " ".join(blocks(""))))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {"run"} <= named
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in named)
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_tables_are_those_of_the_records() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "studies" / "make_tables.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_links_inside_the_documentation_lead_somewhere() -> None:
    pages = [path for folder in ("docs", "studies", "results") for path in (ROOT / folder).rglob("*.md")]
    pages.append(ROOT / "README.md")
    broken = []
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if not target.startswith("http") and not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert not broken


def test_the_modules_of_the_architecture_page_exist_and_are_all_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+(?:\.py|/))`", page))
    source = ROOT / "src" / "zskd"
    there = {
        path.name + ("/" if path.is_dir() else "")
        for path in source.iterdir()
        if (path.is_dir() and path.name != "__pycache__")
        or (path.suffix == ".py" and not path.name.startswith("__"))
    }
    assert there <= named


def test_no_command_line_needs_a_checkout(tmp_path: Path) -> None:
    done = run_zskd("run", "my-teacher", "--print-config", cwd=tmp_path)
    assert done.returncode == 0
    assert "name: my-teacher" in done.stdout
