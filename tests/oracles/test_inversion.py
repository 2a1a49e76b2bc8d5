"""Inversion against teachers with a known solution."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zskd.config.registry import START_IMAGES
from zskd.config.synthesis import SynthesisConfig
from zskd.config.transforms import WarpConfig
from zskd.core.errors import ZskdError
from zskd.models.classifier import Classifier, InputSpec
from zskd.synthesis.inversion.initial import draw_initial, draw_warps
from zskd.synthesis.inversion.invert import invert
from zskd.synthesis.inversion.lanes import InversionBatch, LaneState
from zskd.training.per_sample_adam import LaneAdam


def linear_teacher(classes: int = 5, scale: float = 1.0) -> Classifier:
    """Softmax regression with full-row-rank weights: every target can be reached exactly."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
    rows = torch.linalg.qr(torch.randn(64, classes, generator=torch.Generator().manual_seed(0)))[0].T
    with torch.no_grad():
        module[1].weight.copy_(scale * rows)
        module[1].bias.zero_()
    return Classifier(module, spec=InputSpec(shape=(1, 8, 8))).freeze()


def some(n: int, teacher: Classifier, seed: int = 0) -> tuple[Tensor, Tensor]:
    starts = draw_initial("uniform", list(range(n)), seed=seed, shape=teacher.spec.shape, box=(0.0, 1.0))
    y = np.random.default_rng(seed).dirichlet([0.8] * teacher.classes, n).astype(np.float32)
    return starts, torch.from_numpy(y)


def still(**settings: object) -> SynthesisConfig:
    """Settings with nothing but the target, at τ = 4 and in 20 lanes unless others are given."""
    plain = {"tau": 4.0, "warp": WarpConfig(), "learning_rate": 0.1, "noise_share": 0.0}
    plain |= {"tolerance": 0.0, "batch_size": 20}
    return SynthesisConfig(**(plain | settings))  # type: ignore[arg-type]


def made(
    teacher: Classifier, starts: Tensor, targets: Tensor, config: SynthesisConfig, warps: Tensor | None = None
) -> Tensor:
    return invert(teacher, InversionBatch(starts, targets, warps), config)[0]


def kl(teacher: Classifier, images: Tensor, targets: Tensor, tau: float) -> Tensor:
    return F.kl_div(F.log_softmax(teacher(images) / tau, 1), targets, reduction="none").sum(1)


@pytest.mark.parametrize("pixels", ["project", "free"])
def test_a_linear_teacher_is_inverted_exactly(pixels: str) -> None:
    teacher = linear_teacher(scale=8.0)
    starts, targets = some(12, teacher)
    config = still(steps=1500, learning_rate=0.02, tau=1.0, pixels=pixels, batch_size=12)
    last: list[Tensor] = []

    def record(lanes: LaneState) -> None:
        last[:] = [lanes.images.clone()]

    invert(teacher, InversionBatch(starts, targets), config, on_step=record)
    assert float(kl(teacher, last[0], targets, 1.0).max()) < 1e-4


def test_adam_of_lanes_is_adam() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 1, 4, 4, generator=generator)
    parameter = images.clone().requires_grad_(True)
    lanes, reference = LaneAdam.fresh(images), torch.optim.Adam([parameter], lr=0.07)
    for _ in range(25):
        gradient = torch.randn(3, 1, 4, 4, generator=generator)
        lanes.update(images, gradient, 0.07)
        parameter.grad = gradient.clone()
        reference.step()
    torch.testing.assert_close(images, parameter.detach(), atol=1e-6, rtol=1e-5)


