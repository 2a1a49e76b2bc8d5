"""What is killed: a command of each kind, as small as it can be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

COMMAND, WORKER, GROUP = "the command", "a worker", "the group"
CHANGE, POWER = "at a change", "power cut"
TARGETS = (COMMAND, WORKER, GROUP, CHANGE, POWER)
"""What is killed: the command, one of its workers, or all its processes, each at some moment; the command
just before it flushes a file or changes a name; and the power at such a moment."""
ALONE = (COMMAND, CHANGE, POWER)
"""Of commands that start no workers."""


@dataclass(frozen=True)
class Scenario:
    """A command that runs in a folder beside `given`, and writes into `out` below it."""

    name: str
    line: str
    """Its arguments, without those of this run of it."""
    targets: tuple[str, ...] = ALONE
    """Where it has workers, it gets two for the first three."""
    once: bool = False
    """Whether a finished result is refused, so that the last kill can come behind it."""
    out: str = "out"
    """Folder or file that it is told to write."""
    minutes: float | None = None
    """Of a budget; what fits differs each time, so that it is compared with the same steps by hand."""


_TEACHER = (
    "teacher train --data.name digits --teacher.model lenet5_bn --teacher.shape 1 16 16 --teacher.epochs 2"
)
_GIVEN = {
    "teacher": f"{_TEACHER} --threads 1",
    "set": "synthesize teacher --preset default --count 30 --synthesis.steps 2 --workers 1",
}
"""By their folders: what makes them."""
_SMALL = "--threads 1 --quiet"
_SETS = "--synthesis.shard-size 15 --synthesis.steps 12"
_STUDENT = "--distill.batch-size 10 --distill.start random"
_RUN = f"run digits {_SMALL} {_SETS} --synthesis.batch-size 15 {_STUDENT} --held-out 20"
_DISTILL = f"distill ../given/teacher {_SMALL} --workers 1 --no-estimate"
_SIZE = "--distill.generator.width 2 --distill.generator.latent 4 --distill.generator.style 2"
_KEPT = "--distill.generator.momentum 0.9 --distill.generator.pool 100 --distill.generator.renew 25"
_GENERATOR = f"--preset conditional --student half {_SIZE} {_KEPT} --distill.generator.warm-up 3"
_IMAGES = "--distill.image-bank.images 20 --distill.image-bank.keep 50"
_BANK = f"--preset default --distill.image-bank.share 0.5 --distill.image-bank.count 4 {_IMAGES}"
_PLAN = """
name: tiny
recipe: digits
settings:
  threads: 1
  teacher: {epochs: 2, shape: [1, 16, 16]}
  synthesis: {steps: 3, batch_size: 20, shard_size: 40}
  distill: {steps: 30, batch_size: 10, start: random}
arms:
  real_kd: {title: "KD, real images", images: real}
  default: {title: ZSKD, settings: {synthesis: {noise_share: 0.5}}}
plan:
  - {arms: [real_kd, default], rates: [5]}
"""

SCENARIOS = (
    Scenario(
        "synthesize",
        f"synthesize ../given/teacher --preset default --quiet --count 150 {_SETS}",
        TARGETS,
    ),
    Scenario(
        "teacher import",
        "teacher import lenet5_bn@../given/teacher/model.safetensors --shape 1 16 16 --mean 0 --std 1",
        once=True,
    ),
    Scenario("export --to torch", "export ../given/teacher --to torch", once=True),
    Scenario("export --to onnx", "export ../given/teacher --to onnx", once=True, out="out/net.onnx"),
    Scenario(
        "export --to imagefolder",
        "export ../given/set --to imagefolder --teacher ../given/teacher",
        once=True,
    ),
    Scenario(
        "distill, a generator",
        f"{_DISTILL} {_GENERATOR} --distill.steps 70 --distill.batch-size 8",
        once=True,
    ),
    Scenario(
        "distill, an image bank",
        f"{_DISTILL} ../given/set {_STUDENT} {_BANK} --distill.steps 110",
        once=True,
    ),
    Scenario(
        "distill --budget", f"{_DISTILL} ../given/set {_STUDENT}", (COMMAND, POWER), once=True, minutes=0.1
    ),
    Scenario(
        "reproduce",
        "reproduce ../given/tiny.yaml --results out/results --quiet",
        TARGETS,
        out="out/work",
    ),
    Scenario(
        "run",
        f"{_RUN} --count 60 --distill.steps 60 --controls noise_smooth"
        " --teacher.shape 1 16 16 --teacher.epochs 2",
        TARGETS,
    ),
    Scenario(
        "run --passes",
        f"{_RUN} --passes 15k --preset default --controls none --teacher.path ../given/teacher --workers 1",
    ),
)


def command(scenario: Scenario, target: str) -> tuple[str, ...]:
    """Return the arguments of `zskd` for a scenario; none have workers where changes are counted."""
    workers = 2 if target in (COMMAND, WORKER, GROUP) else 1
    several = f"--workers {workers}" if WORKER in scenario.targets else ""
    budget = "" if scenario.minutes is None else f"--budget {scenario.minutes}"
    return tuple(f"{scenario.line} {several} {budget} --out {scenario.out}".split())


def make_given(folder: Path, run: Callable[[tuple[str, ...]], object]) -> None:
    """Make what the commands are given: a teacher, a set and a plan.

    Args:
        folder: of all of it.
        run: runs a command of zskd in `folder`.
    """
    (folder / "tiny.yaml").write_text(_PLAN, encoding="utf-8")
    for name, line in _GIVEN.items():
        run((*line.split(), "--quiet", "--out", name))
