"""Networks that cannot be run, copied or switched like others: compiled, exported, not for one image."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zskd.cli.main import main
from zskd.core.errors import ZskdError
from zskd.evaluation.inspection import inspect_teacher
from zskd.evaluation.sanity import check_teacher
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import half
from zskd.models.preparation import check_sizes
from zskd.teacher.weights.matching import fit_weights
from zskd.teacher.weights.reading import read_weights

SPEC = InputSpec(shape=(1, 8, 8))
IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def chain(*before: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    head = nn.Linear(8, 3)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), *before, head)


class ByNumPy(nn.Module):
    """Leaves torch before its first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = chain()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(torch.from_numpy(x.numpy()))


class Turned(nn.Module):
    """Multiplies by a complex buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = chain()
        self.register_buffer("phase", torch.exp(1j * torch.rand(8)))

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x * self.phase).real)


def test_a_network_that_refuses_a_single_image_is_told_in_a_line() -> None:
    teacher = Classifier(chain(nn.BatchNorm1d(8, track_running_stats=False)), spec=SPEC)
    (finding,) = check_teacher(teacher)
    assert finding.fatal
    assert "track_running_stats=True" in finding.text
    with pytest.raises(ZskdError, match=r"one image alone .*track_running_stats=True"):
        inspect_teacher(teacher)


def test_a_network_that_does_not_run_with_gradients_is_told_in_a_line() -> None:
    (finding,) = [one for one in check_teacher(Classifier(ByNumPy(), spec=SPEC)) if one.fatal]
    assert "numpy" in finding.text
    assert "detach()" in finding.text


@pytest.mark.parametrize("copy", [True, False])
def test_of_a_compiled_network_the_network_itself_is_taken(copy: bool) -> None:
    network = chain().eval()
    compiled = nn.Sequential(network[:4], torch.compile(network[-1]))
    teacher = Classifier(torch.compile(compiled), spec=SPEC, copy=copy)
    assert list(teacher.module.state_dict()) == ["0.0.weight", "0.0.bias", "1.weight", "1.bias"]
    torch.testing.assert_close(teacher(IMAGES), network(IMAGES))
    assert inspect_teacher(teacher).narrow is not None


def test_half_of_a_compiled_network_is_made() -> None:
    assert half(torch.compile(chain())).state_dict().keys() == chain().state_dict().keys()


def test_a_compiled_network_of_own_code_is_kept_and_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net_compiled.py").write_text(
        "from torch import compile, nn\n\n\ndef build():\n"
        "    return compile(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))\n"
    )
    shape = ["--shape", "1", "8", "8"]
    assert main(["teacher", "import", "net_compiled.py:build", *shape, "--out", "kept"]) == 0
    assert main(["inspect", "kept"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("copy", [True, False])
def test_a_program_of_torch_export_is_a_teacher(copy: bool) -> None:
    network = chain().eval()
    images = torch.export.Dim("images", min=1, max=512)
    program = torch.export.export(network, (IMAGES,), dynamic_shapes=({0: images},)).module()
    teacher = Classifier(program, spec=SPEC, copy=copy)
    torch.testing.assert_close(teacher(IMAGES), network(IMAGES))
    assert inspect_teacher(teacher).features == 8


@pytest.mark.parametrize("copy", [True, False])
def test_a_network_without_values_is_told_in_a_line(copy: bool) -> None:
    with pytest.raises(ZskdError, match=r"0\.weight is on the device meta.*build it on the CPU"):
        Classifier(chain().to("meta"), spec=SPEC, copy=copy)


def test_what_is_no_network_is_told_in_a_line() -> None:
    with pytest.raises(ZskdError, match=r"a function is no network: give a torch\.nn\.Module"):
        check_sizes(lambda x: x)


@pytest.mark.parametrize("use", [Classifier, half])
def test_a_network_without_sizes_is_told_before_it_is_copied(use: Callable[..., Any]) -> None:
    with pytest.raises(ZskdError, match="does not know its size yet"):
        use(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)))


def test_complex_numbers_are_read_where_the_network_has_complex_ones(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Turned()
    torch.save(network.state_dict(), tmp_path / "a.pt")
    fitted = fit_weights(Turned(), read_weights(tmp_path / "a.pt"))
    assert torch.equal(fitted.tensors["phase"], network.phase)
    torch.save(network.state_dict() | {"phase": torch.ones(8)}, tmp_path / "b.pt")
    with pytest.raises(ZskdError, match=r"float32, and the network needs torch\.complex64"):
        fit_weights(Turned(), read_weights(tmp_path / "b.pt"))


def test_complex_numbers_are_kept_in_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net_turned.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Turned(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.fc = nn.Linear(64, 3)\n"
        "        self.register_buffer('phase', torch.exp(1j * torch.ones(64)))\n"
        "    def forward(self, x):\n        return self.fc((x.flatten(1) * self.phase).real)\n"
    )
    shape = ["--shape", "1", "8", "8"]
    assert main(["teacher", "import", "net_turned.py:Turned", *shape, "--out", "kept"]) == 0
    assert main(["inspect", "kept"]) == 0, capsys.readouterr().err
