"""The fast code against slow, plain code that says the same thing."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.config.transforms import AugmentConfig, WarpConfig
from zskd.core.rng import numpy_stream
from zskd.data.transforms import affine_matrices, augment, warp
from zskd.models.classifier import Classifier
from zskd.synthesis.inversion.initial import draw_initial
from zskd.synthesis.shard import make_shard
from zskd.synthesis.spec import SetSpec

BOX = (0.0, 1.0)


def test_a_shard_is_what_the_paper_says_image_by_image(teacher: Classifier) -> None:
    """One image at a time, with torch's own Adam and the formulas written out."""
    spec = SetSpec(
        count=6,
        seed=7,
        targets=TargetsConfig(betas=(1.0, 0.1), concentration_floor=0.01, redraws=0),
        synthesis=SynthesisConfig(
            steps=12,
            tolerance=0.0,
            learning_rate=0.05,
            tau=4.0,
            l2=0.01,
            batch_size=6,
            start="uniform",
            noise_share=0.0,
            warp=WarpConfig(),
        ),
    )
    shard = make_shard(teacher, spec, 0)
    w = teacher.head_weight.numpy().astype(np.float64)
    for i in range(6):
        k = i % 10
        cosine = np.array([w[k] @ v / np.linalg.norm(w[k]) / np.linalg.norm(v) for v in w])
        alpha = 1.0 * ((cosine - cosine.min()) / (cosine.max() - cosine.min()) + 0.01)
        y = torch.from_numpy(numpy_stream(7, "targets", i).dirichlet(alpha)).float()
        torch.testing.assert_close(shard.targets[i], y, atol=1e-6, rtol=1e-5)
        x = draw_initial("uniform", [i], seed=7, shape=(1, 32, 32), box=BOX).requires_grad_(True)
        adam = torch.optim.Adam([x], lr=0.05)
        for _ in range(12):
            adam.zero_grad()
            cross_entropy = -(y * torch.log_softmax(teacher(x)[0] / 4.0, 0)).sum()
            (cross_entropy + 0.01 / 2 * x.square().sum()).backward()
            adam.step()
            with torch.no_grad():
                x.clamp_(0, 1)
        # other batch sizes round otherwise, and rounding decides the sign of tiny first steps
        assert float((shard.images[i] - x.detach()[0]).abs().mean()) < 2e-3


def warped_by_hand(image: np.ndarray, matrix: np.ndarray, outside: float) -> np.ndarray:
    """Bilinear look-up written out for one channel."""
    h, w = image.shape
    result = np.full((h, w), outside)
    for row in range(h):
        for column in range(w):
            u, v = (2 * column + 1) / w - 1, (2 * row + 1) / h - 1
            x, y = matrix @ np.array([u, v, 1.0])
            px, py = ((x + 1) * w - 1) / 2, ((y + 1) * h - 1) / 2
            value = 0.0
            for dy in (0, 1):
                for dx in (0, 1):
                    r, c = math.floor(py) + dy, math.floor(px) + dx
                    weight = (1 - abs(py - r)) * (1 - abs(px - c))
                    value += weight * (image[r, c] if 0 <= r < h and 0 <= c < w else outside)
            result[row, column] = value
    return result


@pytest.mark.parametrize("outside", [0.0, 0.25])
def test_warp_is_a_bilinear_look_up(outside: float) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 1, 9, 7, generator=generator)
    config = WarpConfig(rotation=40, scale=(0.7, 1.5), shift=0.2, shear=0.3, flip=0.5)
    matrices = affine_matrices(torch.rand(3, 6, generator=generator), config, 9, 7)
    moved = warp(images, matrices, outside)
    for image, matrix, result in zip(images, matrices, moved, strict=True):
        expected = warped_by_hand(image[0].double().numpy(), matrix.double().numpy(), outside)
        np.testing.assert_allclose(result[0].numpy(), expected, atol=1e-5)


