"""A search from end to end on pictures in folders, whose test pictures cannot be read."""

import json
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import Lines, Stopped
from zskd.cli.main import main as run
from zskd.config.data import DataConfig
from zskd.config.loading import load_recipe
from zskd.core.engines.base import Need, OnProgress, Result, Shared
from zskd.core.engines.local import LocalEngine
from zskd.core.errors import ZskdError
from zskd.data.datasets import load_data
from zskd.evaluation.metrics import predict
from zskd.models.checkpoint import load_checkpoint
from zskd.tuning import study
from zskd.tuning.journal import Trial, read_journal
from zskd.tuning.space import Space, read_space
from zskd.tuning.study import Found, tune

RECIPE = """
name: tiny
count: 40
threads: 1
workers: 1
student: mlp(widths=(6,))
data: {name: folder, validation: 0.5}
teacher: {model: "mlp(widths=(12,))", shape: [1, 8, 8], steps: 40, batch_size: 20}
synthesis: {steps: 3, shard_size: 40, batch_size: 20}
distill: {steps: 20, batch_size: 20, start: random}
"""
OVER = ("distill.learning_rate=0.001..0.1:log", "distill.tau=1..9:4")
TRIALS = 5


def write_pictures(folder: Path, seed: int, *, readable: bool = True) -> None:
    """Thirty pictures of each of two classes: noise, brighter on the left or on the right."""
    numbers = np.random.default_rng(seed)
    for name, side in (("left", slice(0, 4)), ("right", slice(4, 8))):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for place in range(30):
            pixels = numbers.integers(0, 140, (8, 8), dtype=np.uint8)
            pixels[:, side] += 60
            path = folder / name / f"{place:02d}.png"
            if readable:
                Image.fromarray(pixels).save(path)
            else:
                path.write_text("no picture")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuning")
    write_pictures(folder / "data" / "train", 0)
    write_pictures(folder / "data" / "test", 1, readable=False)
    path = folder / "tiny.yaml"
    path.write_text(RECIPE.replace("{name: folder", f"{{name: folder, dir: {folder / 'data'}"))
    return path


@pytest.fixture(scope="module")
def told(recipe: Path, capsys_of_module: Callable[[], str]) -> tuple[Path, dict[str, Any]]:
    """The folder of a search by the command, and its document."""
    out = recipe.parent / "search"
    over = [part for one in OVER for part in ("--over", one)]
    where = ["--out", str(out), "--results", str(recipe.parent / "results")]
    how = ["--trials", str(TRIALS), "--together", "3", "--quiet", "--json"]
    assert run(["tune", str(recipe), *over, *where, *how]) == 0
    return out, json.loads(capsys_of_module())


@pytest.fixture(scope="module")
def capsys_of_module() -> Iterator[Callable[[], str]]:
    import contextlib
    import io

    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        yield text.getvalue


def search(recipe: Path, out: Path, progress: Lines | None = None, **options: Any) -> Found:
    space = options.pop("space", None) or read_space(None, OVER)
    options = {"trials": TRIALS, "together": 3, "results": out / "results"} | options
    return tune(lambda more: load_recipe(recipe, more), space, out, progress=progress, **options)


