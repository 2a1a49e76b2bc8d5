"""The one training loop, for teachers and students alike; it resumes to the same bytes.

A step is a function of the weights, the optimiser's state and the step's number: which images, which
augmentation and which dropout mask all come from streams keyed by that number. Hence a step's batch can be
made ready by another process, and a saved run goes on where it was. Weights and state are saved after
every pass over the images, or every 20 steps where a pass is shorter, and a killed run redoes no more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from zskd.config.registry import OPTIMISERS
from zskd.config.training import FitConfig
from zskd.core.device import keep_freed_memory
from zskd.core.errors import ZskdError
from zskd.core.progress import Progress, readable_seconds
from zskd.core.rng import keep_global_rng, torch_stream
from zskd.training.batches import Batch, Batches, Order, Prepare, prepared
from zskd.training.state import Companions, load_state, save_state

_PROBE_STEPS = 10
"""After so many steps the time of all is estimated and said."""
_SAVE_STEPS = 20
"""The state is saved after every pass, where a pass is no shorter than this."""
_NOTE_EVERY, _WATCH_EVERY = 10, 50
"""Steps between two points of the loss's curve, and of a curve that costs something."""
Watch = Callable[[], dict[str, float]]
"""What else is to be told of the batch whose loss was taken last, by the names of the curves."""


def fit(
    module: nn.Module,
    prepare: Prepare,
    batch_loss: Callable[[Batch], Tensor],
    config: FitConfig,
    *,
    images: int,
    seed: int,
    section: str,
    helper: bool = False,
    state: Path | None = None,
    key: str = "",
    companions: Companions | None = None,
    watch: Watch | None = None,
    progress: Progress | None = None,
) -> None:
    """Train a network in place for the number of steps of its settings: whoever lends one gives a copy.

    Args:
        module: trained in training mode; left in evaluation mode.
        prepare: makes a batch ready; with a helper it must be a function or object of a module.
        batch_loss: loss of one batch.
        config: length, batch, optimiser and learning rate.
        images: size of the training set.
        seed: of the order of the images and of the streams given to `batch_loss`.
        section: group of settings that `config` came from, for messages.
        helper: whether a second process makes the batches ready, with as many threads as this one.
        state: file that the state is saved to after every pass and read from at the start.
        key: identifies what is being trained; a state of another key is not used.
        companions: modules that `prepare` changes, saved and put back with this one; not with a helper.
        watch: asked every 50 steps where `progress` listens.
        progress: told of every step.

    Raises:
        ZskdError: the loss is no longer finite, or the helper was killed.
    """
    progress = progress or Progress()
    keep_freed_memory()
    batches = Batches(Order(config.batch_size, images, seed), prepare, seed)
    total = config.total_steps(images)
    weights = [p for name, p in module.named_parameters() if p.ndim > 1 and not name.endswith("bias")]
    optimiser = OPTIMISERS.load(config.optimiser)(module.parameters(), config.learning_rate)
    learners = {"": (module, optimiser), **(companions or {})}
    done = load_state(state, key, learners) if state else 0
    between = max(_SAVE_STEPS, images // config.batch_size)
    module.train()
    started = time.perf_counter()
    with (
        keep_global_rng(),
        progress.task(section, total, "steps", done=done) as task,
    ):
        for step, batch in enumerate(prepared(batches, range(done, total), helper), start=done):
            # dropout draws from the global generator
            torch.manual_seed(torch_stream(seed, "dropout", step).initial_seed())
            loss = batch_loss(batch)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise _diverged(section, f"the loss is not finite at step {step + 1} of {total}", config)
            if progress.listens:
                for name, point in _points(config, step, total, value, watch).items():
                    progress.note(f"{section}/{name}", point, step)
            if config.l2:
                loss = loss + config.l2 / 2 * sum(w.square().sum() for w in weights)
            _descend(optimiser, loss, rate_at(config.learning_rate, config.schedule, step, total))
            if state and (step + 1) % between == 0 and step + 1 < total:
                save_state(state, key, learners, step + 1)
            task.advance(1, f"loss {value:.4f}")
            if step == done + _PROBE_STEPS:
                left = (time.perf_counter() - started) / (_PROBE_STEPS + 1) * (total - step)
                progress.log(
                    f"{section}: {total - done:,} steps of {config.batch_size} images, "
                    f"about {readable_seconds(left)}"
                )
    optimiser.zero_grad()
    if not all(bool(torch.isfinite(p).all()) for p in module.parameters()):
        raise _diverged(section, "the last step left weights that are not finite", config)
    module.eval()


def percent_of_class(said: Tensor, classes: Tensor) -> float:
    """Return the percentage of a batch's logits (N, K) whose largest is that of the given class (N,)."""
    return 100 * float((said.argmax(1) == classes).float().mean())


def _points(config: FitConfig, step: int, total: int, loss: float, watch: Watch | None) -> dict[str, float]:
    """Return what is noted of a step: of most nothing, of the last everything."""
    last = step + 1 == total
    points: dict[str, float] = {}
    if last or step % _NOTE_EVERY == 0:
        points |= {"loss": loss, "learning_rate": rate_at(config.learning_rate, config.schedule, step, total)}
    if watch and (last or step % _WATCH_EVERY == 0):
        points |= watch()
    return points


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


def _diverged(section: str, what: str, config: FitConfig) -> ZskdError:
    rate = f"--{section}.learning-rate ({config.learning_rate:g})"
    return ZskdError(f"{section}: {what}: lower {rate}")


def rate_at(first: float, schedule: str, step: int, total: int) -> float:
    """Return the learning rate of a step: the first one, or on its way down to 0 along a half cosine."""
    return first if schedule == "constant" else first * 0.5 * (1 + math.cos(math.pi * step / total))
