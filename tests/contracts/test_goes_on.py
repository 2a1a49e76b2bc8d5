"""What was begun goes on: on other cores, with what an optimiser keeps, and behind a full disk."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from conftest import Lines, StopAt, Stopped, files_of_at_most
from zskd.config.distillation import DistillConfig
from zskd.config.loading import load_recipe
from zskd.config.synthesis import SynthesisConfig
from zskd.config.transforms import AugmentConfig
from zskd.core.device import usable_cores, use_threads
from zskd.core.errors import ZskdError
from zskd.core.files import sha256_file
from zskd.core.progress import Progress, Task
from zskd.core.tensors import read_header, read_tensors, save_tensors
from zskd.distillation.execution import Execution
from zskd.distillation.spec import StudentSpec
from zskd.distillation.students import make_students
from zskd.experiment.cell import append_line
from zskd.models.checkpoint import Card, read_card, save_checkpoint
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import build, describe, fresh_weights
from zskd.run.pipeline import run_recipe
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.spec import SetSpec
from zskd.teacher.sources import fresh_teacher, make_teacher, open_sources
from zskd.training.state import Done, load_state, save_state
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.manifest import MANIFEST

SHAPE = (1, 8, 8)
OTHER = usable_cores() + 1
"""Threads that no share of this machine's cores is."""
GOES_ON = f"the training goes on with the {OTHER} threads that it was begun with"
ANEW = "it begins anew"
TEACHER = describe("mlp(widths=(12,))", shape=SHAPE, classes=4)
DISTILL = DistillConfig(
    start="random", steps=24, batch_size=8, optimiser="adam", learning_rate=0.01, augment=AugmentConfig()
)
SPECS = {
    name: StudentSpec(student="mlp(widths=(6,))", seed=seed, distill=DISTILL)
    for seed, name in enumerate("ab")
}


@pytest.fixture(scope="module")
def teacher() -> Classifier:
    module = fresh_weights(lambda: build(TEACHER, run_code=False), seed=0)
    return Classifier(module, spec=InputSpec(shape=SHAPE)).freeze()


@pytest.fixture(scope="module")
def noise(teacher: Classifier, tmp_path_factory: pytest.TempPathFactory) -> TransferSet:
    return build_transfer_set(teacher, noise_spec(), tmp_path_factory.mktemp("goes_on") / "set")


def noise_spec() -> SetSpec:
    return SetSpec(method="noise", count=60, synthesis=SynthesisConfig(shard_size=30))


# other cores


def students(teacher: Classifier, noise: TransferSet, folder: Path, *, threads: int, **told: Any) -> Path:
    """Train one student behind the other, each with so many threads; 0: with its share of the cores."""
    execution = Execution(threads=threads, workers=1)
    make_students(teacher, SPECS, dict.fromkeys(SPECS, noise), folder, execution=execution, **told)
    return folder


def test_a_student_goes_on_with_the_threads_that_it_was_begun_with_and_the_next_has_its_own(
    teacher: Classifier, noise: TransferSet, tmp_path: Path
) -> None:
    before, lines = torch.get_num_threads(), Lines()
    with pytest.raises(Stopped):
        students(teacher, noise, tmp_path / "cut", threads=OTHER, progress=StopAt(21))
    cut = students(teacher, noise, tmp_path / "cut", threads=0, progress=lines)
    assert [line for line in lines.lines if GOES_ON in line and "distill" in line]
    assert not [line for line in lines.lines if ANEW in line]
    assert read_card(cut / "a").origin.threads == OTHER
    assert read_card(cut / "b").origin.threads == Execution(workers=1).threads_of_each(2)
    assert torch.get_num_threads() == before
    whole = students(teacher, noise, tmp_path / "whole", threads=OTHER)
    one, other = (sha256_file(folder / "a" / "model.safetensors") for folder in (whole, cut))
    assert one == other


