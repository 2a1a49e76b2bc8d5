"""The one training loop, for teachers and students alike; it resumes to the same bytes.

A step is a function of the weights, the optimiser's state and the step's number: which images, which
augmentation and which dropout mask all come from streams keyed by that number. Hence a step's batch can be
made ready by another process, and a saved run goes on where it was. Weights and state are saved after
every pass over the images, or every 20 steps where a pass is shorter, and a killed run redoes no more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import safe_open
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader, Dataset

from zskd.config import Fit
from zskd.errors import ZskdError
from zskd.files import whole_file
from zskd.machine import keep_freed_memory
from zskd.muon import Muon
from zskd.progress import Progress, readable_seconds
from zskd.streams import torch_stream
from zskd.tensors import read_tensors, save_tensors
from zskd.workers import Lifeline, hold_on, new_processes

_PROBE_STEPS = 10
"""After so many steps the time of all is estimated and said."""

_SAVE_STEPS = 20
"""The state is saved after every pass, where a pass is no shorter than this."""

_AHEAD = 4
"""So many batches are kept ready."""

_NOTE_EVERY, _WATCH_EVERY = 10, 50
"""Steps between two points of the loss's curve, and of a curve that costs something."""

_OPTIMISERS: dict[str, Callable[[Iterable[nn.Parameter], float], torch.optim.Optimizer]] = {
    "adam": lambda parameters, rate: torch.optim.Adam(parameters, lr=rate, fused=True),
    "muon": lambda parameters, rate: Muon(parameters, lr=rate),
    "sgd": lambda parameters, rate: torch.optim.SGD(parameters, lr=rate, momentum=0.9),
}

Network = TypeVar("Network", bound=nn.Module)
Batch = tuple[Tensor, ...]
"""Images, and what is known of them that the loss asks for."""
Prepare = Callable[[Tensor, Generator], Batch]
"""(rows of the training set, random numbers of this step) → batch, whatever the network has become."""
Companions = Mapping[str, tuple[nn.Module, torch.optim.Optimizer | None]]
"""What else changes while batches are made ready, by name: a module, and what it learns with if it does."""
Watch = Callable[[], dict[str, float]]
"""What else is to be told of the batch whose loss was taken last, by the names of the curves."""


def fit(
    module: nn.Module,
    prepare: Prepare,
    batch_loss: Callable[[Batch], Tensor],
    config: Fit,
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
    """Train a network in place for the number of steps of its settings.

    Args:
        module: in training mode; left in evaluation mode.
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
    batches = _Batches(_Order(config.batch_size, images, seed), prepare, seed)
    total = config.total_steps(images)
    weights = [p for name, p in module.named_parameters() if p.ndim > 1 and not name.endswith("bias")]
    optimiser = _OPTIMISERS[config.optimiser](module.parameters(), config.learning_rate)
    learners = {"": (module, optimiser), **(companions or {})}
    done = _load(state, key, learners) if state else 0
    between = max(_SAVE_STEPS, images // config.batch_size)
    module.train()
    started = time.perf_counter()
    with (
        torch.random.fork_rng(devices=[]),
        progress.task(section, total, "steps", done=done) as task,
    ):
        for step, batch in enumerate(_ready(batches, range(done, total), helper), start=done):
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
                _save(state, key, learners, step + 1)
            task.advance(1, f"loss {value:.4f}")
            if step == done + _PROBE_STEPS:
                left = (time.perf_counter() - started) / (_PROBE_STEPS + 1) * (total - step)
                progress.say(
                    f"{section}: {total - done:,} steps of {config.batch_size} images, "
                    f"about {readable_seconds(left)}"
                )
    optimiser.zero_grad()
    if not all(bool(torch.isfinite(p).all()) for p in module.parameters()):
        raise _diverged(section, "the last step left weights that are not finite", config)
    module.eval()


def fresh_weights(build: Callable[[], Network], seed: int) -> Network:
    """Build a network whose random initial weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_stream(seed, "weights", 0).initial_seed())
        return build()


class _Order:
    """An endless chain of random orders of all images, cut into full batches that may span two passes."""

    def __init__(self, batch: int, images: int, seed: int) -> None:
        self._batch, self._images, self._seed = batch, images, seed
        self._turn, self._shuffled = -1, torch.empty(0, dtype=torch.int64)

    def rows(self, step: int) -> Tensor:
        """Return the rows of one batch, whatever was asked before."""
        position, end = step * self._batch, (step + 1) * self._batch
        parts = []
        while position < end:
            turn, offset = divmod(position, self._images)
            if turn != self._turn:
                stream = torch_stream(self._seed, "order", turn)
                self._turn, self._shuffled = turn, torch.randperm(self._images, generator=stream)
            parts.append(self._shuffled[offset : offset + end - position])
            position += len(parts[-1])
        return torch.cat(parts)


