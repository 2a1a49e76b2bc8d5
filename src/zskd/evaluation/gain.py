"""What a student gains: parameters, multiply-adds, bytes and time per image, beside its teacher.

Time is measured on one thread of this machine's CPU, for each network as it runs after export: batch-norm
folded, memory layout chosen, no gradients (`zskd.models.deployed`), from images in [0, 1] to logits. All
networks take turns in short rounds, so that what else the machine does slows all of them alike; the median
over the passes is reported.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import quantiles
from typing import Annotated

import torch
from pydantic import Field

from zskd.core.artefact import Artefact, AtLeastOne, Count
from zskd.core.device import to_device, use_threads
from zskd.core.errors import ZskdError
from zskd.core.memory import available_memory, bytes_per_image, is_large
from zskd.core.passes import uncounted
from zskd.core.rng import keep_global_rng
from zskd.core.tables import Table
from zskd.core.tensors import stored_bytes
from zskd.core.types import Images, Logits
from zskd.evaluation.inspection import count_multiply_adds
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.deployed import deployed
from zskd.models.modes import in_mode

BATCHES = (1, 64)
"""Images in a timed pass: one at a time, and many. A large network has fewer than 64."""
_ROUNDS, _PASSES = 12, 8
"""Rounds in which the networks take turns, and passes of each in a round."""
_TURN = 0.02
"""Most seconds of a turn, unless a single pass takes longer."""
_FEWEST = 3
"""Passes that must fit into the time at the batch that is chosen."""
Run = Callable[[Images], Logits]
"""A network: images (N, C, H, W) in [0, 1] → logits (N, K)."""
Microseconds = Annotated[float, Field(gt=0)]


class Latency(Artefact):
    """Time of a forward pass on one thread, in microseconds per image."""

    batch: AtLeastOne
    """Images in the pass."""
    median: Microseconds
    low: Microseconds
    """Lower quartile over the passes: how steady the machine was."""
    high: Microseconds
    """Upper quartile."""
    passes: AtLeastOne


class Cost(Artefact):
    """What a network costs where it is used."""

    parameters: AtLeastOne
    multiply_adds: Count
    """Of one image's forward pass."""
    bytes: AtLeastOne
    """Of its weights as a safetensors file."""
    latency: Annotated[tuple[Latency, ...], Field(min_length=1)]
    """By batch: of one image, and of 64, or of fewer where a pass of 64 takes too long or too much memory."""


class Gain(Artefact):
    """What a student costs, beside its teacher; both were timed in turns."""

    teacher: Cost
    student: Cost

    @property
    def speedups(self) -> tuple[float, ...]:
        """How many times faster the student is than its teacher, by batch."""
        pairs = zip(self.teacher.latency, self.student.latency, strict=True)
        return tuple(of_teacher.median / of_student.median for of_teacher, of_student in pairs)


def measure_gain(teacher: Classifier, student: Classifier, *, seconds: float = 2.0) -> Gain:
    """Measure what a student costs and what its teacher costs, in turns.

    Args:
        teacher: not changed.
        student: not changed; untrained, it costs the same.
        seconds: that each network is timed for, at most; a pass is never cut short.

    Raises:
        ZskdError: the seconds are negative.
    """
    of_teacher, of_student = measure_costs((teacher, student), seconds=seconds)
    return Gain(teacher=of_teacher, student=of_student)


def measure_costs(networks: Sequence[Classifier], *, seconds: float = 2.0) -> tuple[Cost, ...]:
    """Measure what networks cost that take the same images, timed in turns.

    Args:
        networks: at least one; not changed.
        seconds: that each network is timed for, at most; a pass is never cut short.
    """
    copies = [deployed(network) for network in networks]
    times = measure_latency(copies, networks[0].spec, seconds=seconds, most=_that_fit_memory(networks))
    return tuple(
        Cost(
            parameters=network.parameters_count,
            multiply_adds=count_multiply_adds(network),
            bytes=stored_bytes(network.module.state_dict()),
            latency=latency,
        )
        for network, latency in zip(networks, times, strict=True)
    )


def measure_latency(
    networks: Sequence[Run], spec: InputSpec, *, seconds: float = 2.0, most: int = BATCHES[-1]
) -> tuple[tuple[Latency, ...], ...]:
    """Return the time of a pass of each network by batch: of one image, and of many. The networks take turns.

    Args:
        networks: at least one; they take the same images (N, C, H, W) in [0, 1].
        spec: shape and box of the images.
        seconds: that each network is timed for, at most; a pass is never cut short.
        most: images of the larger batch; there are fewer where a pass takes long.
    """
    if not seconds >= 0:  # also for NaN
        raise ZskdError(f"seconds is {seconds}: give 0 or more")
    with torch.inference_mode(), use_threads(1), uncounted():
        share = seconds / len(BATCHES)
        times = [_in_turns(networks, _images(spec, 1), share)]
        slowest = max(latency.median for latency in times[0]) / 1e6
        many = min(_that_fit_time(slowest, share), most)
        if many > 1:
            times.append(_in_turns(networks, _images(spec, many), share))
    return tuple(zip(*times, strict=True))


