"""Code that a card names runs only after the user has named it, and only while it is unchanged."""

from pathlib import Path

import pytest
import torch
from torch import nn

from zskd.core.errors import ZskdError
from zskd.core.trust import is_trusted, remember
from zskd.models.checkpoint import load_checkpoint, save_checkpoint
from zskd.teacher.opening import open_teacher

NET = """
from pathlib import Path
from torch import nn

def build(width=4):
    Path("ran").touch()
    return nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 3))

def other():
    return build()
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with code, weights, and a list of trusted code of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "own_trusted.py").write_text(NET)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3))
    torch.save(net.state_dict(), "net.pt")
    teacher, card = open_teacher("own_trusted.py:build(width=6)@net.pt", shape=(1, 4, 4))
    save_checkpoint(teacher, card, tmp_path / "teacher")
    (tmp_path / "ran").unlink()
    return tmp_path


def test_named_once_it_runs_again(own: Path) -> None:
    assert load_checkpoint(own / "teacher")[0].parameters_count == 16 * 6 + 6 + 6 * 3 + 3
    assert (own / "ran").exists()


def test_changed_code_is_asked_for_again(own: Path) -> None:
    (own / "own_trusted.py").write_text(NET + "\n# changed\n")
    with pytest.raises(ZskdError, match=r"new or was changed.*--model 'own_trusted.py:build\(width=6\)'"):
        load_checkpoint(own / "teacher")
    assert not (own / "ran").exists()
    load_checkpoint(own / "teacher", model="own_trusted.py:build")  # the card keeps the arguments
    (own / "ran").unlink()
    load_checkpoint(own / "teacher")
    assert (own / "ran").exists()


def test_a_stranger_has_not_named_it(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list lies outside of everything that is handed over."""
    monkeypatch.setenv("XDG_STATE_HOME", str(own / "another"))
    with pytest.raises(ZskdError, match="a card may not run code"):
        load_checkpoint(own / "teacher")
    assert not (own / "ran").exists()


def test_trust_is_for_one_function_with_its_arguments(own: Path) -> None:
    assert is_trusted("own_trusted.py:build(width=6)")
    assert is_trusted(f"{own}/own_trusted.py:build( width = 6 )")
    assert not is_trusted("own_trusted.py:build(width=7)")
    assert not is_trusted("own_trusted.py:build")
    assert not is_trusted("own_trusted.py:other")
    assert not is_trusted("own_trusted:build(width=6)")
    assert not is_trusted("nowhere.py:build")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1}'])
def test_a_damaged_list_trusts_nothing_and_is_written_again(own: Path, content: str) -> None:
    (own / "state" / "zskd" / "trusted-code.json").write_text(content)
    assert not is_trusted("own_trusted.py:build(width=6)")
    remember("own_trusted.py:build(width=6)")
    assert is_trusted("own_trusted.py:build(width=6)")


def test_where_the_list_cannot_be_written_the_user_is_asked_again(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(own / "file"))
    remember("own_trusted.py:build(width=6)")
    assert not is_trusted("own_trusted.py:build(width=6)")