def test_each_setting_of_a_warp_does_what_it_is_called() -> None:
    middle = torch.full((1, 6), 0.5)
    ends = torch.ones(1, 6)

    def matrix(uniform: torch.Tensor, **setting: object) -> np.ndarray:
        return affine_matrices(uniform, WarpConfig(**setting), 8, 8)[0].numpy()  # type: ignore[arg-type]

    identity = np.eye(2, 3)
    np.testing.assert_allclose(matrix(middle, rotation=30, shift=0.2, shear=0.1), identity, atol=1e-6)
    c, s = math.cos(math.radians(30)), math.sin(math.radians(30))
    np.testing.assert_allclose(matrix(ends, rotation=30), [[c, -s, 0], [s, c, 0]], atol=1e-6)
    np.testing.assert_allclose(matrix(ends, scale=(0.5, 2.0)), [[0.5, 0, 0], [0, 0.5, 0]], atol=1e-6)
    np.testing.assert_allclose(matrix(ends, shift=0.25), [[1, 0, 0.5], [0, 1, 0.5]], atol=1e-6)
    np.testing.assert_allclose(matrix(ends, shear=0.2), [[1, 0.2, 0], [0, 1, 0]], atol=1e-6)
    np.testing.assert_allclose(matrix(0 * ends, flip=0.5)[0, 0], -1, atol=1e-6)


@settings(max_examples=40)
@given(
    share=st.floats(0, 1),
    rotation=st.floats(0, 180),
    shift=st.floats(0, 1),
    salt_pepper=st.floats(0, 0.5),
    gaussian=st.floats(0, 1),
    mixup=st.floats(0, 0.5),
    cutmix=st.floats(0, 0.5),
    channels=st.integers(1, 3),
    seed=st.integers(0, 2**30),
)
def test_augmented_images_stay_in_the_box_and_follow_their_generator(
    share: float,
    rotation: float,
    shift: float,
    salt_pepper: float,
    gaussian: float,
    mixup: float,
    cutmix: float,
    channels: int,
    seed: int,
) -> None:
    config = AugmentConfig(
        share=share,
        rotation=rotation,
        shift=shift,
        salt_pepper=salt_pepper,
        gaussian=gaussian,
        mixup=mixup,
        cutmix=cutmix,
    )
    box = (0.1, 0.9)
    images = 0.1 + 0.8 * torch.rand(6, channels, 10, 8, generator=torch.Generator().manual_seed(0))
    kept = images.clone()
    first, second = (augment(images, config, box, torch.Generator().manual_seed(seed)) for _ in range(2))
    assert torch.equal(images, kept)
    assert torch.equal(first, second)
    assert first.shape == images.shape
    assert float(first.min()) >= 0.1 - 1e-6
    assert float(first.max()) <= 0.9 + 1e-6


def test_nothing_changes_without_settings_or_without_share() -> None:
    images = torch.rand(4, 1, 8, 8)
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(augment(images, AugmentConfig(), BOX, generator), images)
    still = AugmentConfig(share=0.0, rotation=90, salt_pepper=0.5, gaussian=0.5)
    torch.testing.assert_close(augment(images, still, BOX, generator), images, atol=1e-5, rtol=1e-4)


def test_shares_of_mixing_and_noise_are_met() -> None:
    images = torch.rand(2000, 1, 6, 6, generator=torch.Generator().manual_seed(1))

    def changed(config: AugmentConfig) -> float:
        result = augment(images, config, BOX, torch.Generator().manual_seed(0))
        return float((result != images).flatten(1).any(1).float().mean())

    assert changed(AugmentConfig(mixup=0.3)) == pytest.approx(0.3, abs=0.04)
    assert changed(AugmentConfig(mixup=0.3, cutmix=0.2)) == pytest.approx(0.5, abs=0.06)
    grey = torch.full((200, 1, 20, 20), 0.5)
    salted = augment(grey, AugmentConfig(salt_pepper=0.1), BOX, torch.Generator().manual_seed(0))
    assert float((salted == 1).float().mean()) == pytest.approx(0.05, abs=0.01)
    assert float((salted == 0).float().mean()) == pytest.approx(0.05, abs=0.01)


def test_mixed_images_are_blends_or_rectangles_of_two_images() -> None:
    values = torch.linspace(0, 1, 50).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    blended = augment(values, AugmentConfig(mixup=1.0), BOX, torch.Generator().manual_seed(0))
    assert float((blended.amax((1, 2, 3)) - blended.amin((1, 2, 3))).max()) < 1e-6
    cut = augment(values, AugmentConfig(cutmix=1.0), BOX, torch.Generator().manual_seed(0))
    assert all(len(image.unique()) <= 2 for image in cut)


def test_temperature_scales_the_asked_logit_gaps() -> None:
    """A 0.9-peaked target of ten classes needs gaps near 88 at τ = 20 and 18 at τ = 4."""
    y = torch.full((10,), 0.1 / 9)
    y[0] = 0.9
    for tau, gap in ((20.0, 88), (4.0, 18)):
        logits = tau * y.log()
        assert float(logits[0] - logits[1]) == pytest.approx(gap, abs=1)
        torch.testing.assert_close(F.softmax(logits / tau, 0), y)
