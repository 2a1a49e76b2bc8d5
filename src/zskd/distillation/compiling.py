"""torch.compile in a distillation, where a timed probe says that it saves time.

The choice follows the clock, so that it may be another one the next time, and compiled networks round
otherwise. What is saved and exported are the networks themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from statistics import median
from types import TracebackType

import torch
from torch import nn

from zskd.core.device import to_device, wait_for
from zskd.core.errors import one_line
from zskd.core.passes import uncounted
from zskd.core.progress import Progress, readable_seconds
from zskd.core.rng import keep_global_rng, torch_stream
from zskd.core.types import Images
from zskd.models.classifier import Classifier
from zskd.models.running import running
from zskd.models.sound_gradients import is_affected

_LEAST_SECONDS = 120.0
"""Least time of the steps that are left: where each then takes a quarter less, half a minute of compiling has
paid."""
_STEPS = 5
"""Steps that are timed, after one that is not."""
Compile = Callable[[nn.Module], nn.Module]
"""Returns a network that computes the same with the same weights."""


def _by_torch(network: nn.Module) -> nn.Module:
    compiled = torch.compile(network)
    assert isinstance(compiled, nn.Module)
    return compiled


class Compiling:
    """Compiles networks before the first step of a training, and takes that back at the end of the block.

    Args:
        networks: what each step runs: the student last, the teacher before it if it runs in this process.
        batch: images in a step.
        steps: of the training in all.
        progress: receives one line about the choice.
        reads_layers: whether the steps read inner layers, so that networks do not run as a whole.
        compiler: compiles a network, perhaps only at its first pass.
        clock: returns seconds since any fixed moment.
    """

    def __init__(
        self,
        networks: Sequence[Classifier],
        batch: int,
        *,
        steps: int,
        progress: Progress,
        reads_layers: bool = False,
        compiler: Compile = _by_torch,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._networks, self._batch, self._steps, self._progress = networks, batch, steps, progress
        self._compile, self._clock, self._reads_layers = compiler, clock, reads_layers
        self._asked = False
        self._kept = ExitStack()

    def __enter__(self) -> Compiling:
        """Do nothing yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the networks run as they are."""
        self._kept.close()

    def before_step(self, step: int) -> None:
        """Choose before the first step, in the modes and the precision of the training.

        Weights, buffers, gradients and random numbers stay as they are.

        Args:
            step: number of the step, from 0: all before it were taken by an earlier process.
        """
        if self._asked:
            return
        self._asked = True
        student = self._networks[-1].module
        before = [value.clone() for value in student.buffers()]
        with keep_global_rng(), uncounted():
            self._progress.log(f"distill: {self._choose(self._steps - step)}")
        with torch.no_grad():
            for value, kept in zip(student.buffers(), before, strict=True):
                value.copy_(kept)
        student.zero_grad()

    def _choose(self, left: int) -> str:
        """Compile where that may save time, and return what was chosen and why."""
        networks = [one for one in self._networks if one.runs_whole and not self._reads_layers]
        if not networks:
            return "networks are not compiled: their layers are read, or --no-rewrite is given"
        if is_affected(self._networks[-1]):
            return (
                "networks are not compiled: strided convolutions of few channels have no right gradients then"
            )
        spec, device = networks[0].spec, networks[0].device
        images = torch.rand(self._batch, *spec.shape, generator=torch_stream(0, "compile", 0))
        images = to_device(images.clamp(*spec.box), device)
        self._pass(images)
        plain = self._seconds(images)
        if plain * left < _LEAST_SECONDS:
            rest = f"the {left:,} steps left take {readable_seconds(plain * left)}"
            return f"networks are not compiled: {rest}, too little for compiling to pay"
        started = self._clock()
        try:
            with ExitStack() as block:
                for one in networks:
                    block.enter_context(running(one, self._compile(one.fused)))
                self._pass(images)
                took = self._clock() - started
                compiled = self._seconds(images)
                faster = compiled < plain
                if faster:
                    self._kept = block.pop_all()
        except Exception as error:  # whatever a compiler raises, or the lack of one
            return f"networks are not compiled ({one_line(error)})"
        times = f"{1000 * compiled:.2f} ms in each step compiled, {1000 * plain:.2f} ms as they are"
        if not faster:
            return f"networks are not compiled: they take {times}"
        saved = readable_seconds((plain - compiled) * left)
        return (
            f"networks are compiled: they take {times}; in {left:,} steps that saves {saved}, for "
            f"{readable_seconds(took)} of compiling"
        )

    def _seconds(self, images: Images) -> float:
        """Return the seconds of a pass of all networks."""
        found = []
        for _ in range(_STEPS):
            started = self._clock()
            self._pass(images)
            found.append(self._clock() - started)
        return median(found)

    def _pass(self, images: Images) -> None:
        """Run the networks forward, and the student back to its weights."""
        *others, student = self._networks
        with torch.no_grad():
            for one in others:
                one(images)
        student(images).square().mean().backward()
        wait_for(student.device)