def test_a_replaced_lane_restarts_and_does_not_change_the_others() -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(20, 2, 1, 3, 3, generator=generator)
    fresh, old = torch.randn(2, 1, 3, 3, generator=generator)
    images = torch.stack([torch.zeros(1, 3, 3), old])
    lanes = LaneAdam.fresh(images)
    for gradient in gradients[:10]:
        lanes.update(images, gradient, 0.1)
    images[0] = fresh
    lanes.reset(torch.tensor([0]))
    assert lanes.steps.tolist() == [0.0, 10.0]
    for gradient in gradients[10:]:
        lanes.update(images, gradient, 0.1)

    alone_new, alone_old = fresh[None].clone(), old[None].clone()
    state = LaneAdam.fresh(alone_new)
    for gradient in gradients[10:]:
        state.update(alone_new, gradient[:1], 0.1)
    state = LaneAdam.fresh(alone_old)
    for gradient in gradients:
        state.update(alone_old, gradient[1:], 0.1)
    torch.testing.assert_close(images, torch.cat([alone_new, alone_old]), rtol=0, atol=0)


def test_an_image_does_not_depend_on_the_other_images_or_its_lane(teacher: Classifier) -> None:
    starts, targets = some(16, teacher)
    config = still(steps=10, batch_size=16)
    whole = made(teacher, starts, targets, config)
    turned = made(teacher, starts.flip(0), targets.flip(0), config).flip(0)
    torch.testing.assert_close(whole, turned, rtol=0, atol=0)
    others = starts.clone()
    others[1:] = 0.5
    torch.testing.assert_close(made(teacher, others, targets, config)[0], whole[0], rtol=0, atol=0)


@pytest.mark.parametrize("pixels", ["project", "free", "minmax"])
def test_stored_pixels_lie_in_the_box(teacher: Classifier, pixels: str) -> None:
    starts, targets = some(8, teacher)
    images = made(teacher, starts, targets, still(steps=5, learning_rate=1.0, pixels=pixels))
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1


def test_minmax_stretches_the_whole_batch(teacher: Classifier) -> None:
    starts, targets = some(8, teacher)
    images = made(teacher, starts, targets, still(steps=3, pixels="minmax"))
    assert (float(images.min()), float(images.max())) == (0, 1)
    assert sum(float(image.max()) == 1 for image in images) < 8


def test_the_penalty_makes_pixels_smaller(teacher: Classifier) -> None:
    starts, targets = some(8, teacher)
    plain = made(teacher, starts, targets, still(steps=30, pixels="free"))
    small = made(teacher, starts, targets, still(steps=30, pixels="free", l2=10.0))
    assert float(small.square().sum()) < 0.7 * float(plain.square().sum())


def test_more_steps_come_closer_to_the_targets(teacher: Classifier) -> None:
    starts, targets = some(20, teacher)
    far, near = (
        kl(teacher, made(teacher, starts, targets, still(steps=n)), targets, 4.0).mean() for n in (5, 50)
    )
    assert float(near) < 0.3 * float(far)


def test_random_maps_make_an_image_meet_its_target_under_other_maps(teacher: Classifier) -> None:
    starts, targets = some(20, teacher)
    warp = WarpConfig(rotation=15, shift=0.08)
    plain, robust = still(steps=60), still(steps=60, warp=warp)
    uniform = draw_warps(list(range(20)), 60, seed=0)
    from zskd.data.transforms import affine_matrices
    from zskd.data.transforms import warp as move

    other = affine_matrices(draw_warps(list(range(100, 120)), 1, seed=0)[:, 0], warp, 1, 1)
    losses = [
        float(kl(teacher, move(images, other, 0.0), targets, 4.0).mean())
        for images in (
            made(teacher, starts, targets, plain),
            made(teacher, starts, targets, robust, uniform),
        )
    ]
    assert losses[1] < 0.6 * losses[0]


def test_carried_lanes_continue_the_optimisation(teacher: Classifier) -> None:
    starts, targets = some(6, teacher)
    config = still(steps=4, batch_size=6, carry_images=True, carry_moments=True)
    images, steps = invert(teacher, InversionBatch(starts.repeat(2, 1, 1, 1), targets.repeat(2, 1)), config)
    first, second = images.split(6)
    twice = made(teacher, starts, targets, still(steps=8, batch_size=6))
    assert not torch.equal(first, second)
    torch.testing.assert_close(second, twice, rtol=0, atol=0)
    assert steps.tolist() == [4] * 12


