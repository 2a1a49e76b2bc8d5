"""Strong augmentation against torchvision's functional transforms, which take one factor per call."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import map_coordinates

from zskd.config.transforms import AugmentConfig
from zskd.core.extras import import_extra
from zskd.core.types import Images
from zskd.data.colour import brighten, change_contrast, saturate, turn_hue
from zskd.data.crops import crop
from zskd.data.transforms import affine_matrices, augment, warp

import_extra("torchvision")

from torchvision.transforms import functional as of_torchvision

BOX = (0.0, 1.0)
STRONG = ("crop", "flip_vertical", "brightness", "contrast", "saturation", "cutout", "jpeg")


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 6, channels: int = 3) -> Images:
    """Random colours, and plain ones: black, white, grey and the corners of the colour cube."""
    images = torch.rand(count, channels, 9, 12, generator=rng(1))
    images[0] = 0
    images[1, :, :4] = 1
    images[2, :, :, 3:] = 0.25
    images[3, :, :, 0], images[3, 0, :, 0] = 0, 1
    return images


@pytest.mark.parametrize(
    ("ours", "theirs", "low", "high"),
    [
        (brighten, of_torchvision.adjust_brightness, 0.0, 2.0),
        (change_contrast, of_torchvision.adjust_contrast, 0.0, 2.0),
        (saturate, of_torchvision.adjust_saturation, 0.0, 2.0),
        (turn_hue, of_torchvision.adjust_hue, -0.5, 0.5),
    ],
)
def test_colours_are_those_of_torchvision(ours, theirs, low: float, high: float) -> None:  # type: ignore[no-untyped-def]
    images = pictures()
    factors = torch.linspace(low, high, len(images))
    expected = torch.stack([theirs(one, float(f)) for one, f in zip(images, factors, strict=True)])
    torch.testing.assert_close(ours(images, factors), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("shape", [(9, 12), (4, 4), (1, 3)])
@pytest.mark.parametrize("share", [0.25, 1.0])
def test_a_crop_is_one_of_an_image_padded_by_reflection(shape: tuple[int, int], share: float) -> None:
    images = torch.rand(8, 2, *shape, generator=rng())
    made = crop(images, AugmentConfig(crop=share), rng(3))
    down, across = (min(round(share * side), side - 1) for side in shape)
    padded = of_torchvision.pad(images, [across, down, across, down], padding_mode="reflect")
    seen = set()
    for old, new in zip(padded, made, strict=True):
        tried = [
            (y, x)
            for y in range(2 * down + 1)
            for x in range(2 * across + 1)
            if torch.equal(of_torchvision.crop(old, y, x, *shape), new)
        ]
        assert tried
        seen.add(tried[0])
    assert len(seen) > 1


def test_flips_are_those_of_torchvision() -> None:
    images = pictures(channels=5)
    made = augment(images, AugmentConfig(flip_vertical=1.0), BOX, rng())
    assert torch.equal(made, of_torchvision.vflip(images))
    made = augment(images, AugmentConfig(flip=1.0), BOX, rng())
    torch.testing.assert_close(made, of_torchvision.hflip(images), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("outside", "mode"), [(0.0, "grid-constant"), (None, "reflect")])
def test_affine_maps_are_those_of_scipy(outside: float | None, mode: str) -> None:
    images = pictures()
    config = AugmentConfig(rotation=40, scale=(0.5, 1.6), shift=0.3, shear=0.4, flip=0.5)
    matrices = affine_matrices(torch.rand(len(images), 6, generator=rng(2)), config, *images.shape[2:])
    height, width = images.shape[2:]
    rows, columns = np.mgrid[:height, :width]
    # to coordinates in [-1, 1] at the edges of the image, through the map, and back to pixels
    ours = np.stack([(columns + 0.5) * 2 / width - 1, (rows + 0.5) * 2 / height - 1, np.ones_like(rows)])
    for image, matrix, made in zip(images, matrices, warp(images, matrices, outside), strict=True):
        x, y = np.einsum("ij,jhw->ihw", matrix.numpy(), ours)
        places = np.stack([((y + 1) * height - 1) / 2, ((x + 1) * width - 1) / 2])
        expected = np.stack([map_coordinates(one.numpy(), places, order=1, mode=mode) for one in image])
        np.testing.assert_allclose(made.numpy(), expected, atol=2e-5)


def test_a_map_of_an_image_with_reflection_leaves_no_dark_corners() -> None:
    images, turned = torch.full((20, 3, 9, 12), 0.8), {"rotation": 45.0, "shift": 0.3}
    reflected = augment(images, AugmentConfig(outside="reflection", **turned), BOX, rng())
    torch.testing.assert_close(reflected, images)
    assert augment(images, AugmentConfig(**turned), BOX, rng()).min() == 0


def test_a_cut_out_is_a_square_of_one_colour() -> None:
    images = torch.rand(200, 3, 16, 16, generator=rng())
    made = augment(images, AugmentConfig(cutout=0.5, cutout_side=0.5), (0.0, 0.9), rng(2))
    changed = (made != images).any(1)
    covered = changed.flatten(1).any(1)
    assert 70 < int(covered.sum()) < 130
    for image, hidden in zip(made[covered], changed[covered], strict=True):
        rows, columns = hidden.any(1).nonzero()[:, 0], hidden.any(0).nonzero()[:, 0]
        square = image[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        expected = of_torchvision.erase(
            image, int(rows[0]), int(columns[0]), len(rows), len(columns), square[:, :1, :1]
        )
        assert torch.equal(image, expected)
        assert max(len(rows), len(columns)) <= 9
    assert float(made[covered].max()) <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_images_are_those_of_a_file(channels: int) -> None:
    """The file is written by hand from 8-bit pixels; the box of the images is another one."""
    levels = torch.randint(0, 256, (5, channels, 24, 17), generator=rng(), dtype=torch.uint8)
    images, box = levels / 255 * 0.6 - 0.1, (-0.1, 0.5)
    made = augment(images, AugmentConfig(jpeg=1.0, jpeg_quality=(60, 60)), box, rng(1))
    for image, pixels in zip(made, levels, strict=True):
        file = io.BytesIO()
        Image.fromarray(pixels.permute(1, 2, 0).squeeze(-1).numpy()).save(file, "JPEG", quality=60)
        read = torch.from_numpy(np.array(Image.open(file))).view(24, 17, channels).permute(2, 0, 1)
        torch.testing.assert_close(image, read / 255 * 0.6 - 0.1, atol=1e-6, rtol=0)


def test_a_share_of_the_images_is_saved_with_qualities_of_their_own() -> None:
    smooth = torch.rand(1, 3, 4, 4, generator=rng())
    images = torch.nn.functional.interpolate(smooth, size=32, mode="bicubic").clamp(0, 1).repeat(200, 1, 1, 1)
    made = augment(images, AugmentConfig(jpeg=0.5, jpeg_quality=(40, 90)), BOX, rng())
    changed = (made != images).flatten(1).any(1)
    assert 70 < int(changed.sum()) < 130
    assert len({one.numpy().tobytes() for one in made[changed]}) > 25
    few, errors = images[:9], []
    for quality in (95, 10):
        config = AugmentConfig(jpeg=1.0, jpeg_quality=(quality, quality))
        errors.append(float((augment(few, config, BOX, rng()) - few).std()))
    assert errors[0] < 0.02
    assert errors[0] < errors[1] / 3


@given(
    channels=st.integers(1, 5),
    low=st.sampled_from([0.0, -1.0, 0.2]),
    seed=st.integers(0, 2**30),
    strength=st.floats(0, 1),
    strong=st.sets(st.sampled_from(STRONG)),
)
def test_any_number_of_channels_and_any_box(
    channels: int, low: float, seed: int, strength: float, strong: set[str]
) -> None:
    box = (low, 0.8)
    images = low + (0.8 - low) * torch.rand(4, channels, 7, 5, generator=rng())
    config = AugmentConfig(hue=strength / 2, **dict.fromkeys(strong, strength))  # type: ignore[arg-type]
    before = images.clone()
    made = augment(images, config, box, rng(seed))
    assert torch.equal(images, before)
    assert torch.equal(made, augment(images, config, box, rng(seed)))
    assert made.shape == images.shape
    assert low - 1e-6 <= float(made.min())
    assert float(made.max()) <= 0.8 + 1e-6


def test_every_image_is_changed_in_its_own_way() -> None:
    images = torch.rand(1, 3, 16, 16, generator=rng()).expand(64, -1, -1, -1).contiguous()
    for change in (
        {"crop": 0.25},
        {"brightness": 0.4},
        {"contrast": 0.4},
        {"saturation": 0.4},
        {"hue": 0.1},
        {"cutout": 1.0},
        {"jpeg": 1.0, "jpeg_quality": (1, 100)},
    ):
        made = augment(images, AugmentConfig(**change), BOX, rng())  # type: ignore[arg-type]
        assert len({one.numpy().tobytes() for one in made}) > 40, change


def test_a_change_that_is_not_used_takes_no_random_numbers() -> None:
    images = pictures()
    one, two = AugmentConfig(mixup=0.5), AugmentConfig(mixup=0.5, cutout_side=0.2)
    assert torch.equal(augment(images, one, BOX, rng()), augment(images, two, BOX, rng()))