class _Batches(Dataset[Batch]):
    """The batch of every step, each a pure function of the step's number."""

    def __init__(self, order: _Order, prepare: Prepare, seed: int) -> None:
        self._order, self._prepare, self._seed = order, prepare, seed

    def __getitem__(self, step: int) -> Batch:
        return self._prepare(self._order.rows(step), torch_stream(self._seed, "step", step))


def _ready(batches: _Batches, steps: range, helper: bool) -> Iterator[Batch]:
    """Give the batches of the steps in turn, made by a helper while the network learns or here."""
    if not helper:
        yield from map(batches.__getitem__, steps)
        return
    context = new_processes()
    lifeline = Lifeline(context)
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=steps,
        num_workers=1,
        prefetch_factor=_AHEAD,
        multiprocessing_context=context,
        worker_init_fn=partial(_begin_helper, torch.get_num_threads(), lifeline.end),
    )
    try:
        yield from map(tuple, loader)  # they come as lists
    except (RuntimeError, EOFError, OSError) as error:
        # the pool says so, or the tensors that the helper shared are gone with it; "Caught" begins an error
        # of its own
        if str(error).startswith("Caught") or (
            type(error) is RuntimeError and "DataLoader" not in str(error)
        ):
            raise
        raise ZskdError(
            "the process that makes batches ready was killed (too little memory, perhaps): give the command "
            "again and it goes on, or give --workers 1"
        ) from error
    finally:
        lifeline.cut()


def _begin_helper(threads: int, lifeline: Connection, _number: int) -> None:
    hold_on(lifeline)
    torch.set_num_threads(threads)
    keep_freed_memory()


def percent_said(said: Tensor, classes: Tensor) -> float:
    """Return the percentage of a batch's logits (N, K) whose largest is that of the given class (N,)."""
    return 100 * float((said.argmax(1) == classes).float().mean())


def _points(config: Fit, step: int, total: int, loss: float, watch: Watch | None) -> dict[str, float]:
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


def _diverged(section: str, what: str, config: Fit) -> ZskdError:
    rate = f"--{section}.learning-rate ({config.learning_rate:g})"
    return ZskdError(f"{section}: {what}: lower {rate}")


def rate_at(first: float, schedule: str, step: int, total: int) -> float:
    """Return the learning rate of a step: the first one, or on its way down to 0 along a half cosine."""
    return first if schedule == "constant" else first * 0.5 * (1 + math.cos(math.pi * step / total))


def _save(path: Path, key: str, learners: Companions, done: int) -> None:
    tensors: dict[str, Tensor] = {}
    for owner, (module, optimiser) in learners.items():
        prefix = f"{owner}/" if owner else ""
        tensors |= {f"{prefix}weights/{name}": value for name, value in module.state_dict().items()}
        state = {} if optimiser is None else optimiser.state_dict()["state"]
        for i, moments in state.items():
            tensors |= {f"{prefix}moments/{i}/{name}": value for name, value in moments.items()}
    # channels-last weights are stored row by row; where they lie does not matter to their values
    with whole_file(path) as temporary:
        save_tensors(
            {name: value.detach().contiguous() for name, value in tensors.items()},
            temporary,
            metadata={"key": key, "done": str(done)},
        )


def _load(path: Path, key: str, learners: Companions) -> int:
    """Put a saved state back and return the number of steps done; 0 without a state of this key."""
    if not path.is_file():
        return 0
    tensors = read_tensors(path)
    with safe_open(path, "pt") as opened:
        metadata = opened.metadata() or {}
    if metadata.get("key") != key:
        return 0
    for owner, (module, optimiser) in learners.items():
        mine = _under(f"{owner}/", tensors) if owner else tensors
        module.load_state_dict(_under("weights/", mine))
        if optimiser is not None:
            _restore(optimiser, _under("moments/", mine))
    return int(metadata["done"])


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _restore(optimiser: torch.optim.Optimizer, saved: Mapping[str, Tensor]) -> None:
    """Give an optimiser its moments back, by the number of the parameter and the name of the moment."""
    parameters = [one for group in optimiser.param_groups for one in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in saved.items():
        number, _, field = name.partition("/")
        # a fused optimiser walks through memory: moments must lie as their parameter does
        parameter = parameters[int(number)]
        like = parameter if value.shape == parameter.shape else value
        copy = torch.empty_like(like, requires_grad=False).copy_(value)
        moments.setdefault(int(number), {})[field] = copy
    optimiser.load_state_dict(optimiser.state_dict() | {"state": moments})
