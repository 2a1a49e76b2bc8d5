"""Files of weights as people have them: parts under several names, sizes that only the weights tell."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from zskd.core.errors import ZskdError
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import build, describe
from zskd.models.libraries.torchvision import TorchvisionNetwork
from zskd.models.narrow.copies import narrow
from zskd.teacher.opening import open_teacher
from zskd.teacher.weights.matching import fit_weights
from zskd.teacher.weights.reading import read_weights

SPEC = InputSpec(shape=(1, 8, 8))


def test_a_backbone_and_a_head_are_one_network(tmp_path: Path) -> None:
    """MMPretrain writes a ResNet so; a `bn1` lies in each of its blocks, too."""
    torch.manual_seed(0)
    network = TorchvisionNetwork(torchvision="resnet18", arguments={"num_classes": 3}).build()
    state = network.state_dict()
    parts = {("head." if name.startswith("fc.") else "backbone.") + name: one for name, one in state.items()}
    torch.save({"meta": {"epoch": 3}, "state_dict": parts}, tmp_path / "epoch_3.pth")
    fitted = fit_weights(network, read_weights(tmp_path / "epoch_3.pth"))
    assert torch.equal(fitted.tensors["bn1.weight"], state["bn1.weight"])
    assert all(torch.equal(fitted.tensors[name], one) for name, one in state.items())


def test_parts_that_lie_in_two_places_alike_are_not_guessed(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3))
    state = network.state_dict()
    twice = {f"{at}.{name}": one for at in ("a", "b") for name, one in state.items() if name[0] == "0"}
    torch.save(twice | {f"c.{name}": one for name, one in state.items() if name[0] == "1"}, tmp_path / "a.pt")
    with pytest.raises(ZskdError, match="another architecture"):
        fit_weights(network, read_weights(tmp_path / "a.pt"))


@pytest.mark.parametrize(
    ("name", "channels", "classes"),
    [("wrn-16-2", 3, 7), ("resnet8", 5, 2), ("lenet5", 1, 4), ("vgg8", 3, 12), ("mlp", 1, 3)],
)
def test_weights_tell_channels_and_classes(name: str, channels: int, classes: int, tmp_path: Path) -> None:
    """Also in safetensors, whose names are sorted: the first layer is not the first in the file."""
    network = build(describe(name, shape=(channels, 32, 32), classes=classes), run_code=False)
    save_file({f"module.{key}": one for key, one in network.state_dict().items()}, tmp_path / "a.safetensors")
    teacher, _ = open_teacher(Path(f"{name}@{tmp_path / 'a.safetensors'}"))
    assert (teacher.spec.shape, teacher.classes) == ((channels, 32, 32), classes)


def test_lazy_layers_are_told_in_a_line(tmp_path: Path) -> None:
    network = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(ZskdError, match="the layer 0 does not know its size yet .LazyConv2d."):
        Classifier(network, spec=SPEC)
    torch.save({"0.weight": torch.zeros(4, 1, 3, 3)}, tmp_path / "a.pt")
    with pytest.raises(ZskdError, match="let one image go through"):
        fit_weights(network, read_weights(tmp_path / "a.pt"))
    network(torch.zeros(1, 1, 8, 8))
    assert Classifier(network, spec=SPEC).classes == 3


class TwoAnswers(nn.Module):
    """Returns something before its logits, whose channels it turns around: a cut would give others."""

    def __init__(self) -> None:
        super().__init__()
        self.other, self.conv, self.fc = nn.Linear(64, 3), nn.Conv2d(1, 16, 3), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.conv(x).relu().mean((2, 3))
        return self.other(x.flatten(1)), self.fc(features.flip(1))


def test_a_copy_is_checked_by_its_logits_whatever_is_returned_before() -> None:
    torch.manual_seed(0)
    teacher = Classifier(TwoAnswers().eval(), spec=SPEC, class_names=tuple("abcd")).freeze()
    with pytest.raises(ZskdError, match="of this network can be made"):
        narrow(teacher, 0.5)
