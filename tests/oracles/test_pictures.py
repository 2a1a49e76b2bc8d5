"""Procedural pictures: their spectra, their colours and their edges against what is known of them."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from zskd.core.rng import numpy_stream
from zskd.synthesis.inversion.initial import draw_initial
from zskd.synthesis.pictures.colour import tints
from zskd.synthesis.pictures.noise import spectral
from zskd.synthesis.pictures.streams import Streams

KINDS = ("procedural", "dead_leaves", "textures", "fractals", "waves", "gradients")


def streams(count: int) -> Streams:
    return [numpy_stream(3, "start", index) for index in range(count)]


def power(fields: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean power of each frequency, by NumPy's own transform, and these frequencies in cycles per image."""
    values = fields.numpy().astype(np.float64)
    found = (np.abs(np.fft.fft2(values)) ** 2).mean((0, 1))
    down = np.fft.fftfreq(values.shape[2], 1 / values.shape[2])[:, None]
    across = np.fft.fftfreq(values.shape[3], 1 / values.shape[3])[None]
    return found, down, across


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_the_power_of_a_fractal_falls_as_f_to_the_minus_two_a(slope: float) -> None:
    found, down, across = power(spectral(streams(100), (1, 24, 40), slope=slope))
    frequency = np.hypot(down, across)
    inside = (frequency > 0) & (frequency < 11)
    fitted = np.polyfit(np.log(frequency[inside]), np.log(found[inside]), 1)[0]
    assert fitted == pytest.approx(-2 * slope, abs=0.08)


def test_a_texture_holds_its_band_and_its_direction() -> None:
    fields = spectral(streams(50), (1, 32, 32), slope=0.0, angle=0.0, stretch=4.0, peak=6.0, width=0.2)
    found, down, across = power(fields)
    weights = found / found.sum()
    line = weights[0, 1:16]
    assert 1 + int(line.argmax()) == 6
    assert (weights * np.abs(down)).sum() < (weights * np.abs(across)).sum() / 3
    torch.testing.assert_close(fields.square().mean((1, 2, 3)), torch.ones(50))
    torch.testing.assert_close(fields.mean((1, 2, 3)), torch.zeros(50), atol=1e-5, rtol=0)


def test_bytes_give_fields_that_are_nearly_gaussian() -> None:
    values = spectral(streams(100), (1, 32, 32), slope=0.0).flatten()
    assert float(values.pow(4).mean()) == pytest.approx(3, abs=0.1)
    assert float((values.abs() > 2).float().mean()) == pytest.approx(math.erfc(math.sqrt(2)), abs=0.003)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 9, 14), (5, 8, 8), (1, 1, 1)])
def test_pictures_fill_the_box_in_any_shape(kind: str, shape: tuple[int, int, int]) -> None:
    pictures = draw_initial(kind, range(60), seed=0, shape=shape, box=(-2.0, 0.5))
    assert bool(torch.isfinite(pictures).all())
    assert -2 - 1e-5 <= float(pictures.min()) < -1.5
    assert 0 < float(pictures.max()) <= 0.5 + 1e-5
    assert len({one.numpy().tobytes() for one in pictures}) > 50


@pytest.mark.parametrize("shape", [(1, 28, 28), (5, 9, 11)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_the_same_in_any_batch(kind: str, shape: tuple[int, int, int]) -> None:
    together = draw_initial(kind, range(41), seed=1, shape=shape, box=(0.0, 1.0))
    for some in ([0], [40], [3, 5], list(range(1, 40, 3))):
        assert torch.equal(together[some], draw_initial(kind, some, seed=1, shape=shape, box=(0.0, 1.0)))


def test_channels_are_correlated_as_in_natural_pictures() -> None:
    """Ruderman et al. 1998: brightness holds most of the variance of the colours."""
    colours = torch.stack(tints(streams(500), 3, 2)).flatten(0, 1)[:, :, 0, 0].double()
    variances = torch.linalg.eigvalsh(colours.T.cov())
    assert 0.6 < float(variances[-1] / variances.sum()) < 0.95
    (grey,) = tints(streams(500), 1, 1)
    assert float(grey.std()) == pytest.approx(12**-0.5, abs=0.02)


def test_dead_leaves_have_edges_as_natural_pictures_have() -> None:
    """Differences of neighbours: kurtosis far above that of Gaussian fields (Lee, Mumford and Huang 2001)."""

    def kurtosis(images: Tensor) -> float:
        steps = images.diff(dim=3).double()
        steps = steps / steps.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-9)
        return float(steps.pow(4).mean())

    leaves = draw_initial("dead_leaves", range(200), seed=0, shape=(1, 32, 32), box=(0.0, 1.0))
    assert kurtosis(leaves) > 9
    assert kurtosis(spectral(streams(200), (1, 32, 32), slope=1.0)) < 3.5


def test_every_family_is_in_the_mixture() -> None:
    """A picture of the mixture that nothing covers is one of its families, drawn from the same stream."""
    from zskd.synthesis.pictures.families import fractals, gradients, textures, waves
    from zskd.synthesis.pictures.leaves import dead_leaves
    from zskd.synthesis.pictures.mixture import procedural

    shape, box = (3, 8, 8), (0.0, 1.0)
    mixed = procedural(streams(80), shape, box)
    found = 0
    for draw in (dead_leaves, textures, fractals, waves, gradients):
        later = streams(80)
        for stream in later:
            stream.random(5, dtype=np.float32)  # what the mixture draws first
        same = (draw(later, shape, box) == mixed).all(dim=(1, 2, 3))
        assert 1 <= int(same.sum()) < 40
        found += int(same.sum())
    assert 35 < found < 62
