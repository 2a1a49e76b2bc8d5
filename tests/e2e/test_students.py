"""Several students in one run: each as if trained alone, resumed after an interruption, and on the page."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import Lines, Stopped
from zskd.config.loading import load_recipe
from zskd.config.recipe import Recipe
from zskd.core.errors import ZskdError
from zskd.core.files import sha256_file
from zskd.core.reading import read_json
from zskd.distillation.build import build_student
from zskd.distillation.spec import StudentSpec
from zskd.models.checkpoint import load_checkpoint, read_card
from zskd.models.classifier import Classifier
from zskd.run.metrics import RunMetrics, read_metrics
from zskd.run.pipeline import run_recipe
from zskd.run.summary import summary_lines
from zskd.run.verify import verify_folder
from zskd.transfer_set.dataset import TransferSet

STUDENTS = ["lenet5_half", "budget:3k", "mlp(widths=(8, 4))"]
FOLDERS = ["zskd", "noise_shapes", "zskd@budget-3k", "zskd@mlp-widths-8-4"]
SMALL: dict[str, Any] = {
    "controls": ["noise_shapes"],
    "count": 40,
    "held_out": 20,
    "workers": 1,
    "threads": 1,
    "synthesis": {"steps": 2},
    "distill": {"steps": 3, "batch_size": 16, "start": "random"},
    "teacher": {"shape": [1, 16, 16], "steps": 40},
    "students": STUDENTS,
}


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("digits", SMALL)


@pytest.fixture(scope="module")
def several(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunMetrics, Lines]:
    folder, lines = tmp_path_factory.mktemp("several") / "run", Lines()
    return folder, run_recipe(recipe, folder, progress=lines), lines


def bytes_of(folder: Path) -> dict[str, str]:
    return {one.parent.name: sha256_file(one) for one in folder.glob("students/*/*.safetensors")}


@pytest.mark.parametrize(("student", "name"), list(zip(STUDENTS, ("zskd", *FOLDERS[2:]), strict=True)))
def test_each_student_is_as_if_it_was_the_only_one(
    student: str, name: str, several: tuple[Path, RunMetrics, Lines], recipe: Recipe, tmp_path: Path
) -> None:
    folder, _, _ = several
    assert sorted(bytes_of(folder)) == sorted(FOLDERS)
    teacher = load_checkpoint(folder / "teacher")[0].freeze()
    alone = StudentSpec(student=student, distill=recipe.distill)
    build_student(teacher, alone, TransferSet(folder / "sets" / "zskd"), tmp_path / "alone")
    assert sha256_file(tmp_path / "alone" / "model.safetensors") == bytes_of(folder)[name]


def test_the_card_and_the_log_name_the_network_of_a_budget(several: tuple[Path, RunMetrics, Lines]) -> None:
    folder, metrics, lines = several
    card = read_card(folder / "students" / "zskd@budget-3k")
    assert card.architecture.title.startswith("lenet5(width=0.")
    assert card.parameters is not None
    assert 2000 < card.parameters <= 3000
    assert f"student budget:3k: {card.architecture.title}, {card.parameters:,} parameters" in lines.lines
    assert metrics.sizes[1].network == card.architecture.title
    load_checkpoint(folder / "students" / "zskd@budget-3k")


def test_the_results_of_all_are_kept_and_shown(several: tuple[Path, RunMetrics, Lines]) -> None:
    folder, metrics, _ = several
    assert [one.student for one in metrics.sizes] == STUDENTS
    assert metrics.gain is not None
    assert metrics.gain.student == metrics.sizes[0].cost
    assert metrics.sizes[0].agreement == metrics.arms[0].agreement
    assert {one.arm for one in metrics.sizes} == {"zskd"}
    assert read_metrics(folder / "metrics.json") == metrics
    page = (folder / "README.md").read_text()
    table = summary_lines(metrics)
    for one in metrics.sizes:
        assert f"| {one.student}" in page
        result, cost = (line for line in table if line.startswith(one.student))
        agreement, accuracy = one.agreement["impressions"], one.test_accuracy
        assert f"{agreement.percent:.2f} [" in result
        assert accuracy is not None
        assert f"{accuracy.percent:.2f} [" in result
        assert f"{one.cost.parameters:,} " in cost
    assert "![agreement against time](figures/sizes.png)" in page
    main = metrics.arms[0].passes
    assert main is not None
    assert main["distillation"].student_backward == 3 * 16
    assert metrics.passes is not None
    assert metrics.passes["distillation"].teacher_forward == 4 * 3 * 16
    assert f"| distillation | {4 * 3 * 16} | 0 | {4 * 3 * 16} | {4 * 3 * 16} |" in page
    assert sum(line.startswith("Passes of ") for line in table) == 2
    assert (folder / "figures" / "sizes.png").stat().st_size > 5000
    # teacher, 2 sets, 4 students, 4 sets that are held out
    assert len(verify_folder(folder)) == 1 + 2 + 4 + 4


def test_a_student_that_is_missing_is_trained_again_and_no_other(
    several: tuple[Path, RunMetrics, Lines], recipe: Recipe, tmp_path: Path
) -> None:
    folder = shutil.copytree(several[0], tmp_path / "run")
    for lost in ("metrics.json", "README.md", "students/zskd@budget-3k/card.json"):
        (folder / lost).unlink()
    kept = {one: one.stat().st_mtime_ns for one in folder.glob("students/zskd/*")}
    again = run_recipe(recipe, folder)
    assert again.arms == several[1].arms
    assert [one.agreement for one in again.sizes] == [one.agreement for one in several[1].sizes]
    assert bytes_of(folder) == bytes_of(several[0])
    assert {one: one.stat().st_mtime_ns for one in kept} == kept
    with pytest.raises(ZskdError, match="was made with another students"):
        run_recipe(replace(recipe, students=tuple(STUDENTS[:2])), folder)


def test_metrics_of_older_versions_are_shown_without_what_they_did_not_measure(
    several: tuple[Path, RunMetrics, Lines], tmp_path: Path
) -> None:
    values = read_json(several[0] / "metrics.json", "the test's", "look")
    del values["gain"], values["sizes"]
    (tmp_path / "old.json").write_text(json.dumps(values))
    old = read_metrics(tmp_path / "old.json")
    assert (old.gain, old.sizes) == (None, ())
    assert not any("µs" in line for line in summary_lines(old))
    assert old.to_json() == values


def test_the_sizes_of_students_are_those_of_copies_of_the_trained_teacher(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which blocks a copy with fewer of them keeps depends on the weights."""
    seen: list[str] = []

    def stop(_: object, teacher: Classifier, __: object) -> None:
        seen.append(teacher.fingerprint())
        raise Stopped

    monkeypatch.setattr("zskd.run.pipeline.log_sizes", stop)
    with pytest.raises(Stopped):
        run_recipe(recipe, tmp_path)
    assert seen == [load_checkpoint(tmp_path / "teacher")[0].fingerprint()]
