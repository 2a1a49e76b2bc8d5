"""Tasks on a cluster of Ray, whose nodes share a file system (https://docs.ray.io, Ray Core)."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

from zskd.core.engines.base import Need, OnProgress, Result, Shared
from zskd.core.engines.node import Parcel, Units, run, started
from zskd.core.errors import ZskdError, one_line
from zskd.core.parallel import WorkersDied
from zskd.core.progress import readable_bytes

_ATTEMPTS = 3
"""Times that a task may lose its worker before an error is raised."""
_POLL_SECONDS = 0.2
_CONNECT_SECONDS = 5.0
_CANCEL_SECONDS = 10.0
_NOT_IMPORTED = "The remote function failed to import"
"""Beginning of Ray's message where the module of a task is not found."""
_QUIET = {
    # a cluster that this process starts reports nothing to the makers of Ray
    "RAY_USAGE_STATS_ENABLED": "0",
    # what Ray will do anyway: a task without a GPU keeps CUDA_VISIBLE_DEVICES as it is
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


class RayEngine:
    """Tasks of Ray Core.

    Args:
        ray: HOST:PORT of the cluster's head; "": RAY_ADDRESS, else the cluster that this machine is part of,
            else one that is started on this machine and ends with this process.
    """

    here = False

    def __init__(self, ray: str = "") -> None:
        self._address = ray

    def cores(self) -> int:
        """Return the number of CPUs of all nodes.

        Raises:
            ZskdError: Ray is not installed, or there is no cluster.
        """
        return max(1, int(_connected(self._address).cluster_resources().get("CPU", 0)))

    def start(self, workers: int) -> None:
        """Start workers, which import torch.

        Raises:
            ZskdError: as for `each_done`.
        """
        numbers = range(workers)
        for _ in self.each_done(
            started, None, numbers, workers=workers, need=Need(), on_progress=lambda _: None
        ):
            pass

    def each_done(
        self,
        work: Callable[[Shared, int, OnProgress], Result],
        shared: Shared,
        numbers: Sequence[int],
        *,
        workers: int,
        need: Need,
        on_progress: OnProgress,
    ) -> Iterator[tuple[int, Result]]:
        """Run tasks on the nodes; a task whose node or worker was lost is repeated elsewhere.

        Raises:
            ZskdError: as for `Engine.each_done`; or Ray is not installed, there is no cluster, no node is
                large enough for a task, or a node has other versions or no access to the current folder.
        """
        ray = _connected(self._address)
        _check_need(ray, need)
        tasks = _Tasks(ray, work, shared, need)
        left, lost = deque(numbers), Counter[int]()
        try:
            while left or tasks.running:
                while left and len(tasks.running) < workers:
                    tasks.begin(left.popleft())
                for number, result in tasks.ended():
                    if result is None:
                        lost[number] += 1
                        if lost[number] == _ATTEMPTS:
                            raise WorkersDied(
                                f"task {number} lost its worker {_ATTEMPTS} times (perhaps too little memory "
                                "on the nodes): give fewer --workers, or see the logs of Ray"
                            )
                        left.appendleft(number)
                    else:
                        yield number, result[0]
                on_progress(tasks.new_units())
        finally:
            tasks.cancel()


class _Tasks:
    """The tasks that Ray has now, and the units that all have done."""

    def __init__(self, ray: ModuleType, work: Callable[..., Any], shared: Any, need: Need) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ray = ray
        # in a list it is not fetched before each task: a worker fetches it once
        self._parcel = [ray.put(_packed(work, shared))]
        node = ray.get_runtime_context().get_node_id()  # a node that lives as long as this process
        self._units = (
            ray.remote(Units)
            .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
            .remote()
        )
        # repeated by this process, which counts the attempts
        self._task = ray.remote(run).options(
            num_cpus=need.threads, num_gpus=need.gpus, memory=need.memory, max_retries=0
        )
        self.running: dict[Any, int] = {}
        """References of results, with the numbers of their tasks."""
        self._done: dict[int, int] = {}
        self._partly: dict[int, int] = {}
        self._reported, self._asked = 0, self._units.done.remote()

    def begin(self, number: int) -> None:
        """Give a task to Ray."""
        self.running[self._task.remote(self._parcel, self._units, number)] = number

    def ended(self) -> Iterator[tuple[int, tuple[Any] | None]]:
        """Wait a moment; yield number and result of each task that ended, None where its worker was lost."""
        ray, lost = self._ray, self._ray.exceptions
        for reference in ray.wait(list(self.running), timeout=_POLL_SECONDS)[0]:
            number = self.running.pop(reference)
            try:
                result, self._done[number] = ray.get(reference)
            except lost.RayTaskError as error:
                raise _readable(error) from None
            except (
                lost.LocalRayletDiedError,
                lost.NodeDiedError,
                lost.ObjectLostError,
                lost.OutOfMemoryError,
                lost.WorkerCrashedError,
            ):
                yield number, None
            else:
                yield number, (result,)

    def new_units(self) -> int:
        """Return the units since the last call; those of a repeated task count once."""
        ready, _ = self._ray.wait([self._asked], timeout=0)
        if ready:
            with suppress(self._ray.exceptions.RayError):  # without it, progress is reported by task
                self._partly = self._ray.get(self._asked)
                self._asked = self._units.done.remote()
        now = sum((self._partly | self._done).values())
        new, self._reported = max(0, now - self._reported), max(now, self._reported)
        return new

    def cancel(self) -> None:
        """Kill the workers of tasks that run, and wait for their end."""
        for reference in self.running:
            self._ray.cancel(reference, force=True)
        self._ray.kill(self._units)
        if self.running:
            self._ray.wait(list(self.running), num_returns=len(self.running), timeout=_CANCEL_SECONDS)


def _readable(error: Any) -> Exception:
    """Return what a task raised: its own line, a line about a node without zskd, or Ray's error with both
    tracebacks.
    """
    cause: Exception = error.cause
    if isinstance(cause, ZskdError):
        return cause
    if isinstance(cause, ImportError) or str(cause).startswith(_NOT_IMPORTED):
        reason = str(cause).strip().splitlines()[-1]
        return ZskdError(
            f"a node of the Ray cluster lacks what tasks import ({reason}): install there what is "
            "installed here"
        )
    unreadable: Exception = error
    return unreadable


def _packed(work: Callable[..., Any], shared: Any) -> Parcel:
    from ray import cloudpickle

    try:
        return Parcel.of_here(cloudpickle.dumps((work, shared)))
    except Exception as error:  # the user's network may raise any exception when it is pickled
        raise ZskdError(
            f"the network cannot be sent to other machines ({one_line(error)}): give --engine local"
        ) from error


def _check_need(ray: ModuleType, need: Need) -> None:
    """Refuse tasks that would wait for ever."""
    wanted = {"CPU": need.threads, "memory": need.memory, "GPU": need.gpus}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(node.get(key, 0) >= value for key, value in wanted.items()) for node in nodes):
        gpus = f", {need.gpus} GPU" if need.gpus else ""
        raise ZskdError(
            f"no node of the Ray cluster has what a task needs, {need.threads} CPU{gpus} and "
            f"{readable_bytes(need.memory)} of memory: add a larger node, or lower --threads or the batch "
            "size"
        )


def _connected(address: str) -> ModuleType:
    """Return Ray, connected to the cluster."""
    try:
        import ray
    except ImportError as error:
        raise ZskdError("--engine ray needs Ray: pip install 'zskd[ray]'") from error
    module: ModuleType = ray
    if not ray.is_initialized():
        _check_address(address)
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        try:
            with _own_signals():
                ray.init(address or None, log_to_driver=False, logging_level="ERROR")
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            where = f"at {address}" if address else "on this machine"
            raise ZskdError(f"--engine ray: there is no cluster {where}: {one_line(error)}") from error
    return module


def _check_address(address: str) -> None:
    """Refuse an address where nobody answers: Ray itself tries for a minute, and ends the process then."""
    address = address or os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ZskdError(
            f"--engine ray: nobody answers at {address} ({one_line(error)}): start a cluster with ray start "
            "--head, and give HOST:PORT of its head"
        ) from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's handling of SIGTERM, which Ray replaces by an exit without a word."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