def slowly(teacher: Classifier, batch: InversionBatch, config: SynthesisConfig) -> Tensor:
    """Batch after batch, with an Adam of torch's own for every lane."""
    lanes, results = config.batch_size, []
    images: list[Tensor] = []
    adams: list[torch.optim.Adam] = []
    for first in range(0, len(batch), lanes):
        starts, targets = batch.starts[first : first + lanes], batch.targets[first : first + lanes]
        if not images or not config.carry_images:
            fresh = [start.clone().requires_grad_(True) for start in starts]
            for adam, image, old in zip(adams, fresh, images, strict=False):
                adam.param_groups[0]["params"] = [image]
                adam.state[image] = adam.state.pop(old)
            images = fresh
        if not adams or not config.carry_moments:
            adams = [torch.optim.Adam([image], lr=config.learning_rate) for image in images]
        for _ in range(config.steps):
            for image, target, adam in zip(images, targets, adams, strict=True):
                logits = teacher(image[None]) / config.tau
                loss = F.cross_entropy(logits, target[None]) + config.l2 / 2 * image.square().sum()
                (image.grad,) = torch.autograd.grad(loss, image)
                adam.step()
            with torch.no_grad():
                together = torch.stack(images)
                if config.pixels == "minmax":
                    together = (together - together.min()) / (together.max() - together.min())
                elif config.pixels == "project":
                    together = together.clamp(0, 1)
                for image, value in zip(images, together, strict=True):
                    image.copy_(value)
        results.append(torch.stack(images).detach().clamp(0, 1))
    return torch.cat(results)


@pytest.mark.parametrize("pixels", ["project", "free", "minmax"])
@pytest.mark.parametrize("carry_moments", [False, True])
@pytest.mark.parametrize("carry_images", [False, True])
def test_lanes_carry_images_and_moments_as_set(carry_images: bool, carry_moments: bool, pixels: str) -> None:
    teacher = linear_teacher(scale=6.0)
    batch = InversionBatch(*some(12, teacher))
    carry = {"carry_images": carry_images, "carry_moments": carry_moments}
    config = still(steps=6, tau=1.0, l2=0.01, batch_size=4, pixels=pixels, learning_rate=0.05, **carry)
    images, steps = invert(teacher, batch, config)
    torch.testing.assert_close(images, slowly(teacher, batch, config), atol=2e-5, rtol=1e-4)
    assert steps.tolist() == [6] * 12


STEPS, COUNT = 24, 31


@pytest.fixture(scope="module", params=["still", "moved"])
def settings(request: pytest.FixtureRequest) -> SynthesisConfig:
    """Some images meet their targets early, others never: lanes are refilled at many steps."""
    if request.param == "still":
        return still(steps=STEPS, tolerance=0.02, batch_size=6)
    return still(steps=STEPS, tolerance=0.2, batch_size=6, warp=WarpConfig(rotation=10, shift=0.05))


@pytest.fixture(scope="module")
def batch(teacher: Classifier, settings: SynthesisConfig) -> InversionBatch:
    starts, targets = some(COUNT, teacher)
    warps = draw_warps(list(range(COUNT)), STEPS, seed=0) if settings.warp.moves else None
    return InversionBatch(starts, targets, warps)


@pytest.fixture(scope="module")
def finished(teacher: Classifier, batch: InversionBatch, settings: SynthesisConfig) -> tuple[Tensor, Tensor]:
    images, steps = invert(teacher, batch, settings)
    assert len(set(steps.tolist())) > 4, steps
    assert int(steps.max()) == STEPS
    return images, steps


