"""The same computations as zskd's in plain PyTorch: the baseline of the benchmark.

Unchanged networks, torch's own Adam, the same number of steps for every image, and no unnecessary gradients.
The loops share no code with those of zskd.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zskd import AugmentConfig, Classifier, DistillConfig, SynthesisConfig
from zskd.data.transforms import affine_matrices


def plain_network(classifier: Classifier) -> nn.Sequential:
    """Return a copy of a LeNet as it is usually written: channels first, ReLU before pooling."""
    layers = [deepcopy(layer) for layer in classifier.module.children()]
    for i, layer in enumerate(layers[:-1]):
        if isinstance(layer, nn.MaxPool2d) and isinstance(layers[i + 1], nn.ReLU):
            layers[i], layers[i + 1] = layers[i + 1], layers[i]
    return nn.Sequential(*layers).to(memory_format=torch.contiguous_format)


def reproduction_images(network: nn.Module, targets: Tensor, *, steps: int = 1500, seed: int = 0) -> Tensor:
    """Make images as the reproduction does at its 40 % rate: free pixels, τ = 20, batch 100, Adam at 3."""
    network.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    made = []
    for target in targets.split(100):
        images = torch.randn(len(target), 1, 32, 32, generator=generator).requires_grad_(True)
        adam = torch.optim.Adam([images], lr=3.0)
        for _ in range(steps):
            adam.zero_grad()
            loss = F.cross_entropy(network(images) / 20, target) + 0.001 / 2 * images.square().sum()
            loss.backward()
            adam.step()
        made.append(images.detach().clamp(0, 1))
    return torch.cat(made)


def our_images(
    network: nn.Module, starts: Tensor, targets: Tensor, config: SynthesisConfig, seed: int = 0
) -> Tensor:
    """Make images with zskd's settings: all steps for every image, a random map at each."""
    network.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    made = []
    for first, target in zip(starts.split(100), targets.split(100), strict=True):
        images = first.clone().requires_grad_(True)
        adam = torch.optim.Adam([images], lr=config.learning_rate)
        for _ in range(config.steps):
            adam.zero_grad()
            uniform = torch.rand(len(images), 6, generator=generator)
            moved = _moved(images, affine_matrices(uniform, config.warp, *images.shape[2:]))
            F.cross_entropy(network(moved) / config.tau, target, reduction="sum").backward()
            adam.step()
            with torch.no_grad():
                images.clamp_(0, 1)
        made.append(images.detach())
    return torch.cat(made)


def distillation_step(
    teacher: nn.Module, student: nn.Module, images: Tensor, config: DistillConfig
) -> Callable[[], None]:
    """Return one step of distillation on random batches of images; it computes the teacher's outputs.

    Args:
        teacher: without gradients.
        student: trained.
        images: (N, C, H, W) in [0, 1].
        config: augmentation, batch size, learning rate and τ.
    """
    optimiser = torch.optim.Adam(student.parameters(), lr=config.learning_rate)

    def step() -> None:
        batch = images[torch.randint(len(images), (config.batch_size,))]
        matrices = affine_matrices(torch.rand(len(batch), 6), config.augment, *batch.shape[2:])
        batch = _mixed(_moved(batch, matrices), config.augment)
        with torch.no_grad():
            soft_labels = F.softmax(teacher(batch) / config.tau, dim=1)
        loss = F.cross_entropy(student(batch) / config.tau, soft_labels) * config.tau**2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def _moved(images: Tensor, matrices: Tensor) -> Tensor:
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def _mixed(images: Tensor, config: AugmentConfig) -> Tensor:
    """MixUp for a share of the images, then CutMix for another, image by image masks."""
    partner = images[torch.randperm(len(images))]
    kind, weight = torch.rand(2, len(images), 1, 1, 1)
    blended = torch.where(kind < config.mixup, weight * images + (1 - weight) * partner, images)
    side = images.shape[-1]
    half = side * (1 - weight[:, :, :, 0]).sqrt() / 2
    positions = torch.arange(side).view(1, 1, side) + 0.5
    rows, columns = ((positions - side * torch.rand(len(images), 1, 1)).abs() < half for _ in range(2))
    inside = rows[:, :, :, None] & columns[:, :, None, :]
    cut = (kind >= config.mixup) & (kind < config.mixup + config.cutmix)
    return torch.where(inside & cut, partner, blended)
