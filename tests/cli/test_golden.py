"""`zskd golden`: the program that it prints is run as it stands, and reveals what it is meant to reveal."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from warm import python
from zskd.cli.main import main as run
from zskd.core.code import import_object

CODE = """
from torch import nn
from parts_of_net import hidden

class MyNet(nn.Module):
    def __init__(self, width=9):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), *hidden(width), nn.Dropout(), nn.Linear(width, 3))

    def forward(self, x):
        return self.layers(x)
"""
PARTS = "from torch import nn\ndef hidden(width):\n    return nn.Linear(48, width), nn.ReLU()\n"
NORMALISE = ["--mean", "0.5", "0.4", "0.3", "--std", "0.25"]
SHAPE = ["--shape", "3", "4", "4"]


@pytest.mark.parametrize(
    ("typed", "wrong"),
    [
        (["--shape", "0", "-3", "5"], "input shape (0, -3, 5): it must be"),
        (["--shape", "3", "4", "4", "--mean", "nan", "0.4"], "mean and std must be finite numbers"),
        (["--shape", "3", "4", "4", "--std", "0"], "std (0.0,) must be above 0"),
    ],
)
def test_a_program_that_cannot_run_is_not_printed(
    typed: list[str], wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["golden", "my.py:Net@x.pt", *typed]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert wrong in told.err


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for folder in (tmp_path, tmp_path / "nets"):
        folder.mkdir(exist_ok=True)
        (folder / "parts_of_net.py").write_text(PARTS)
        (folder / "golden_net.py").write_text(CODE)
        (folder / "golden-net.py").write_text(CODE)
    return tmp_path


def printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert run(["golden", *arguments]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "file"),
    [
        ("golden_net.py:MyNet", "plain.pt"),
        ("nets/golden_net.py:MyNet(width=7)", "wrapped.pt"),
        ("nets/golden-net.py:MyNet(width=7)", "net.safetensors"),
    ],
)
def test_the_program_runs_as_it_stands_and_reveals_a_wrong_mean(
    code: str, file: str, own_code: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = import_object("golden_net.py:MyNet")(width=7 if "width" in code else 9)
    if file.endswith(".safetensors"):
        save_file(network.state_dict(), file)
    else:
        state = network.state_dict()
        torch.save({"state_dict": state, "epoch": 3} if file == "wrapped.pt" else state, file)
    program = printed([f"{code}@{file}", *SHAPE, *NORMALISE], capsys)
    assert "zskd" not in program.partition("\nimport")[2]
    done = subprocess.run([*python(), "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load("golden.npz") as pairs:
        x, logits = torch.from_numpy(pairs["inputs"]), pairs["logits"]
    mean = torch.tensor([0.5, 0.4, 0.3])[:, None, None]
    assert np.array_equal(network.eval()((x - mean) / 0.25).detach().numpy(), logits)

    read = ["teacher", "import", file, "--model", code, *SHAPE, "--golden", "golden.npz"]
    assert run([*read, *NORMALISE, "--out", "right"]) == 0
    assert "golden pairs agree" in capsys.readouterr().out
    assert run([*read, "--mean", "0.5", "--std", "0.25", "--out", "wrong"]) == 2
    assert "disagrees with the golden pairs" in capsys.readouterr().err


def test_code_and_weights_may_be_given_apart(own_code: Path, capsys: pytest.CaptureFixture[str]) -> None:
    together = printed(["golden_net.py:MyNet@net.pt", *SHAPE], capsys)
    assert printed(["net.pt", "--model", "golden_net.py:MyNet", *SHAPE], capsys) == together
    assert "from golden_net import MyNet\nnet = MyNet()" in together
    assert "np.savez('pairs.npz'" in printed(["a.b:C", *SHAPE, "--out", "pairs.npz"], capsys)
    assert "net = ...  # timm:resnet18, built and loaded" in printed(["timm:resnet18", *SHAPE], capsys)


def test_zskd_records_its_own_reading(own_code: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = import_object("golden_net.py:MyNet")()
    torch.save(network.state_dict(), "net.pt")
    x = np.random.default_rng(0).random((70, 3, 4, 4))
    np.save("x.npy", x)
    np.savez("x.npz", inputs=x.astype(np.float32))
    source = ["golden", "golden_net.py:MyNet@net.pt", "--mean", "0.5", "--std", "0.25"]
    assert run([*source, "--inputs", "x.npy", "--out", "a.npz"]) == 0
    assert run([*source, "--inputs", "x.npz", "--out", "b.npz"]) == 0
    assert "70 golden pairs in b.npz, by zskd's own reading" in capsys.readouterr().out
    with np.load("a.npz") as one, np.load("b.npz") as other:
        assert np.array_equal(one["logits"], other["logits"])
        expected = network.eval()((torch.from_numpy(one["inputs"]) - 0.5) / 0.25).detach().numpy()
        assert np.allclose(one["logits"], expected, atol=1e-5)
    assert run([*source, "--inputs", "x.npy", "--out", "a.npz"]) == 2
    assert "a.npz is there already" in capsys.readouterr().err


def test_inputs_that_cannot_be_used_are_named(own_code: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(import_object("golden_net.py:MyNet")().state_dict(), "net.pt")
    ones = np.ones((2, 3, 4, 4), np.float32)
    np.save("bytes.npy", ones.astype(np.uint8))
    np.save("high.npy", 255 * ones)
    np.save("nan.npy", np.nan * ones)
    np.save("flat.npy", ones[0])
    np.save("none.npy", ones[:0])
    np.save("objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez("other.npz", x=ones)
    Path("broken.npz").write_bytes(b"PK\x03\x04 no archive")
    Path("text.npy").write_text("hello")
    expected = {
        **dict.fromkeys(("bytes.npy", "high.npy", "nan.npy"), "pixels in [0, 1]"),
        **dict.fromkeys(("flat.npy", "none.npy"), "images are (N, C, H, W)"),
        **dict.fromkeys(("objects.npy", "broken.npz", "text.npy"), "no readable .npy or .npz"),
        "absent.npy": "there is no file absent.npy",
        "other.npz": "has no array `inputs`",
    }
    for file, words in expected.items():
        assert run(["golden", "golden_net.py:MyNet@net.pt", "--inputs", file]) == 2
        error = capsys.readouterr().err
        assert words in error, file
        assert error.count("\n") == 1
    assert run(["golden", "golden_net.py:MyNet@net.pt"]) == 2
    assert "give --shape" in capsys.readouterr().err
    assert not Path("golden.npz").exists()
