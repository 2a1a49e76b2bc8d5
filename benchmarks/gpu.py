"""Images per second on a GPU, by precision, layout and compiler, and on the CPU of the same machine.

`python benchmarks/gpu.py` writes results/gpu.json. `networks` are passes of the teacher forward and of the
student forward and back; `synthesis` and `distillation` are whole steps of the default. Two numbers of steps
are timed, and the difference counts. `--device cpu` tries the script on tiny sizes and saves nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
import torch.nn.functional as F

import zskd
from origin import made_with
from zskd.core.device import choose_device, use_threads, wait_for
from zskd.core.errors import ZskdError, one_line
from zskd.core.files import write_json
from zskd.core.precision import Precision, computing_in
from zskd.distillation.architecture import describe_student, fresh_student
from zskd.models.factory import build, describe, fresh_weights
from zskd.models.running import running
from zskd.synthesis.inversion.initial import draw_initial, draw_warps
from zskd.synthesis.inversion.invert import invert
from zskd.synthesis.inversion.lanes import InversionBatch

CLASSES = 10
_WARM = 2
"""Steps before those that count."""
Run = Callable[[int], None]
"""Takes so many steps, with what is done once before and after them."""


@dataclass(frozen=True)
class Size:
    """What is run, and how often."""

    network: str
    """Of teacher and student."""
    side: int
    """Of the images, which have three channels."""
    batch: int
    """Images in a step."""
    steps: int
    """That count."""
    rounds: int
    """How often each case is timed."""
    threads: int = 0
    """On the CPU; 0: one per core."""


TINY = Size("resnet8", side=8, batch=4, steps=3, rounds=1, threads=1)


@dataclass(frozen=True)
class Case:
    """One line of the record."""

    what: Literal["networks", "synthesis", "distillation"]
    precision: Precision = "float32"
    layout: Literal["channels_last", "channels_first"] = "channels_last"
    compiled: bool = False


CASES = (
    Case("networks", layout="channels_first"),
    Case("networks"),
    Case("networks", "bfloat16", layout="channels_first"),
    Case("networks", "bfloat16"),
    Case("networks", compiled=True),
    Case("networks", "bfloat16", compiled=True),
    Case("synthesis"),
    Case("synthesis", "bfloat16"),
    Case("distillation"),
    Case("distillation", "bfloat16"),
)
ON_CPU = (Case("networks"), Case("synthesis"), Case("distillation"))
"""What the GPU is compared with."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and save; return the exit code, 2 where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="auto", help="such as cuda:1; cpu: try the script")
    parser.add_argument("--network", default="resnet20", help="of teacher and student")
    parser.add_argument("--side", type=int, default=32, help="of the images")
    parser.add_argument("--batch", type=int, default=256, help="images in a step")
    parser.add_argument("--steps", type=int, default=30, help="that count, on the GPU; a tenth on the CPU")
    parser.add_argument("--rounds", type=int, default=3, help="how often each case is timed")
    parser.add_argument("--out", type=Path, help="JSON record; results/gpu.json, and none with --device cpu")
    given = parser.parse_args(arguments)
    try:
        device = choose_device(given.device)
        if device.type == "cpu" and given.device != "cpu":
            raise ZskdError("this machine has no GPU: run the script on one, or try it with --device cpu")
        size = Size(given.network, given.side, given.batch, given.steps, given.rounds)
        lines = tried(device) if device.type == "cpu" else compared(device, size)
    except ZskdError as error:
        print(f"gpu.py: {error}", file=sys.stderr)
        return 2
    out = given.out or (None if device.type == "cpu" else Path("results/gpu.json"))
    if out is not None:
        write_json(out, record(device, TINY if device.type == "cpu" else size, lines))
        print(f"saved in {out}")
    return 0


def tried(device: torch.device) -> list[dict[str, Any]]:
    """Return what all cases measure on tiny sizes; torch's compiler reads networks and makes no code."""
    return measured(device, TINY, CASES, backend="eager")


