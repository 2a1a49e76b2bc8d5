"""Gradients of strided 1×1 convolutions of few channels, which a defect of oneDNN would make wrong.

It can also end the process: what would, is run in one of its own.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zskd.models.sound_gradients import is_affected, sound_gradients

TRAINING = """
import torch, zskd
from torch import nn
from zskd.config.distillation import DistillConfig
from zskd.distillation.distill import distill
from zskd.models.classifier import Classifier, InputSpec
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.spec import SetSpec

class Block(nn.Module):
    def __init__(self, before, after):
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, 2, 1)
        self.shortcut = nn.Conv2d(before, after, 1, 2)
    def forward(self, x):
        return torch.relu(self.conv(x) + self.shortcut(x))

def network(width):
    body = Block(3, width), Block(width, 2 * width)
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 5))

torch.manual_seed(0)
spec = InputSpec(shape=(3, 16, 16))
teacher = Classifier(network(8), spec=spec).freeze()
made = build_transfer_set(teacher, SetSpec(method="noise", count=40), {folder!r}, workers=1)
config = DistillConfig(steps=40, batch_size=20, start="random")
student = distill(teacher, network({width}), made, config)
assert all(bool(p.isfinite().all()) for p in student.parameters())
print("done")
"""


@pytest.mark.parametrize("width", [5, 12])
def test_a_student_with_few_channels_in_its_shortcuts_is_trained(tmp_path: Path, width: int) -> None:
    program = TRAINING.format(folder=str(tmp_path / "set"), width=width)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@pytest.mark.parametrize("stride", [2, 4, (1, 2), (3, 1)])
@pytest.mark.parametrize(("channels", "groups"), [(3, 1), (5, 1), (15, 1), (16, 4), (6, 6)])
@pytest.mark.parametrize(("padding", "bias"), [(0, True), (1, False), ((0, 2), True)])
def test_outputs_and_gradients_are_those_of_the_convolution(
    stride: int | tuple[int, int], channels: int, groups: int, padding: int | tuple[int, int], bias: bool
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, 2 * channels, 1, stride, padding, groups=groups, bias=bias)
    layer = layer.to(memory_format=torch.channels_last)
    images = torch.rand(4, channels, 9, 7).to(memory_format=torch.channels_last).requires_grad_()
    with sound_gradients(layer):
        outputs = layer(images)
        towards = torch.rand_like(outputs)
        outputs.backward(towards)
    exact, plain = layer.weight.detach().double().requires_grad_(), images.detach().double().requires_grad_()
    offset = None if layer.bias is None else layer.bias.detach().double()
    expected = F.conv2d(plain, exact, offset, stride, padding, groups=groups)
    expected.backward(towards.double())
    for found, right in ((outputs, expected), (layer.weight.grad, exact.grad), (images.grad, plain.grad)):
        assert found is not None
        assert right is not None
        torch.testing.assert_close(found.double(), right, atol=1e-4, rtol=1e-4)


class Own(nn.Module):
    """A convolution that code of the user's own calls by its function."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Parameter(torch.rand(8, 4, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return F.conv2d(images, self.filters, stride=2, padding="valid").mean((2, 3))


def test_only_networks_that_may_have_one_are_watched() -> None:
    assert is_affected(nn.Sequential(nn.Conv2d(8, 8, 1, 2)))
    assert is_affected(nn.ReLU(), Own())
    assert is_affected(nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 8, 1, 2)))
    assert not is_affected(nn.Conv2d(16, 8, 1, 2), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, 2), nn.Linear(4, 4))
    images = torch.rand(3, 4, 8, 8)
    own = Own()
    with sound_gradients(own):
        outputs = own(images)
    torch.testing.assert_close(outputs, F.conv2d(images, own.filters, stride=2).mean((2, 3)))


JUDGED = """
import torch
from torch import nn
from zskd.models.narrow.checks import is_sound

network = nn.Sequential(nn.Conv2d(3, 5, 3, 1, 1), nn.Conv2d(5, 8, 1, 2), nn.Flatten(), nn.Linear(512, 4))
images = torch.rand(20, 3, 16, 16).to(memory_format=torch.channels_last)
network = network.to(memory_format=torch.channels_last)
print(all(is_sound(network, images, lambda one, given: one(given)) for _ in range(20)))
"""


def test_a_copy_with_few_channels_is_judged_without_harm() -> None:
    done = subprocess.run([sys.executable, "-c", JUDGED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