def rows_of(batch: InversionBatch, rows: list[int]) -> InversionBatch:
    return InversionBatch(
        batch.starts[rows], batch.targets[rows], None if batch.warps is None else batch.warps[rows]
    )


ORDERS: dict[str, list[int]] = {
    "backwards": list(range(COUNT))[::-1],
    "shuffled": torch.randperm(COUNT, generator=torch.Generator().manual_seed(1)).tolist(),
    "every third": list(range(0, COUNT, 3)),
    "fewer than lanes": [30, 2, 17],
    "the first alone": [0],
    "one twice": [5, 8, 5, 30, 5],
}


@pytest.mark.parametrize("order", list(ORDERS))
def test_an_image_depends_neither_on_how_many_others_there_are_nor_on_their_order(
    teacher: Classifier,
    batch: InversionBatch,
    settings: SynthesisConfig,
    finished: tuple[Tensor, Tensor],
    order: str,
) -> None:
    rows = ORDERS[order]
    images, steps = invert(teacher, rows_of(batch, rows), settings)
    assert torch.equal(steps, finished[1][rows])
    assert torch.equal(images, finished[0][rows])


def test_an_image_that_met_its_target_is_that_of_a_run_with_as_many_steps(
    teacher: Classifier, batch: InversionBatch, settings: SynthesisConfig, finished: tuple[Tensor, Tensor]
) -> None:
    images, steps = finished
    for taken in set(steps.tolist()):
        shorter = replace(settings, steps=taken, tolerance=0.0)
        expected, all_taken = invert(teacher, batch, shorter)
        assert all_taken.tolist() == [taken] * COUNT
        assert torch.equal(images[steps == taken], expected[steps == taken])


def test_an_image_is_finished_by_the_first_step_that_finds_its_target_met(teacher: Classifier) -> None:
    starts, targets = some(COUNT, teacher)
    config = still(steps=STEPS, tolerance=0.02, batch_size=6)
    paths: list[list[Tensor]] = [[] for _ in range(COUNT)]

    def record(lanes: LaneState) -> None:
        for lane, number in enumerate(lanes.numbers.tolist()):
            if number < COUNT:
                assert int(lanes.steps[lane]) == len(paths[number])
                paths[number].append(lanes.images[lane].clone())

    _, steps = invert(teacher, InversionBatch(starts, targets), config, on_step=record)
    assert steps.tolist() == [len(path) for path in paths]
    assert 1 <= int(steps.min()) < int(steps.max()) == STEPS
    for path, target in zip(paths, targets, strict=True):
        with torch.no_grad():
            found = kl(teacher, torch.stack(path), target.expand(len(path), -1), 4.0)
        assert bool((found[:-1] >= 0.02 - 1e-5).all())
        assert len(path) == STEPS or float(found[-1]) < 0.02 + 1e-5


@pytest.mark.parametrize(("tolerance", "expected"), [(1e9, 1), (0.0, 5)])
def test_a_huge_tolerance_ends_at_the_first_step_and_none_at_the_last(
    teacher: Classifier, tolerance: float, expected: int
) -> None:
    starts, targets = some(13, teacher)
    reported: list[int] = []
    config = still(steps=5, tolerance=tolerance, batch_size=4)
    images, steps = invert(teacher, InversionBatch(starts, targets), config, on_progress=reported.append)
    assert steps.tolist() == [expected] * 13
    assert steps.dtype == torch.int32
    assert reported == [4, 4, 4, 1]
    assert torch.equal(images, made(teacher, starts, targets, replace(config, steps=expected, tolerance=0.0)))


def test_on_progress_counts_every_image_once(
    teacher: Classifier, batch: InversionBatch, settings: SynthesisConfig, finished: tuple[Tensor, Tensor]
) -> None:
    reported: list[int] = []
    invert(teacher, batch, settings, on_progress=reported.append)
    assert min(reported) > 0
    assert sum(reported) == COUNT