class Counted(Progress):
    """Keeps the steps that a task begins with, and those of its workers."""

    def __init__(self) -> None:
        self.begun, self.steps = list[tuple[int, int]](), 0

    @contextmanager
    def task(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:
        if title.startswith("students"):
            self.begun.append((total, done))
        yield self

    def advance(self, done: int = 1, note: str = "") -> None:
        self.steps += done


def test_steps_of_an_earlier_command_are_not_told_as_done_now(
    teacher: Classifier, noise: TransferSet, tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        students(teacher, noise, tmp_path, threads=1, progress=StopAt(21))
    counted, execution = Counted(), Execution(threads=1, workers=2)
    make_students(
        teacher, SPECS, dict.fromkeys(SPECS, noise), tmp_path, execution=execution, progress=counted
    )
    assert counted.begun == [(48, 20)]
    assert counted.steps == 28


def test_a_student_begins_anew_where_another_number_of_threads_is_given(
    teacher: Classifier, noise: TransferSet, tmp_path: Path
) -> None:
    lines = Lines()
    with pytest.raises(Stopped):
        students(teacher, noise, tmp_path, threads=OTHER, progress=StopAt(21))
    students(teacher, noise, tmp_path, threads=1, progress=lines)
    assert [line for line in lines.lines if ANEW in line]
    assert read_card(tmp_path / "a").origin.threads == 1


def test_a_teacher_goes_on_with_the_threads_that_it_was_begun_with(tmp_path: Path) -> None:
    told = {"steps": 24, "batch_size": 300, "model": "mlp(widths=(6,))"}
    recipe, lines = load_recipe("digits", {"teacher": {"shape": [1, 8, 8], **told}}), Lines()

    class StopBehind(StopAt):
        def note(self, name: str, value: float, step: int) -> None:
            super().note(name.replace("teacher", "distill"), value, step)

    sources = open_sources(recipe)
    assert sources.data is not None

    def make(name: str, threads: int, progress: Progress) -> str:
        fresh = replace(sources, model=fresh_teacher(recipe, sources.data))
        with use_threads(threads):
            make_teacher(recipe, fresh, tmp_path / name, progress)
        return sha256_file(tmp_path / name / "model.safetensors")

    with pytest.raises(Stopped):
        make("cut", OTHER, StopBehind(21))
    assert make("cut", 0, lines) == make("whole", OTHER, Progress())
    assert [line for line in lines.lines if GOES_ON in line]


def test_a_run_tells_the_threads_that_its_student_was_trained_with(
    teacher: Classifier, tmp_path: Path
) -> None:
    save_checkpoint(teacher, Card(architecture=TEACHER), tmp_path / "given")
    recipe = load_recipe(
        "my-teacher",
        {
            "count": 20,
            "held_out": 10,
            "workers": 1,
            "student": "mlp(widths=(6,))",
            "synthesis": {"steps": 1},
            "distill": {"steps": 24, "batch_size": 8, "start": "random"},
            "teacher": {"path": tmp_path / "given"},
        },
    )
    with pytest.raises(Stopped):
        run_recipe(recipe, tmp_path / "run", progress=StopAt(21))
    state = tmp_path / "run" / "students" / "zskd" / "training.safetensors"
    _, metadata = read_header(state)
    save_tensors(read_tensors(state), state, metadata=metadata | {"threads": str(OTHER)})
    assert run_recipe(recipe, tmp_path / "run").threads == OTHER


def test_an_unfinished_set_goes_on_with_another_number_of_cores_of_the_same_kind(
    teacher: Classifier, noise: TransferSet, tmp_path: Path
) -> None:
    build_transfer_set(teacher, noise_spec(), tmp_path)
    (tmp_path / "shard-00001.safetensors").unlink()
    begun = json.loads((tmp_path / MANIFEST).read_text())
    begun["processor"]["cores"] += 1
    (tmp_path / MANIFEST).write_text(json.dumps(begun))
    assert build_transfer_set(teacher, noise_spec(), tmp_path).fingerprint() == noise.fingerprint()
    (tmp_path / "shard-00001.safetensors").unlink()
    begun["processor"]["name"] = "another"
    (tmp_path / MANIFEST).write_text(json.dumps(begun))
    with pytest.raises(ZskdError, match=r"made with another processor\.name \(another there"):
        build_transfer_set(teacher, noise_spec(), tmp_path)


# what an optimiser keeps


class Typed(torch.optim.Optimizer):
    """Keeps a sum in double precision, signs as booleans and a count in whole numbers, by parameter."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                kept = self.state[parameter]
                if not kept:
                    kept["sum"] = torch.zeros_like(parameter, dtype=torch.float64)
                    kept["count"] = torch.tensor(2**24 + 1)
                kept["sum"] += parameter.grad.double() / 3
                kept["positive"] = parameter.grad > 0
                kept["count"] += 2
                parameter -= (
                    group["lr"] * torch.where(kept["positive"], kept["sum"], kept["count"] % 5).float()
                )


def descend(network: nn.Module, optimiser: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimiser.zero_grad()
        network(torch.ones(1, 3)).square().sum().backward()
        optimiser.step()


@pytest.mark.parametrize("make", [Typed, torch.optim.Adam])
def test_an_optimiser_resumes_with_the_types_that_it_keeps(
    make: Callable[[Any], torch.optim.Optimizer], tmp_path: Path
) -> None:
    def begun() -> tuple[nn.Module, torch.optim.Optimizer]:
        network = fresh_weights(lambda: nn.Linear(3, 2), 0)
        return network, make(network.parameters())

    whole, stopped, resumed = begun(), begun(), begun()
    descend(*whole, 8)
    descend(*stopped, 5)
    save_state(tmp_path / "state", "k", {"": stopped}, Done([1.0] * 5))
    load_state(tmp_path / "state", "k", {"": resumed})
    before, after = (one.state_dict()["state"] for _, one in (stopped, resumed))
    assert before.keys() == after.keys()
    for number, own in before.items():
        for name, value in own.items():
            assert value.dtype == after[number][name].dtype
            assert torch.equal(value, after[number][name])
    descend(*resumed, 3)
    assert torch.equal(whole[0].weight, resumed[0].weight)


class Phased(torch.optim.Optimizer):
    """Steps by a value of its group, which a function changes, beside values that stay as they are."""

    def __init__(self, parameters: Any, kept: Any, changed: Callable[[Any], Any]) -> None:
        groups = [{"params": list(parameters), "name": "all"}]
        super().__init__(groups, {"lr": 0.1, "kept": kept, "dtype": torch.float32, "betas": (0.9, None)})
        self.changed = changed

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["kept"] = self.changed(group["kept"])
            for parameter in group["params"]:
                parameter.data -= group["lr"] / len(group["kept"]) * parameter.grad


@pytest.mark.parametrize(
    ("kept", "changed"), [("a", lambda text: text + "b"), ((1, None), lambda numbers: (*numbers, 0.1))]
)
def test_an_optimiser_resumes_with_the_texts_and_tuples_of_its_groups(
    kept: Any, changed: Callable[[Any], Any], tmp_path: Path
) -> None:
    networks = [fresh_weights(lambda: nn.Linear(3, 2), 0) for _ in range(3)]
    whole, stopped, resumed = [(one, Phased(one.parameters(), kept, changed)) for one in networks]
    descend(*whole, 8)
    descend(*stopped, 5)
    save_state(tmp_path / "state", "k", {"": stopped}, Done([1.0] * 5))
    load_state(tmp_path / "state", "k", {"": resumed})
    descend(*resumed, 3)
    assert torch.equal(whole[0].weight, resumed[0].weight)
    save_state(tmp_path / "state", "k", {"": resumed}, Done([1.0] * 8))  # what stays is still as it was


@pytest.mark.parametrize("changed", [lambda steps: [*steps, 0], lambda steps: steps.append(0) or steps])
def test_an_optimiser_with_a_list_in_its_groups_is_refused(
    changed: Callable[[Any], Any], tmp_path: Path
) -> None:
    network = fresh_weights(lambda: nn.Linear(3, 2), 0)
    optimiser = Phased(network.parameters(), [], changed)
    descend(network, optimiser, 1)
    with pytest.raises(
        ZskdError, match="the optimiser Phased keeps kept in its group, which cannot be saved"
    ):
        save_state(tmp_path / "state", "k", {"": (network, optimiser)}, Done([1.0]))


# a full disk


def test_a_line_that_a_full_disk_cuts_is_taken_back_so_that_no_other_joins_it(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    append_line(ledger, {"cell": "first"})
    whole = ledger.read_text()
    with files_of_at_most(len(whole) + 8), pytest.raises(ZskdError, match="cannot append to .*: only a part"):
        append_line(ledger, {"cell": "second"})
    assert ledger.read_text() == whole
    append_line(ledger, {"cell": "third"})
    assert ledger.read_text() == whole + whole.replace("first", "third")
