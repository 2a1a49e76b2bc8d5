"""Curves and pictures for TensorBoard, read back from real event files as TensorBoard reads them."""

import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conftest import SHAPE
from limits import LIMIT
from zskd.config.data import DataConfig
from zskd.config.distillation import DistillConfig
from zskd.config.identity import identity
from zskd.config.loading import load_recipe, to_yaml
from zskd.config.recipe import Recipe
from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.config.training import TeacherConfig
from zskd.core.errors import ZskdError
from zskd.core.progress import Progress, WorkerProgress
from zskd.core.tensorboard import tracked
from zskd.data.datasets import Dataset
from zskd.distillation.distill import distill
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import build, describe, fresh_weights
from zskd.run.metrics import RunMetrics
from zskd.run.pipeline import run_recipe
from zskd.teacher.training import train_teacher
from zskd.transfer_set.dataset import TransferSet

QUICK = DistillConfig(steps=63, batch_size=10)
"""Six passes over the small set and half of another."""


def curves(folder: Path) -> dict[str, dict[int, float]]:
    """Return value by step of every curve; a step that is drawn twice is an error."""
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    names = found.Tags()["scalars"]
    for name in names:
        steps = [event.step for event in found.Scalars(name)]
        assert steps == sorted(set(steps)), (name, steps)
    return {name: {event.step: event.value for event in found.Scalars(name)} for name in names}


def pictures(folder: Path) -> dict[str, np.ndarray]:
    found = EventAccumulator(str(folder), size_guidance={"images": 0})
    found.Reload()
    drawn = {name: found.Images(name) for name in found.Tags()["images"]}
    assert all(len(events) == 1 for events in drawn.values())
    return {
        name: np.asarray(Image.open(BytesIO(event.encoded_image_string))) for name, (event,) in drawn.items()
    }


def network() -> Classifier:
    architecture = describe("lenet5_small", shape=SHAPE, classes=10)
    module = fresh_weights(lambda: build(architecture, run_code=False), seed=1)
    return Classifier(module, spec=InputSpec(shape=SHAPE))


class StoppedAt(WorkerProgress):
    """Ends the work behind so many steps, as Ctrl-C does."""

    def __init__(self, steps: int) -> None:
        super().__init__(self._count)
        self._left = steps

    def _count(self, done: int) -> None:
        self._left -= done
        if self._left <= 0:
            raise KeyboardInterrupt


class Lines(Progress):
    def __init__(self, verbose: bool) -> None:
        self.verbose = verbose
        self.lines: list[str] = []

    def log(self, text: str) -> None:
        self.lines.append(text)


def test_the_curves_of_a_teacher_are_its_losses_and_its_accuracy(digits: Dataset, tmp_path: Path) -> None:
    config = TeacherConfig(steps=65, batch_size=32, learning_rate=5e-3)
    with tracked(Progress(), tmp_path, "teacher") as progress:
        train_teacher(network(), digits, config, seed=0, progress=progress)
    found = curves(tmp_path / "teacher")
    assert set(found) == {"teacher/loss", "teacher/learning_rate", "teacher/accuracy"}
    assert list(found["teacher/loss"]) == [0, 10, 20, 30, 40, 50, 60, 64]
    assert list(found["teacher/accuracy"]) == [0, 50, 64]
    assert found["teacher/learning_rate"][0] == pytest.approx(config.learning_rate)
    assert found["teacher/learning_rate"][64] < 0.01 * config.learning_rate
    # ten classes at random, and something learned
    assert found["teacher/loss"][0] == pytest.approx(np.log(10), abs=0.2)
    assert found["teacher/loss"][64] < 0.6 * found["teacher/loss"][0]
    accuracy = found["teacher/accuracy"]
    assert accuracy[0] < 40 < 60 < accuracy[64] <= 100
    assert all(value * 32 / 100 == pytest.approx(round(value * 32 / 100)) for value in accuracy.values())


def test_a_student_is_the_same_with_and_without_and_its_agreement_is_told(
    teacher: Classifier, small_set: TransferSet, tmp_path: Path
) -> None:
    alone = distill(teacher, network().module, small_set, QUICK)
    with tracked(Progress(), tmp_path, "student") as progress:
        watched = distill(teacher, network().module, small_set, QUICK, progress=progress)
    assert watched.fingerprint() == alone.fingerprint()
    found = curves(tmp_path / "student")
    assert set(found) == {"distill/loss", "distill/learning_rate", "distill/agreement"}
    assert list(found["distill/loss"]) == [0, 10, 20, 30, 40, 50, 60, 62]
    assert list(found["distill/agreement"]) == [0, 50, 62]
    assert all(0 <= value <= 100 for value in found["distill/agreement"].values())


