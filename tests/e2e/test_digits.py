"""From real digits to a student: the claim of the method, over three seeds."""

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zskd.config.data import DataConfig
from zskd.config.loading import load_recipe
from zskd.data.datasets import load_data
from zskd.distillation.build import build_student
from zskd.evaluation.metrics import accuracy
from zskd.models.checkpoint import load_checkpoint
from zskd.run.arms import plan_arms, student_spec
from zskd.run.metrics import RunMetrics
from zskd.run.pipeline import run_recipe
from zskd.synthesis.build import build_transfer_set

SEEDS = (1, 2)
"""Of the sets and students beside the run, whose seed is 0."""
SETTINGS: dict[str, Any] = {
    "controls": ["noise_smooth", "noise_white"],
    "threads": 1,
    "workers": 1,
    "held_out": 100,
    "distill": {"batch_size": 128},
    "teacher": {"shape": [1, 24, 24]},
}
"""Pictures of 24 pixels and batches of 128: a quarter of the work, and the digits were recorded with 8."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunMetrics]:
    """The shipped recipe with two noise controls."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    return folder, run_recipe(load_recipe("digits", SETTINGS), folder)


@pytest.fixture(scope="module")
def accuracies(run: tuple[Path, RunMetrics]) -> dict[str, list[float]]:
    """Of the students of three seeds, by arm. The sets of all seeds have one teacher."""
    folder, metrics = run
    found = {row.arm: [row.test_accuracy.percent] for row in metrics.arms if row.test_accuracy is not None}
    teacher = load_checkpoint(folder / "teacher")[0].freeze()
    data = load_data(DataConfig(name="digits"), teacher.spec.shape)
    for seed in SEEDS:
        recipe = load_recipe("digits", SETTINGS | {"seed": seed})
        for arm in plan_arms(recipe, data):
            assert arm.spec is not None
            place = folder.parent / f"{arm.name}-{seed}"
            made = build_transfer_set(teacher, arm.spec, place / "set", workers=1)
            student = build_student(teacher, student_spec(recipe), made, place / "student")
            found[arm.name].append(accuracy(student, data.test).percent)
    return found


@pytest.mark.slow
def test_the_student_comes_near_its_teacher_and_white_noise_does_not_do(
    run: tuple[Path, RunMetrics], accuracies: dict[str, list[float]]
) -> None:
    """Smooth noise does on digits, once the student begins with its teacher's weights: all that is held is
    that impressions do not lose more against it than two of the 500 pictures that are tested on."""
    found = run[1].teacher.test_accuracy
    assert found is not None
    student, white = accuracies["zskd"], accuracies["noise_white"]
    assert len(student) == len(white) == 3
    assert found.percent > 95
    assert statistics.mean(student) >= found.percent - 1
    pooled = ((statistics.variance(student) + statistics.variance(white)) / 2) ** 0.5
    assert statistics.mean(student) - statistics.mean(white) >= 2 * pooled
    assert statistics.mean(student) >= statistics.mean(accuracies["noise_smooth"]) - 0.5


def test_a_run_leaves_everything_that_it_names(run: tuple[Path, RunMetrics]) -> None:
    from PIL import Image

    from zskd.run.verify import verify_folder

    folder, metrics = run
    page = (folder / "README.md").read_text()
    pictures = sorted((folder / "figures").iterdir())
    assert [p.name for p in pictures] == [
        "arms.png",
        "filmstrip.png",
        "samples-noise_smooth.png",
        "samples-noise_white.png",
        "samples-zskd.png",
        "similarity.png",
    ]
    for picture in pictures:
        assert f"figures/{picture.name}" in page
        with Image.open(picture) as opened:
            assert opened.width > 300
    assert f"{metrics.arms[0].test_accuracy.percent:.2f}" in page
    assert len(verify_folder(folder)) == 3 + 3 + 4 + 1
    assert metrics.student_steps == 400
    assert {arm.count for arm in metrics.arms} == {2000}
    assert metrics.versions["zskd"]
    assert not list(folder.glob("**/training.safetensors"))
    assert not [p for p in folder.glob("**/.*") if p.name != ".lock"]


def test_a_finished_run_is_not_made_again(run: tuple[Path, RunMetrics]) -> None:
    folder, metrics = run
    before = {p: p.stat().st_mtime_ns for p in folder.glob("**/*.safetensors")}
    recipe = load_recipe(folder / "recipe.yaml")
    again = run_recipe(replace(recipe), folder)
    assert {p: p.stat().st_mtime_ns for p in folder.glob("**/*.safetensors")} == before
    assert again.arms == metrics.arms
