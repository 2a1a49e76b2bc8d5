"""The training loop: it resumes to the same bytes, sees every image, and does what its settings say."""

import math
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Generator, Tensor, nn

from zskd.config.training import FitConfig
from zskd.core.errors import ZskdError
from zskd.core.progress import Progress
from zskd.core.rng import torch_stream
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import fresh_weights
from zskd.training.batches import Batch, Prepare
from zskd.training.loop import fit
from zskd.training.state import STATE, steps_done

IMAGES, BATCH, STEPS = 13, 4, 11
CONFIG = FitConfig(steps=STEPS, batch_size=BATCH, learning_rate=0.01)
NUMBERS = torch.Generator().manual_seed(0)
X = torch.rand(IMAGES, 2, 8, 8, generator=NUMBERS)
Y = torch.arange(IMAGES) % 3


@pytest.fixture(autouse=True)
def save_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings here are short: the state is saved after every pass, however short that is."""
    monkeypatch.setattr("zskd.training.loop._SAVE_STEPS", 1)


def network() -> nn.Module:
    """Everything with a state of its own: batch-norm, dropout, and convolutions that lie channels-last."""
    module = fresh_weights(
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, bias=False),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(64, 3),
        ),
        seed=0,
    )
    return Classifier(module, spec=InputSpec(shape=(2, 8, 8))).module


def prepare(rows: Tensor, numbers: Generator) -> Batch:
    noise = torch.rand(len(rows), 2, 8, 8, generator=numbers)
    return X[rows] + 0.1 * noise, Y[rows]


def cross_entropy(module: nn.Module, batch: Batch) -> Tensor:
    images, labels = batch
    return F.cross_entropy(module(images), labels)


Loss = Callable[[nn.Module, Batch], Tensor]


def stopping_at(step: int) -> Loss:
    """A loss that ends the process's work at one step, as a killed run does."""
    count = iter(range(10**6))

    def stop(module: nn.Module, batch: Batch) -> Tensor:
        if next(count) == step:
            raise KeyboardInterrupt
        return cross_entropy(module, batch)

    return stop