def gain_table(names: Sequence[str], costs: Sequence[Cost]) -> Table:
    """Return a table with a network in each row: the teacher, then others with their share of its costs.

    Args:
        names: of the networks.
        costs: of the networks, measured together.
    """
    teacher = costs[0]
    head = ["network", "parameters", "multiply-adds", "bytes"]
    head += [f"µs per image, batch {one.batch}" for one in teacher.latency]
    first = _numbers(teacher)
    rows = [[names[0], *map(_readable, first)]]
    for name, cost in zip(names[1:], costs[1:], strict=True):
        pairs = zip(_numbers(cost), first, strict=True)
        rows.append([name, *(_readable(one) + _share(one, of) for one, of in pairs)])
    return Table(head, rows)


def _numbers(cost: Cost) -> list[float]:
    return [cost.parameters, cost.multiply_adds, cost.bytes, *(one.median for one in cost.latency)]


def _readable(number: float) -> str:
    """Return a number with three digits or more."""
    return f"{number:,.0f}" if number >= 100 or number == round(number) else f"{number:.3g}"


def _share(part: float, whole: float) -> str:
    if not whole:
        return ""
    share = part / whole
    return f"\n({share:.2f}×)" if share >= 0.1 else f"\n({share:.2g}×)"


def _in_turns(networks: Sequence[Run], images: Images, seconds: float) -> list[Latency]:
    """Time passes of the networks, which take turns, until there are enough or the time is over."""
    passes = [_passes_of_a_turn(network, images) for network in networks]
    times: list[list[float]] = [[] for _ in networks]
    end = time.perf_counter() + seconds * len(networks)
    for _ in range(_ROUNDS):
        for network, count, found in zip(networks, passes, times, strict=True):
            if count > 1:  # brings its weights back into the cache
                network(images)
            found += [_seconds_of_a_pass(network, images) for _ in range(count)]
        if time.perf_counter() > end:
            break
    return [_latency(len(images), found) for found in times]


def _passes_of_a_turn(network: Run, images: Images) -> int:
    network(images)  # the first pass prepares the kernels
    return max(1, min(_PASSES, int(_TURN / _seconds_of_a_pass(network, images))))


def _seconds_of_a_pass(network: Run, images: Images) -> float:
    started = time.perf_counter()
    network(images)
    return time.perf_counter() - started


def _latency(batch: int, seconds: list[float]) -> Latency:
    each = [1e6 * one / batch for one in seconds]
    low, median, high = quantiles(each, n=4, method="inclusive") if len(each) > 1 else each * 3
    return Latency(
        batch=batch, median=_rounded(median), low=_rounded(low), high=_rounded(high), passes=len(each)
    )


def _rounded(microseconds: float) -> float:
    """Return four digits: the machine is not steadier."""
    return float(f"{microseconds:.4g}")


def _that_fit_time(slowest: float, seconds: float) -> int:
    """Return the images of the larger batch: 64, or so many that a few passes fit into the time.

    Args:
        slowest: seconds of a pass with one image; a batch takes no longer for each of its images.
        seconds: for each network.
    """
    batch = BATCHES[-1]
    while batch > 1 and batch * slowest * _FEWEST > seconds:
        batch //= 2
    return batch


def _that_fit_memory(networks: Sequence[Classifier]) -> int:
    """Return the images for which there is memory; only large images can take too much."""
    if not is_large(networks[0].spec.shape):
        return BATCHES[-1]

    def forward(network: Classifier, count: int) -> Logits:
        images = to_device(_images(network.spec, count), network.device)
        with in_mode(network, training=False):  # not frozen: what the weights' gradients need counts
            answer: Logits = network(images.requires_grad_())
        return answer

    with torch.inference_mode(False), keep_global_rng(), torch.enable_grad():
        most = max(bytes_per_image(partial(forward, network)) for network in networks)
    batch = BATCHES[-1]
    while batch > 1 and batch * most > available_memory() // 2:
        batch //= 2
    return batch


def _images(spec: InputSpec, count: int) -> Images:
    """Return white noise (count, C, H, W) inside the box; the time does not depend on the pixels."""
    low, high = spec.box
    noise = torch.rand(count, *spec.shape, generator=torch.Generator().manual_seed(0))
    return low + (high - low) * noise