def compared(device: torch.device, size: Size) -> list[dict[str, Any]]:
    """Return what all cases measure on a GPU, and some on the CPU."""
    fewer = replace(size, steps=max(1, size.steps // 10), rounds=1)
    return measured(device, size, CASES) + measured(torch.device("cpu"), fewer, ON_CPU)


def measured(
    device: torch.device, size: Size, cases: Sequence[Case], backend: str = "inductor"
) -> list[dict[str, Any]]:
    """Return images per second of each case and round, or why it failed."""
    lines = []
    with tempfile.TemporaryDirectory() as folder, use_threads(size.threads):
        teacher = network(size)
        images = zskd.build_transfer_set(
            teacher, zskd.SetSpec(method="noise", count=2 * size.batch), Path(folder) / "set", workers=1
        )
        for case in cases:
            line: dict[str, Any] = {"device": device.type, **asdict(case)}
            try:
                line["images_per_second"] = speed(case, teacher, images, device, size, backend)
            except ZskdError:
                raise
            except Exception as error:  # a compiler may be missing, or memory
                line |= {"images_per_second": [], "failed": one_line(error)}
            lines.append(line)
            print(described(line), flush=True)
    return lines


def network(size: Size) -> zskd.Classifier:
    """Return a teacher with random weights, on the CPU."""
    shape = (3, size.side, size.side)
    architecture = describe(size.network, shape=shape, classes=CLASSES)
    module = fresh_weights(lambda: build(architecture, run_code=False), seed=0)
    made = zskd.Classifier(module, spec=zskd.InputSpec(shape=shape))
    made.architecture = architecture
    return made.freeze()


def speed(
    case: Case,
    teacher: zskd.Classifier,
    images: zskd.TransferSet,
    device: torch.device,
    size: Size,
    backend: str,
) -> list[float]:
    """Return the images per second of each round; the student has half the teacher's width."""
    learner = fresh_student(describe_student("narrow:0.5", teacher), teacher, 0).to(device).train()
    networks = zskd.Classifier(teacher.module, spec=teacher.spec).freeze().to(device), learner
    if case.layout == "channels_first":
        for one in networks:
            one.module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    with compiled(networks if case.compiled else (), backend):
        run = {"networks": passes, "synthesis": synthesis, "distillation": distillation}[case.what](
            *networks, images, case.precision, size
        )
        run(_WARM)
        found = []
        for _ in range(size.rounds):
            short, long = (seconds(run, count, device) for count in (_WARM, _WARM + size.steps))
            if long > short:  # other programs may have taken the time
                found.append(size.steps * size.batch / (long - short))
    return found


@contextmanager
def compiled(networks: Sequence[zskd.Classifier], backend: str) -> Iterator[None]:
    """Run networks compiled inside the block."""
    with ExitStack() as block:
        for one in networks:
            made = torch.compile(one.fused, backend=backend)
            assert isinstance(made, torch.nn.Module)
            block.enter_context(running(one, made))
        yield


def seconds(run: Run, steps: int, device: torch.device) -> float:
    """Return the seconds that some steps take."""
    wait_for(device)
    started = time.perf_counter()
    run(steps)
    wait_for(device)
    return time.perf_counter() - started


def passes(
    teacher: zskd.Classifier,
    student: zskd.Classifier,
    images: zskd.TransferSet,
    precision: Precision,
    size: Size,
) -> Run:
    """Return how the bare networks are run: the teacher forward, the student forward and back."""
    batch = images.images(torch.arange(size.batch)).to(teacher.device)

    def run(steps: int) -> None:
        with computing_in(precision):
            for _ in range(steps):
                with torch.no_grad():
                    targets = teacher(batch).softmax(1)
                F.cross_entropy(student(batch), targets).backward()  # type: ignore[no-untyped-call]

    return run


def synthesis(
    teacher: zskd.Classifier,
    student: zskd.Classifier,
    images: zskd.TransferSet,
    precision: Precision,
    size: Size,
) -> Run:
    """Return how impressions are optimised by the default, none of which stops early."""
    numbers, shape = range(size.batch), teacher.spec.shape
    config = zskd.SynthesisConfig(noise_share=0.0, tolerance=0.0, batch_size=size.batch)
    starts = draw_initial("shapes", numbers, seed=0, shape=shape, box=teacher.spec.box)
    targets = F.softmax(torch.randn(size.batch, CLASSES), dim=1)

    @torch.no_grad()
    def run(steps: int) -> None:
        batch = InversionBatch(starts, targets, draw_warps(numbers, steps, seed=0))
        with computing_in(precision):
            invert(teacher, batch, replace(config, steps=steps))

    return run


def distillation(
    teacher: zskd.Classifier,
    student: zskd.Classifier,
    images: zskd.TransferSet,
    precision: Precision,
    size: Size,
) -> Run:
    """Return how a student is trained by the default on a stored set."""
    config = zskd.DistillConfig(
        start="random", batch_size=size.batch, precision=precision, images="memory", steps=1
    )

    def run(steps: int) -> None:
        zskd.distill(teacher, student.module, images, replace(config, steps=steps))

    return run


def described(line: dict[str, Any]) -> str:
    """Return a line of the record in words."""
    words = [line["device"], line["what"], line["precision"], line["layout"].replace("_", " ")]
    words += ["compiled"] if line["compiled"] else []
    found = line["images_per_second"]
    told = f"{median(found):,.0f} images/s" if found else line.get("failed", "too few steps to tell")
    return f"{', '.join(words)}: {told}"


def record(device: torch.device, size: Size, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the record of all lines."""
    return {
        **made_with(),
        "gpu": gpu(device),
        "size": asdict(size),
        "cases": lines,
    }


def gpu(device: torch.device) -> dict[str, Any] | None:
    """Return what torch knows of a GPU; None for the CPU."""
    if device.type != "cuda":
        return None
    about = torch.cuda.get_device_properties(device)
    return {
        "name": about.name,
        "bytes": about.total_memory,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "tf32": {
            "convolutions": torch.backends.cudnn.allow_tf32,
            "products": torch.backends.cuda.matmul.allow_tf32,
        },
    }


if __name__ == "__main__":
    sys.exit(main())
