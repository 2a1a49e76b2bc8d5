"""The training loop of teachers and students. A resumed training gives the same bytes.

A step is a function of the weights, the optimiser's state and the number of the step: images, augmentation
and dropout masks use random streams keyed by this number. So another process can prepare the batch, and a
saved training can resume. Weights and state are saved after every pass over the images, or every 20 steps
where a pass is shorter, and at least every minute; a killed training repeats at most these steps.

Several ranks take each step together: each computes the gradient of its part of the batch, and all go on with
the mean over the images. They have the same weights, and any number of them can resume the training.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from inspect import signature
from pathlib import Path
from reprlib import repr as short

import torch
from torch import Tensor, nn

from zskd.config.registry import OPTIMISERS
from zskd.config.training import FitConfig
from zskd.core.device import threads_are_chosen
from zskd.core.errors import ZskdError
from zskd.core.memory import keep_freed_memory
from zskd.core.passes import count_elsewhere, counting
from zskd.core.precision import computing_in
from zskd.core.progress import Progress, readable_seconds
from zskd.core.ranks import ALONE, Ranks
from zskd.core.rng import keep_global_rng, seed_global_rng
from zskd.models.sound_gradients import sound_gradients
from zskd.training.batches import Batch, Batches, Order, Prepare, RowOrder, prepared
from zskd.training.curve import Curve, curve_of
from zskd.training.division import all_passes, average, check_same_steps, count_others, dropout_of
from zskd.training.losses import Losses
from zskd.training.state import Companions, Done, load_state, save_state

_PROBE_STEPS = 10
"""Number of steps after which the total time is estimated and logged."""
_SAVE_STEPS, _MOST_STEPS = 20, 500
"""Least and largest number of steps between two saved states."""
_SAVE_SECONDS = 60
"""Seconds after which a state is saved in any case. Several ranks save together, by their steps alone."""
_NOTE_EVERY, _WATCH_EVERY = 10, 50
"""Steps between two points of the loss curve, and of the curves of `watch`."""
Watch = Callable[[], dict[str, float]]
"""Returns further values of the last batch: name of the curve -> value."""


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
    beside: nn.Module | None = None,
    before_step: Callable[[int], None] = lambda step: None,
    watch: Watch | None = None,
    explain: Callable[[int], str | None] = lambda ago: None,
    read_every: int = 1,
    order: RowOrder | None = None,
    ranks: Ranks = ALONE,
    progress: Progress | None = None,
) -> Curve:
    """Train a network in place, and return how its loss fell; pass a copy to keep the original.

    Args:
        module: trained in training mode; left in evaluation mode.
        prepare: prepares a batch; with a helper it must be picklable.
        batch_loss: returns the loss of one batch, a scalar.
        config: length, batch size, optimiser and learning rate.
        images: size of the training set.
        seed: of the order of the images, of `prepare` and of dropout.
        section: name of the group of settings, for messages.
        helper: whether a second process prepares the batches, with as many threads as this one.
        state: file to save the state to after every pass, 500 steps or minute, and to resume from. Where
            nobody has chosen the number of threads, that of the state holds until the end of the caller's
            `use_threads`.
        key: identifies the training; a state with another key is replaced, which a line tells.
        companions: other modules, saved and restored together: those that `prepare` changes, which has no
            helper then, and those that were fitted before the first step.
        beside: further weights of `batch_loss`, trained in place by the same loss and settings, without `l2`.
        before_step: called with the number of each step, from 0, when its batch is ready; may change modes
            and buffers of the network.
        watch: called every 50 steps if `progress.listens`.
        explain: called where a loss is not finite, with the number of steps since then, below `read_every`:
            another reason than the learning rate, and what to do.
        read_every: steps between two readings of the loss: more than 1 where reading waits for a device. It
            is also read where it is noted or saved. Points, curve and states are the same.
        order: of the images; None: every pass in a new random order.
        ranks: that train the network together. In all of them it begins with the same weights, and `prepare`
            returns the rank's part of the batch. The first one writes the state.
        progress: receives every step.

    Raises:
        ZskdError: loss or weights are not finite, the helper was killed, or another rank has ended.
    """
    progress = progress or Progress()
    keep_freed_memory()
    batches = Batches(order or Order(config.batch_size, images, seed), prepare, seed)
    total = config.total_steps(images)
    weights = [p for name, p in module.named_parameters() if p.ndim > 1 and not name.endswith("bias")]
    trained = {"": module} | ({"beside": beside} if beside and any(True for _ in beside.parameters()) else {})
    learned = {name: (one, _optimiser(one, config)) for name, one in trained.items()}
    optimisers = [optimiser for _, optimiser in learned.values()]
    learners: Companions = {**learned, **(companions or {})}
    # the number of threads changes rounding, as another number of ranks does
    threads = None if ranks.several else torch.get_num_threads()
    wanted = threads if threads_are_chosen() else None
    before = load_state(state, key, learners, threads=wanted) if state else Done()
    check_same_steps(len(before.losses), ranks)
    if state is not None and state.is_file() and not before.losses:
        progress.log(
            f"{section}: the training begun in {state.parent} was made with other settings, images, threads "
            "or versions: it begins anew"
        )
    if threads and before.threads and before.threads != threads:
        threads = before.threads
        torch.set_num_threads(threads)
        progress.log(f"{section}: the training goes on with the {threads} threads that it was begun with")
    done, share = len(before.losses), ranks.share(config.batch_size)
    losses = Losses(before.losses, ranks, share)
    save_every = max(_SAVE_STEPS, min(images // config.batch_size, _MOST_STEPS))
    module.train()
    started = saved = time.perf_counter()
    with (
        keep_global_rng(),
        counting() as tally,
        computing_in(config.precision),
        torch.enable_grad(),
        sound_gradients(*trained.values()),
        progress.task(section, total, "steps", done=done) as task,
        closing(prepared(batches, range(done, total), helper)) as upcoming,
    ):
        if ranks.first:
            count_elsewhere(before.passes)
        first = tally.total
        for step in range(done, total):
            before_step(step)  # comes first: a generator's batch may run the network in training
            batch = next(upcoming)
            # dropout uses the global generator
            seed_global_rng(seed, dropout_of(ranks), step)
            loss = batch_loss(batch)
            losses.add(loss)
            last = step + 1 == total
            is_late = not ranks.several and time.perf_counter() - saved > _SAVE_SECONDS
            saves = state is not None and not last and (is_late or (step + 1) % save_every == 0)
            reads = saves or last or step % read_every == 0 or step % _NOTE_EVERY == 0
            if reads and (ago := losses.read()) is not None:
                what = f"the loss is not finite at step {step + 1 - ago} of {total}"
                raise _diverged(section, what, config, next(filter(None, ranks.of_all(explain(ago))), None))
            if progress.listens:
                for name, point in _points(config, step, total, losses.last, watch).items():
                    progress.note(f"{section}/{name}", point, step)
            if config.l2:
                loss = loss + config.l2 / 2 * sum(w.square().sum() for w in weights)
            _backward(optimisers, loss)
            average(trained.values(), ranks, share)
            _descend(optimisers, rate_at(config.learning_rate, config.schedule, step, total))
            if state is not None and saves:
                passes = all_passes(tally, ranks)
                if ranks.first:
                    save_state(state, key, learners, Done(losses.known, passes), threads=threads)
                saved = time.perf_counter()
            task.advance(1, f"loss {losses.last:.4f}{_rate(tally.total - first, started)}")
            if step == done:  # before it, networks may have been compiled
                probed = time.perf_counter()
            if step == done + _PROBE_STEPS:
                left = (time.perf_counter() - probed) / _PROBE_STEPS * (total - step)
                many = f"{total - done:,} steps of {config.batch_size} images"
                progress.log(f"{section}: {many}, about {readable_seconds(left)}")
        count_others(tally, ranks)
    for optimiser in optimisers:
        optimiser.zero_grad()
    if not all(bool(torch.isfinite(p).all()) for p in module.parameters()):
        raise _diverged(section, "the weights are not finite after the last step", config)
    module.eval()
    return curve_of(losses.known)


def percent_of_class(logits: Tensor, classes: Tensor) -> float:
    """Return the percentage, 0 to 100, of logits (N, K) whose largest entry is that of the class (N,)."""
    return 100 * float((logits.argmax(1) == classes).float().mean())


def _points(config: FitConfig, step: int, total: int, loss: float, watch: Watch | None) -> dict[str, float]:
    """Return the points to record at a step: none at most steps, all at the last."""
    last = step + 1 == total
    points: dict[str, float] = {}
    if last or step % _NOTE_EVERY == 0:
        points |= {"loss": loss, "learning_rate": rate_at(config.learning_rate, config.schedule, step, total)}
    if watch and (last or step % _WATCH_EVERY == 0):
        points |= watch()
    return points


def _rate(passes: int, started: float) -> str:
    """Return the rate of passes as the end of a note; nothing where none are counted."""
    seconds = time.perf_counter() - started
    return f", {passes / seconds:,.0f} passes/s" if passes and seconds else ""


def _optimiser(module: nn.Module, config: FitConfig) -> torch.optim.Optimizer:
    made: torch.optim.Optimizer = OPTIMISERS.load(config.optimiser)(module.parameters(), config.learning_rate)
    if not hasattr(made, "param_groups") or not hasattr(made, "step"):
        raise ZskdError(
            f"the optimiser {config.optimiser} returned {short(made)}: return a torch.optim.Optimizer"
        )
    closure = signature(made.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ZskdError(f"the optimiser {config.optimiser} needs a closure: give one whose step() needs none")
    return made


def _backward(optimisers: Sequence[torch.optim.Optimizer], loss: Tensor) -> None:
    for optimiser in optimisers:
        optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]


def _descend(optimisers: Sequence[torch.optim.Optimizer], rate: float) -> None:
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()


def _diverged(section: str, what: str, config: FitConfig, reason: str | None = None) -> ZskdError:
    """Return the error that a training failed, for a known reason or because its steps are too large."""
    reason = reason or f"lower --{section}.learning-rate ({config.learning_rate:g})"
    return ZskdError(f"{section}: {what}: {reason}")


def rate_at(first: float, schedule: str, step: int, total: int) -> float:
    """Return the learning rate of a step: constant, or from `first` down to 0 along a half cosine.

    Args:
        first: initial learning rate.
        schedule: "constant" or "cosine".
        step: number of the step, from 0.
        total: number of all steps.
    """
    return first if schedule == "constant" else first * 0.5 * (1 + math.cos(math.pi * step / total))
