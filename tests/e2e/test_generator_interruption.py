"""Kill -9 while a student learns from a generator: average, statistics, pool and optimisers come back."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from conftest import wait_for
from warm import KILL, zskd
from zskd.models.checkpoint import Card, save_checkpoint
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import build, describe, fresh_weights

SHAPE = (1, 16, 16)
STEPS = 70
SMALL = (
    *("--preset", "conditional", "--student", "half", "--threads", "1", "--workers", "1", "--quiet"),
    *("--distill.steps", str(STEPS), "--distill.batch-size", "8", "--distill.generator.width", "2"),
    *("--distill.generator.latent", "4", "--distill.generator.style", "2"),
    *("--distill.generator.warm-up", "3", "--distill.generator.momentum", "0.9"),
    *("--distill.generator.pool", "100", "--distill.generator.renew", "25"),
)
"""All that a generator keeps: average and replay are set in the preset."""
ALONE = ("--controls", "none", "--held-out", "20")
KEPT = {"generator", "averaged generator", "statistics", "pool"}


@pytest.fixture(scope="module")
def with_norms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network whose batch-norm has seen some images; what it predicts is of no importance here."""
    architecture = describe("lenet5_bn", shape=SHAPE, classes=10)
    module = fresh_weights(lambda: build(architecture, run_code=False), seed=0).train()
    module(torch.rand(64, *SHAPE, generator=torch.Generator().manual_seed(0)))
    made = Classifier(module.eval(), spec=InputSpec(shape=SHAPE))
    folder = tmp_path_factory.mktemp("teacher") / "teacher"
    return save_checkpoint(made, Card(architecture=architecture, origin={"how": "trained"}), folder)


def saved_steps(state: Path) -> int:
    """Return the step of a saved state, 0 without one; states are replaced as a whole."""
    if not state.is_file():
        return 0
    with safe_open(state, "pt") as opened:
        assert {name.split("/")[0] for name in opened.keys() if name.count("/") > 1} >= KEPT  # noqa: SIM118
        return len(opened.get_tensor("losses"))


def kill_when(command: list[str], ready: Callable[[], bool], cwd: Path) -> None:
    process = subprocess.Popen(
        [*zskd(), *command], cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    wait_for(ready, process)
    process.send_signal(KILL)
    process.communicate()


@pytest.fixture(scope="module")
def whole(with_norms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student whose training nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    command = ["distill", str(with_norms), *SMALL, "--out", "student"]
    kill_when(command, (folder / "student/card.json").exists, folder)
    return folder / "student"


@pytest.mark.parametrize(
    ("verb", "options", "where", "places"),
    [
        ("distill", ("{teacher}", "--no-estimate"), "", (0, 20, 40)),
        ("run", ("my-teacher", "--teacher.path", "{teacher}", *ALONE), "students/conditional", (20, 40)),
    ],
    ids=["distill", "run"],
)
def test_killed_at_several_steps_a_generator_and_its_student_end_in_the_same_bytes(
    with_norms: Path,
    whole: Path,
    tmp_path: Path,
    verb: str,
    options: tuple[str, ...],
    where: str,
    places: tuple[int, ...],
) -> None:
    """A place is a saved step behind which the training is killed; 0: before it saves any."""
    command = [verb, *(one.format(teacher=with_norms) for one in options), *SMALL, "--out", "out"]
    student = tmp_path / "out" / where
    for place in places:
        state = student / "training.safetensors"
        kill_when(command, lambda: student.is_dir() and saved_steps(state) >= place, tmp_path)  # noqa: B023
        assert place <= saved_steps(state) < STEPS
        assert not (student / "card.json").exists()
    kill_when(command, (student / "card.json").exists, tmp_path)
    assert (student / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    origins = [json.loads((one / "card.json").read_text())["origin"] for one in (student, whole)]
    assert origins[0] == origins[1]  # passes included: a step that was repeated is counted once
    assert origins[0]["method"] == "conditional"