def test_the_batch_does_not_change(
    teacher: Classifier, batch: InversionBatch, settings: SynthesisConfig
) -> None:
    before = batch.starts.clone(), batch.targets.clone()
    invert(teacher, batch, settings)
    assert torch.equal(batch.starts, before[0])
    assert torch.equal(batch.targets, before[1])


@pytest.mark.parametrize("shape", [(3, 16, 12), (1, 32, 32)])
@pytest.mark.parametrize("kind", list(START_IMAGES))
def test_starts_depend_on_their_index_alone(kind: str, shape: tuple[int, int, int]) -> None:
    """Also where MKL rounds one transform otherwise than one of several: of 32×32, with AVX-512."""
    numbers = [4, 9, *range(20, 61)]
    together = draw_initial(kind, numbers, seed=1, shape=shape, box=(0.0, 1.0))
    assert together.shape == (len(numbers), *shape)
    for some in ([1], [40], [0, 2], [30, 5, 11]):
        apart = draw_initial(kind, [numbers[row] for row in some], seed=1, shape=shape, box=(0.0, 1.0))
        assert torch.equal(together[some], apart)


def test_starts_have_the_distribution_of_their_name() -> None:
    rows = list(range(64))
    uniform = draw_initial("uniform", rows, seed=0, shape=(1, 32, 32), box=(0.2, 0.6))
    assert 0.2 <= float(uniform.min()) < 0.21
    assert 0.59 < float(uniform.max()) <= 0.6
    gaussian = draw_initial("gaussian", rows, seed=0, shape=(1, 32, 32), box=(0.0, 1.0))
    assert float(gaussian.mean()) == pytest.approx(0, abs=0.02)
    assert float(gaussian.std()) == pytest.approx(1, abs=0.02)
    smooth = draw_initial("smooth", rows, seed=0, shape=(1, 32, 32), box=(0.0, 1.0))

    def neighbours(images: Tensor) -> float:
        return float((images[..., 1:] - images[..., :-1]).abs().mean() / images.std())

    assert neighbours(smooth) < 0.5 * neighbours(uniform)


def test_shapes_have_plain_backgrounds_of_both_kinds_and_edges() -> None:
    shapes = draw_initial("shapes", list(range(200)), seed=0, shape=(1, 32, 32), box=(0.2, 0.6))
    assert float(shapes.min()) >= 0.2 - 1e-6  # of float32
    assert float(shapes.max()) <= 0.6 + 1e-6
    corners = torch.stack([shapes[:, 0, i, j] for i in (0, -1) for j in (0, -1)])
    for end in (0.2, 0.6):
        share = float((corners - end).abs().lt(1e-3).all(0).float().mean())
        assert 0.1 < share < 0.4, f"{share} of the backgrounds are at {end}"
    # most neighbours are equal and some differ much: regions and edges, where smooth noise has slopes
    steps = shapes.diff(dim=3).abs() / 0.4
    assert float((steps < 0.01).float().mean()) > 0.4
    assert float((steps > 0.2).float().mean()) > 0.03


def test_a_loss_that_is_not_finite_names_the_teacher_if_start_images_show_it() -> None:
    teacher = linear_teacher()
    with torch.no_grad():
        teacher.head.bias[0] = float("inf")
    starts, targets = some(4, teacher)
    message = r"not finite, because the teacher's logits for start images are not: check its weights"
    with pytest.raises(ZskdError, match=message):
        invert(teacher, InversionBatch(starts, targets), still(steps=5))


def test_a_loss_that_is_not_finite_names_the_steps_and_the_setting_otherwise() -> None:
    teacher = linear_teacher()
    starts, targets = some(4, teacher)
    message = r"not finite at step 2 of an image: lower --synthesis.learning-rate"
    with pytest.raises(ZskdError, match=message):
        invert(teacher, InversionBatch(starts, targets), still(steps=5, learning_rate=1e38, pixels="free"))
