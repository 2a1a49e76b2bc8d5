"""Shapes and types are checked at run time in tests; one thread, so that workers do not fight for cores."""

import os
import resource
import signal
import sys
import tempfile

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# the hundreds of processes that the tests start share what Python compiles once, as a user's do
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# scikit-learn imports pandas where it is installed, and that pyarrow, whose allocator starts a thread:
# the server of processes (tests/warm) forks, and a fork loses threads
os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"

# a shell ignores them for what it starts in the background, and so would every command that a test interrupts
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# code that tests name is not remembered as this user's
_STATE = tempfile.TemporaryDirectory(prefix="zskd-state-")
os.environ["XDG_STATE_HOME"] = _STATE.name

from importlib.util import find_spec
from pathlib import Path

from jaxtyping import install_import_hook


def shaped() -> list[str]:
    """Return the modules whose annotations hold shapes; mypy checks all others, at no cost for each call."""
    spec = find_spec("zskd")
    assert spec is not None
    (root,) = map(Path, spec.submodule_search_locations or ())
    files = [path for path in root.rglob("*.py") if "zskd.core.types import" in path.read_text("utf-8")]
    return [".".join(("zskd", *path.relative_to(root).with_suffix("").parts)) for path in files]


install_import_hook(shaped(), "type_check.check")

import shlex
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import HealthCheck, settings

import type_check
from limits import LIMIT, wait_until
from warm import zskd
from zskd.config.data import DataConfig
from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.config.training import TeacherConfig
from zskd.core.progress import Progress
from zskd.data.datasets import Dataset, load_data
from zskd.models.checkpoint import Card, save_checkpoint
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import build, describe, fresh_weights
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.spec import SetSpec
from zskd.teacher.training import train_teacher
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.shard import Shard

torch.set_num_threads(1)

SHAPE = (1, 32, 32)

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.option.timeout is None:
        config.option.timeout = LIMIT


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    type_check.begin_again()


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_data(DataConfig(name="digits"), SHAPE)


@pytest.fixture(scope="session")
def teacher(digits: Dataset) -> Classifier:
    """LeNet-5 trained on real digits for a few seconds."""
    architecture = describe("lenet5", shape=SHAPE, classes=10)
    module = fresh_weights(lambda: build(architecture, run_code=False), seed=0)
    untrained = Classifier(module, spec=InputSpec(shape=SHAPE))
    config = TeacherConfig(epochs=10, batch_size=32)
    return train_teacher(untrained, digits, config, seed=0)


@pytest.fixture(scope="session")
def teacher_folder(teacher: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "teacher"
    architecture = describe("lenet5", shape=SHAPE, classes=10)
    return save_checkpoint(teacher, Card(architecture=architecture, origin={"how": "trained"}), folder)


@pytest.fixture(scope="session")
def small_spec() -> SetSpec:
    """Two shards, the second not full, its last batch not full either."""
    return SetSpec(
        count=50,
        seed=3,
        targets=TargetsConfig(redraws=5, concentration_floor=0.05),
        synthesis=SynthesisConfig(steps=8, noise_share=0.4, batch_size=20, shard_size=40),
    )


@pytest.fixture(scope="session")
def small_set(
    teacher: Classifier, small_spec: SetSpec, tmp_path_factory: pytest.TempPathFactory
) -> TransferSet:
    return build_transfer_set(teacher, small_spec, tmp_path_factory.mktemp("set") / "set")


def run_zskd(
    *arguments: object, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, in a process of its own."""
    return subprocess.run(
        [*zskd(), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=LIMIT,
        env={**os.environ, "COLUMNS": "200", **environment},
        check=False,
    )


def run_blocks(blocks: Iterable[str], folder: Path) -> None:
    """Run shell blocks of a page in a folder, as a reader whose `zskd` and `python` are these."""
    for name, command in (("zskd", zskd()), ("python", [sys.executable])):
        (folder / name).write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        (folder / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    for block in blocks:
        done = subprocess.run(
            ["bash", "-e", "-c", block],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for something that a running command brings about."""
    came = False

    def known() -> bool:
        nonlocal came
        ended = process.poll() is not None
        came = ready()
        return came or ended

    assert wait_until(known)
    assert came, process.communicate()[1]


_NOBODY = 65534


@contextmanager
def nobody() -> Iterator[None]:
    """Be a user without rights, where the tests are run by the administrator."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def joined(shards: Iterable[Shard]) -> Shard:
    """Return the images of several shards, or of a set, as one shard."""
    columns = zip(*(shard.tensors().items() for shard in shards), strict=True)
    return Shard(**{parts[0][0]: torch.cat([one for _, one in parts]) for parts in columns})


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let the system cut what is written behind so many bytes of a file, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Lines(Progress):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def log(self, text: str) -> None:
        self.lines.append(text)


class Stopped(Exception):
    """What a killed run looks like from inside."""


class StopAt(Progress):
    """Stops the training behind so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    @property
    def listens(self) -> bool:
        return True

    def note(self, name: str, value: float, step: int) -> None:
        if name == "distill/loss" and step >= self.left:
            raise Stopped