def test_without_a_teacher_to_ask_there_is_no_agreement(
    teacher: Classifier, small_set: TransferSet, tmp_path: Path
) -> None:
    config = load_recipe(
        None,
        {
            "distill": {
                "steps": 2,
                "teacher_weight": 0,
                "label_weight": 1,
                "augment": {"mixup": 0, "cutmix": 0},
            }
        },
    ).distill
    with tracked(Progress(), tmp_path, "student") as progress:
        distill(teacher, network().module, small_set, config, progress=progress)
    assert set(curves(tmp_path / "student")) == {"distill/loss", "distill/learning_rate"}


@pytest.mark.parametrize("stop", [3, 38])
def test_a_training_that_was_stopped_and_goes_on_draws_one_line(
    teacher: Classifier, small_set: TransferSet, tmp_path: Path, stop: int
) -> None:
    """Stopped at step 38, it goes on from 35, the last whole pass; at step 3 there is none yet."""
    with tracked(Progress(), tmp_path, "straight") as progress:
        distill(teacher, network().module, small_set, QUICK, progress=progress)
    state = tmp_path / "state.safetensors"
    for number in (stop, 1000):
        with tracked(StoppedAt(number), tmp_path, "stopped") as progress:
            try:
                distill(teacher, network().module, small_set, QUICK, state=state, progress=progress)
            except KeyboardInterrupt:
                time.sleep(1.01)  # a file is named after the second in which it was begun
    assert len(list((tmp_path / "stopped").iterdir())) == 2
    assert curves(tmp_path / "stopped") == curves(tmp_path / "straight")


