"""Showing each class that the teacher sees equally often."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from zskd.classifier import Classifier, InputSpec
from zskd.config import Augment, Distill, Synthesis
from zskd.distillation import distill
from zskd.synthesis import SetSpec, build_transfer_set
from zskd.transfer_set import TransferSet


class Listening(nn.Module):
    """A linear network that leans towards one class, never gives another, and remembers its answers."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten, self.head = nn.Flatten(), nn.Linear(64, 4)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(4, 64, generator=torch.Generator().manual_seed(1)))
            self.head.weight[3] = 0
            self.head.bias.copy_(torch.tensor([2.0, 0.0, 0.0, -50.0]))
        self.said: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        answers: Tensor = self.head(self.flatten(images))
        self.said.append(answers.detach().argmax(1))
        return answers


@pytest.fixture
def teacher() -> Classifier:
    return Classifier(Listening(), spec=InputSpec(shape=(1, 8, 8))).freeze()


@pytest.fixture
def noise(teacher: Classifier, tmp_path: Path) -> TransferSet:
    spec = SetSpec(method="noise", count=200, synthesis=Synthesis(shard_size=50))
    return build_transfer_set(teacher, spec, tmp_path / "set")


def shown(teacher: Classifier, images: TransferSet, *, balance: bool) -> Tensor:
    """How often each class was among the images of some passes."""
    network = teacher.module
    assert isinstance(network, Listening)
    network.said.clear()
    config = Distill(steps=30, batch_size=20, balance=balance, augment=Augment())
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    distill(teacher, images, student, config)
    return torch.cat(network.said).bincount(minlength=4)


def test_classes_are_shown_equally_often(teacher: Classifier, noise: TransferSet) -> None:
    plain, balanced = (shown(teacher, noise, balance=balance) for balance in (False, True))
    there = torch.cat([shard.logits for shard in noise]).argmax(1).bincount(minlength=4)
    assert plain.tolist() == (3 * there).tolist()
    assert max(plain[:3]) > 2 * min(plain[:3])
    # a pass of 200 images has 67, 67 and 66 turns
    assert balanced.tolist() == [201, 201, 198, 0]


def test_every_image_can_still_be_shown(teacher: Classifier, noise: TransferSet) -> None:
    network = teacher.module
    assert isinstance(network, Listening)
    seen: set[bytes] = set()

    def note(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.update(image.numpy().tobytes() for image in inputs[0])

    hook = network.register_forward_pre_hook(note)
    config = Distill(steps=300, batch_size=20, balance=True, augment=Augment())
    distill(teacher, noise, nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), config)
    hook.remove()
    assert len(seen) > 195