def without_times(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """The lines of a journal; seconds alone may differ."""
    lines: list[dict[str, Any]] = [trial.model_dump() for trial in trials]
    for line in lines:
        if line["measured"]:
            del line["measured"]["seconds"]
    return lines


def test_no_test_picture_is_read_and_the_ledger_says_so(
    recipe: Path, told: tuple[Path, dict[str, Any]]
) -> None:
    data = DataConfig(name="folder", dir=recipe.parent / "data")
    with pytest.raises(ZskdError, match="no readable picture"):  # as anything that looked would have seen
        load_data(data, (1, 8, 8))
    (line,) = (recipe.parent / "results" / "ledger.jsonl").read_text().splitlines()
    noted = json.loads(line)
    assert (noted["test_images"], noted["test_accuracy"]) == (0, None)
    assert (noted["validation_images"], noted["cell"]) == (30, f"{TRIALS} trials")
    assert told[1]["test_images"] == 0


def test_a_trial_is_the_student_of_its_settings_on_validation_images(
    recipe: Path, told: tuple[Path, dict[str, Any]]
) -> None:
    out, document = told
    trials = read_journal(out / "tuning.jsonl")
    assert [trial.to_json() for trial in trials] == document["trials"]
    assert [trial.number for trial in trials] == list(range(TRIALS))
    data = load_data(load_recipe(recipe).data, (1, 8, 8), test=False)
    (of_teacher,) = out.glob("teachers/*/card.json")
    teacher = load_checkpoint(of_teacher.parent)[0]
    for trial in trials:
        measured = trial.measured
        assert measured is not None
        (folder,) = out.glob(f"cells/trial-{trial.number}-*/student")
        student = load_checkpoint(folder)[0]
        answers, wanted = (predict(one, data.validation.images) for one in (student, teacher))
        assert trial.value == measured.agreement == 100 * int((answers == wanted).sum()) / 30
        assert measured.accuracy == 100 * int((answers == data.validation.labels).sum()) / 30
        assert student.fingerprint() == measured.student_sha256
        # two shards of three steps and a label each; a pass of the teacher for each image of each step
        assert measured.passes is not None
        assert measured.passes["distillation"].teacher_forward == 20 * 20
    values = [trial.value or 0.0 for trial in trials]
    assert document["best"] == values.index(max(values))


def test_the_recipe_of_the_best_makes_its_student_again(
    recipe: Path, told: tuple[Path, dict[str, Any]]
) -> None:
    _, document = told
    write_pictures(recipe.parent / "whole" / "test", 1)
    shutil.copytree(recipe.parent / "data" / "train", recipe.parent / "whole" / "train")
    where = ["--data.dir", str(recipe.parent / "whole"), "--out", str(recipe.parent / "run")]
    assert run(["run", document["recipe"], *where, "--controls", "none", "--quiet"]) == 0
    student = load_checkpoint(recipe.parent / "run" / "students" / "zskd")[0]
    assert student.fingerprint() == document["trials"][document["best"]]["measured"]["student_sha256"]


class KillAt(Lines):
    """Ends the search behind the line of a trial."""

    def log(self, text: str) -> None:
        super().log(text)
        if text.startswith("trial 1:"):
            raise Stopped


class Backwards(LocalEngine):
    """Another engine, whose last task is done first."""

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
        for number in reversed(numbers):
            yield number, work(shared, number, on_progress)


def test_the_command_for_the_best_names_code_that_was_typed_as_a_setting(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "loss_of_search.py").write_text(
        "import torch.nn.functional as F\n\n\ndef loss(student, teacher, config):\n"
        "    return F.mse_loss(student, teacher)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    where = ["--out", str(tmp_path / "search"), "--results", str(tmp_path / "results"), "--quiet"]
    loss = ["--distill.loss", "loss_of_search:loss", "--over", "distill.tau=2,3", "--trials", "1"]
    assert run(["tune", str(recipe), *loss, *where]) == 0
    zskd, *command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert (zskd, *command[-2:]) == ("zskd", "--trust", "loss_of_search:loss")
    assert run([*command, "--print-config"]) == 0


def test_a_killed_search_goes_on_to_the_same_journal_whichever_trial_ends_first(
    recipe: Path, told: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "open_engine", lambda name: Backwards())
    with pytest.raises(Stopped):
        search(recipe, tmp_path, KillAt())
    assert {trial.number for trial in read_journal(tmp_path / "tuning.jsonl")} == {1, 2}
    assert not (tmp_path / "best.yaml").exists()
    lines = Lines()
    found = search(recipe, tmp_path, lines)
    assert without_times(found.trials) == without_times(read_journal(told[0] / "tuning.jsonl"))
    for name in ("best.yaml", "study.json"):
        assert (tmp_path / name).read_bytes() == (told[0] / name).read_bytes()
    students = [sorted(out.glob("cells/*/student/model.safetensors")) for out in (tmp_path, told[0])]
    assert len(students[0]) == TRIALS
    for one, other in zip(*students, strict=True):
        assert one.read_bytes() == other.read_bytes()
    progress = [line for line in lines.lines if line.startswith("trial")]
    assert [line.partition(":")[0] for line in progress] == ["trial 0", "trial 4", "trial 3"]
    assert "3 of 5 done, about " in progress[0]
    assert progress[-1].endswith("5 of 5 done")
    # nothing is left to do, and the ledger has its line already
    journal = (tmp_path / "tuning.jsonl").stat().st_mtime_ns
    assert search(recipe, tmp_path).best == found.best
    assert (tmp_path / "tuning.jsonl").stat().st_mtime_ns == journal
    # nor is the best forgotten by a command that asks for fewer trials
    assert search(recipe, tmp_path, trials=1) == found
    assert (tmp_path / "best.yaml").read_bytes() == (told[0] / "best.yaml").read_bytes()
    assert len((tmp_path / "results" / "ledger.jsonl").read_text().splitlines()) == 1


def test_another_search_does_not_take_the_folder(
    recipe: Path, told: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    shutil.copytree(told[0], tmp_path / "search")
    others: dict[str, dict[str, Any]] = {
        "space.distill.tau.high": {"space": read_space(None, [OVER[0], "distill.tau=1..13:4"])},
        "sampler": {"sampler": "random"},
        "together": {"together": 4},
        "value": {"value": "accuracy"},
    }
    for what, options in others.items():
        with pytest.raises(ZskdError, match=rf"is a search with another {what} .*--out"):
            search(recipe, tmp_path / "search", **options)
    journal = tmp_path / "search" / "tuning.jsonl"
    journal.write_text(journal.read_text().replace('"distill.tau": ', '"distill.tau": 1', 1))
    with pytest.raises(
        ZskdError, match=r"for trial 0 Optuna now proposes another distill.tau .*install version"
    ):
        search(recipe, tmp_path / "search")


def test_repeated_students_are_made_once_and_failures_are_lines(recipe: Path, tmp_path: Path) -> None:
    space: Space = read_space(None, ["distill.optimiser=sgd", "distill.learning_rate=0.01,1e30"])
    found = search(recipe, tmp_path, Lines(), space=space, sampler="random", trials=4)
    rates = [trial.settings["distill.learning_rate"] for trial in found.trials]
    assert set(rates) == {0.01, 1e30}
    assert len(list(tmp_path.glob("cells/*"))) == 2
    for number, trial in enumerate(found.trials):
        first = rates.index(rates[number])
        assert trial.repeats == (None if first == number else first)
        assert (trial.measured, trial.error) == (found.trials[first].measured, found.trials[first].error)
        assert (trial.error is None) == (trial.value is not None) == (rates[number] == 0.01)
    only = read_space(None, ["distill.optimiser=sgd", "distill.learning_rate=1e30,1e31"])
    with pytest.raises(
        ZskdError, match=r"no trial of the first 2 has succeeded \(distill: the loss is not finite"
    ):
        search(recipe, tmp_path / "none", Lines(), space=only, sampler="grid", trials=9)