def run(
    config: FitConfig = CONFIG,
    loss: Loss = cross_entropy,
    *,
    make: Prepare = prepare,
    state: Path | None = None,
    key: str = "k",
    seed: int = 1,
    helper: bool = False,
    read_every: int = 1,
    explain: Callable[[int], str | None] = lambda ago: None,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    module = network()
    fit(
        module,
        make,
        partial(loss, module),
        config,
        images=IMAGES,
        seed=seed,
        section="test",
        state=state,
        key=key,
        helper=helper,
        read_every=read_every,
        explain=explain,
        progress=progress,
    )
    assert not module.training
    return module.state_dict()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def counting() -> tuple[list[Tensor], Prepare]:
    seen: list[Tensor] = []

    def note(rows: Tensor, numbers: Generator) -> Batch:
        seen.append(rows)
        return prepare(rows, numbers)

    return seen, note


def test_the_network_of_these_tests_lies_channels_last() -> None:
    weight = network()[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()


@pytest.mark.parametrize("stop", [0, 1, 2, 3, 5, 6, 9, 10])
def test_a_stopped_training_goes_on_to_the_same_weights_bit_for_bit(tmp_path: Path, stop: int) -> None:
    config = replace(CONFIG, l2=0.01)
    straight = run(config)
    state = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(config, stopping_at(stop), state=state)
    assert state.exists() == (stop >= IMAGES // BATCH)
    torch.rand(5)  # what the process drew in between does not matter
    steps, make = counting()
    assert same(straight, run(config, make=make, state=state))
    assert len(steps) == STEPS - stop // 3 * 3


def test_a_training_stopped_again_and_again_ends_in_the_same_weights(tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            run(loss=stopping_at(4), state=state)
    assert same(run(), run(state=state))


def test_a_helper_changes_nothing_and_leaves(tmp_path: Path) -> None:
    """Also where it takes over a training that was stopped."""
    straight = run()
    assert same(straight, run(helper=True))
    state = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(loss=stopping_at(7), state=state, helper=True)
    assert same(straight, run(state=state, helper=True))
    names = [process.name for process in multiprocessing.active_children()]
    assert not names, names


def killer(rows: Tensor, numbers: Generator) -> Batch:
    """Ends the process that makes the batches, as the system does when memory is short."""
    if int(numbers.initial_seed()) == torch_stream(1, "step", 5).initial_seed():
        os.kill(os.getpid(), signal.SIGKILL)
    return prepare(rows, numbers)


def test_a_killed_helper_is_told_in_one_line_and_the_training_can_go_on(tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    with pytest.raises(ZskdError, match=r"^the process that prepares batches was killed"):
        run(make=killer, state=state, helper=True)
    assert same(run(), run(state=state))


def test_saving_a_state_changes_nothing(tmp_path: Path) -> None:
    assert same(run(), run(state=tmp_path / "state.safetensors"))


def test_the_state_of_another_training_is_not_used(tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(replace(CONFIG, learning_rate=0.05), stopping_at(7), state=state, key="other")
    steps, make = counting()
    assert same(run(), run(make=make, state=state, key="k"))
    assert len(steps) == STEPS


def test_a_state_that_is_cut_off_is_named(tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(loss=stopping_at(7), state=state)
    state.write_bytes(state.read_bytes()[:-5])
    with pytest.raises(ZskdError, match=r"state\.safetensors is not a complete safetensors file"):
        run(state=state)


def test_seeds_decide_and_nothing_else() -> None:
    torch.manual_seed(5)
    first = run()
    torch.manual_seed(6)
    assert same(first, run())
    assert not torch.equal(first["0.weight"], run(seed=2)["0.weight"])


def test_the_global_random_numbers_are_left_as_they_were() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    run()
    assert torch.equal(torch.rand(3), wanted)


def test_dropout_and_the_batchs_own_numbers_are_not_the_same_numbers() -> None:
    """An augmentation and a dropout mask drawn from one stream would go together."""
    pairs = []

    def make(rows: Tensor, numbers: Generator) -> Batch:
        return torch.rand(50, generator=numbers), rows

    def loss(module: nn.Module, batch: Batch) -> Tensor:
        pairs.append((batch[0], torch.rand(50)))
        return next(module.parameters()).sum()

    run(replace(CONFIG, steps=3), loss, make=make)
    assert not any(torch.equal(own, drawn) for own, drawn in pairs)


def test_every_pass_sees_each_image_exactly_once_in_another_order() -> None:
    seen, make = counting()
    run(replace(CONFIG, steps=13), make=make)  # 13 batches of 4 are 4 passes of 13
    assert {len(rows) for rows in seen} == {BATCH}
    passes = torch.cat(seen).view(4, IMAGES)
    for one in passes:
        assert sorted(one.tolist()) == list(range(IMAGES))
    assert len({tuple(one.tolist()) for one in passes}) == 4


def test_a_batch_larger_than_the_set_goes_through_it_more_than_once() -> None:
    seen, make = counting()
    run(replace(CONFIG, steps=2, batch_size=2 * IMAGES), make=make)
    for rows in seen:
        assert rows.bincount().tolist() == [2] * IMAGES


@pytest.mark.parametrize(
    ("config", "steps"),
    [
        (FitConfig(epochs=2, batch_size=4), 6),
        (FitConfig(epochs=0.01, batch_size=4), 1),
        (FitConfig(steps=5, epochs=100, batch_size=4), 5),
    ],
)
def test_training_is_as_long_as_its_settings_say(config: FitConfig, steps: int) -> None:
    seen, make = counting()
    run(config, make=make)
    assert len(seen) == steps


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_with_step_and_learning_rate(bad: float) -> None:
    seen, make = counting()

    def worse(module: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(module, batch) * (bad if len(seen) == 4 else 1.0)

    with pytest.raises(
        ZskdError,
        match=r"^test: the loss is not finite at step 4 of 11: lower --test.learning-rate \(0\.01\)$",
    ):
        run(loss=worse, make=make)
    assert len(seen) == 4


class Notes(Progress):
    """Keeps the points of all curves."""

    def __init__(self) -> None:
        super().__init__()
        self.points: list[tuple[str, float, int]] = []

    @property
    def listens(self) -> bool:
        return True

    def note(self, name: str, value: float, step: int) -> None:
        self.points.append((name, value, step))


def test_losses_that_are_read_together_change_nothing(tmp_path: Path) -> None:
    """Neither weights, curve and points, nor what a stopped training goes on with."""
    each, together = Notes(), Notes()
    straight = run(progress=each)
    assert same(straight, run(read_every=7, progress=together))
    assert each.points == together.points
    states = []
    for read_every in (1, 10):
        state = tmp_path / f"state-{read_every}"
        with pytest.raises(KeyboardInterrupt):
            run(loss=stopping_at(8), state=state, read_every=read_every)
        states.append(load_file(state))
        assert same(straight, run(state=state, read_every=10))
    assert states[0].keys() == states[1].keys()
    assert same(*states)


@pytest.mark.parametrize("read_every", [3, 10])
def test_a_loss_that_is_read_later_is_told_with_its_step_and_never_saved(
    tmp_path: Path, read_every: int
) -> None:
    """Steps 0 to 2 are saved. Step 3 is not finite, which the reading of step 3, or that before the state of
    step 5 is saved, shows."""
    seen, make = counting()
    asked: list[int] = []

    def worse(module: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(module, batch) * (float("nan") if len(seen) == 4 else 1.0)

    def explain(ago: int) -> str:
        asked.append(ago)
        return "a reason"

    with pytest.raises(ZskdError, match=r"^test: the loss is not finite at step 4 of 11: a reason$"):
        run(loss=worse, make=make, state=tmp_path / "state", read_every=read_every, explain=explain)
    assert asked == [len(seen) - 4]
    assert len(seen) == (4 if read_every == 3 else 6)
    kept = load_file(tmp_path / "state")
    assert len(kept["losses"]) == 3
    assert all(bool(torch.isfinite(value).all()) for value in kept.values())


class Scalars(nn.Module):
    """A weight, a bias and a norm's scale, each of one number."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(1, 1), nn.BatchNorm1d(1)
        for value in self.parameters():
            nn.init.constant_(value, 1.0)


def follow(config: FitConfig, loss_of: Callable[[Scalars], Tensor]) -> tuple[Scalars, list[float]]:
    """Train and return the weight before every step."""
    module, path = Scalars(), []

    def loss(_batch: Batch) -> Tensor:
        path.append(float(module.linear.weight.detach()))
        return loss_of(module)

    fit(module, lambda rows, _numbers: (rows, rows), loss, config, images=8, seed=0, section="test")
    return module, path


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_the_learning_rate_follows_its_schedule(schedule: str) -> None:
    """Under a constant gradient Adam moves by exactly the learning rate."""
    config = FitConfig(steps=8, batch_size=4, learning_rate=0.1, schedule=schedule)  # type: ignore[arg-type]
    module, path = follow(config, lambda m: m.linear.weight.sum())
    moves = [a - b for a, b in zip(path, [*path[1:], float(module.linear.weight.detach())], strict=True)]
    wanted = [0.05 * (1 + math.cos(math.pi * s / 8)) if schedule == "cosine" else 0.1 for s in range(8)]
    assert moves == pytest.approx(wanted, abs=1e-5)


def test_l2_pulls_at_weights_alone_and_by_half_the_square() -> None:
    config = FitConfig(steps=400, batch_size=4, learning_rate=0.05, l2=0.5)
    module, _ = follow(config, lambda m: -0.2 * m.linear.weight.sum())
    assert float(module.linear.weight.detach()) == pytest.approx(0.2 / 0.5, abs=1e-3)  # where 0.5·w = 0.2
    assert float(module.linear.bias.detach()) == 1.0
    assert float(module.norm.weight.detach()) == 1.0
    assert float(module.norm.bias.detach()) == 1.0


def test_no_gradient_is_left_behind() -> None:
    module = network()
    loss = partial(cross_entropy, module)
    fit(module, prepare, loss, CONFIG, images=IMAGES, seed=0, section="test")
    assert all(value.grad is None for value in module.parameters())


def test_fresh_weights_depend_on_the_seed_alone() -> None:
    def build() -> nn.Module:
        return nn.Linear(3, 2)

    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = fresh_weights(build, 4).weight
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(one, fresh_weights(build, 4).weight)
    assert not torch.equal(one, fresh_weights(build, 5).weight)


def test_short_passes_do_not_mean_that_the_state_is_saved_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zskd.training.loop._SAVE_STEPS", 6)  # two passes of three batches
    state = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(loss=stopping_at(5), state=state)
    assert not state.exists()
    with pytest.raises(KeyboardInterrupt):
        run(loss=stopping_at(7), state=state)
    assert state.exists()


@pytest.mark.parametrize(("name", "value"), [("_MOST_STEPS", 1), ("_SAVE_SECONDS", -1.0)])
def test_a_pass_without_end_is_saved_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: float
) -> None:
    """After so many steps, or so many seconds."""
    monkeypatch.setattr("zskd.training.loop._SAVE_STEPS", 1)
    monkeypatch.setattr(f"zskd.training.loop.{name}", value)
    straight, state = run(), tmp_path / STATE
    with pytest.raises(KeyboardInterrupt):
        run(loss=stopping_at(2), state=state)
    assert steps_done([tmp_path]) == 2, "a pass has three steps"
    assert same(straight, run(state=state))
    assert steps_done([tmp_path, tmp_path / "none"]) == STEPS - 1
    state.write_bytes(b"damaged")
    assert steps_done([tmp_path]) == 0