def test_what_was_noted_is_on_disk_after_a_failure(tmp_path: Path) -> None:
    def fail() -> None:
        with tracked(Progress(), tmp_path, "a/b") as progress:
            progress.note("curve", 0.5, 7)
            raise ZskdError("too bad")

    with pytest.raises(ZskdError, match="too bad"):
        fail()
    assert curves(tmp_path / "a/b") == {"curve": {7: 0.5}}


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_picture_shows_the_images_whatever_their_channels(tmp_path: Path, channels: int) -> None:
    images = torch.rand(10, channels, 6, 5) * 1.2 - 0.1  # a box of the user's may be wider
    with tracked(Progress(), tmp_path, "run") as progress:
        progress.picture("set/zskd", images)
    (drawn,) = pictures(tmp_path / "run").values()
    assert drawn.shape == (2 * 6, 8 * 5, 3)
    shown = images if channels == 3 else images[:, :1].expand(10, 3, 6, 5)
    for number in (0, 9):
        top, left = 6 * (number // 8), 5 * (number % 8)
        there = drawn[top : top + 6, left : left + 5] / 255
        wanted = shown[number].clamp(0, 1).permute(1, 2, 0).numpy()
        assert np.abs(there - wanted).max() < 0.01


@pytest.mark.parametrize("verbose", [False, True])
def test_everything_else_goes_where_it_went(tmp_path: Path, verbose: bool) -> None:
    lines, units = Lines(verbose), []
    with tracked(lines, tmp_path, "run") as progress:
        progress.log("one")
        progress.detail("two")
        assert progress.verbose is verbose
    assert lines.lines == ["one", "two"][: 1 + verbose]
    with (
        tracked(WorkerProgress(units.append), tmp_path, "run") as progress,
        progress.task("t", 9, "steps", 4) as task,
    ):
        task.advance(3)
        with progress.task("before it", 5, "billion multiply-adds") as other:
            other.advance(2)
    assert units == [3], "steps alone, and no others than those of now"
    assert not list((tmp_path / "run").iterdir()), "nothing was noted"


def test_without_a_folder_nothing_is_kept_and_nothing_imported() -> None:
    code = (
        "import sys\n"
        "from zskd.run.pipeline import run_recipe\n"
        "from zskd.core.progress import Progress\n"
        "from zskd.core.tensorboard import tracked\n"
        "mine = Progress()\n"
        "with tracked(mine, None, 'run') as progress:\n"
        "    assert progress is mine and not progress.listens\n"
        "    progress.note('loss', 1.0, 0)\n"
        "sys.exit('tensorboard' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_missing_tensorboard_is_told_in_one_line_before_anything_is_made(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['tensorboard'] = None\n"
        "from zskd.__main__ import main\n"
        "sys.argv[1:] = ['run', 'digits', '--tensorboard', 'tb', '--out', 'run']\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=LIMIT, check=False
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("zskd: error: --tensorboard needs TensorBoard (")
    assert line.endswith("): pip install 'zskd[tb]'")
    assert not (tmp_path / "tb").exists()
    assert not (tmp_path / "run" / "teacher").exists()


def test_a_folder_that_cannot_be_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "tb").write_text("a file")
    with pytest.raises(ZskdError, match=r"^cannot create the folder .*tb/run: "):
        run_recipe(tiny(tmp_path / "tb"), tmp_path / "run")
    assert not (tmp_path / "run" / "teacher").exists()


def tiny(tensorboard: Path | None) -> Recipe:
    """Two arms whose students are trained in worker processes."""
    return Recipe(
        name="tiny",
        count=40,
        held_out=20,
        controls=("noise_shapes",),
        threads=1,
        workers=2,
        tensorboard=tensorboard,
        data=DataConfig(name="digits"),
        teacher=TeacherConfig(steps=30),
        targets=TargetsConfig(redraws=5),
        synthesis=SynthesisConfig(steps=3, batch_size=20, shard_size=40),
        distill=DistillConfig(steps=12, batch_size=20),
    )


def test_a_whole_run_with_two_arms_in_worker_processes(tmp_path: Path) -> None:
    tensorboard, folder = tmp_path / "tb", tmp_path / "run"
    metrics = run_recipe(tiny(tensorboard), folder)
    runs = [path.parent.relative_to(tensorboard).as_posix() for path in tensorboard.rglob("*.tfevents.*")]
    assert sorted(runs) == ["run", "students/noise_shapes", "students/zskd", "teacher"]
    assert set(curves(tensorboard / "teacher")) == {
        f"teacher/{name}" for name in ("loss", "accuracy", "learning_rate")
    }
    for arm in ("zskd", "noise_shapes"):
        assert list(curves(tensorboard / "students" / arm)["distill/loss"]) == [0, 10, 11]
    assert_run_is_told(tensorboard / "run", metrics)
    page = (folder / "README.md").read_text(encoding="utf-8")
    assert "| random shapes | 40 | " in page
    assert "| arm | held-out impressions | smooth noise | random shapes | white noise |" in page
    assert "![samples](figures/samples-noise_shapes.png)" in page
    assert (folder / "figures" / "samples-noise_shapes.png").is_file()
    # a run is known by its results and not by who looked on
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}
    assert run_recipe(tiny(None), folder) == metrics
    assert {path: path.stat().st_mtime_ns for path in before} == before
    # a run that is mended notes again what it found, and no line twice
    next((folder / "sets" / "noise_shapes").glob("*.safetensors")).unlink()
    assert run_recipe(tiny(tensorboard), folder) == metrics
    assert_run_is_told(tensorboard / "run", metrics)


def assert_run_is_told(folder: Path, metrics: RunMetrics) -> None:
    drawn = pictures(folder)
    assert set(drawn) == {"set/zskd", "set/noise_shapes"}
    assert all(picture.shape == (5 * 32, 8 * 32, 3) for picture in drawn.values())
    wanted = {"test_accuracy/teacher": metrics.teacher.test_accuracy}
    for row in metrics.arms:
        wanted[f"test_accuracy/{row.arm}"] = row.test_accuracy
        wanted |= {f"agreement_{kind}/{row.arm}": share for kind, share in row.agreement.items()}
    assert len(wanted) == 1 + 2 * 5
    assert curves(folder) == {name: {12: pytest.approx(share.percent)} for name, share in wanted.items()}


@pytest.mark.parametrize("given", ["tb", "a b/ü: {x}", None])
def test_the_setting_survives_yaml_and_changes_no_identity(tmp_path: Path, given: str | None) -> None:
    recipe = load_recipe("digits", {"tensorboard": given})
    assert recipe.tensorboard == (Path(given) if given else None)
    path = tmp_path / "mine.yaml"
    path.write_text(to_yaml(recipe), encoding="utf-8")
    assert load_recipe(path) == recipe
    assert identity(recipe) == identity(load_recipe("digits"))
