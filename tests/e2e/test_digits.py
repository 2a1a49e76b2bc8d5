"""From real digits to a student: the claim of the method, over three seeds."""

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zskd.config.loading import load_recipe
from zskd.run.metrics import RunMetrics
from zskd.run.pipeline import run_recipe

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, RunMetrics]]:
    """The shipped recipe with white noise, once with smooth noise too: three seeds of set and student.

    Pictures of 24 pixels and batches of 128: a quarter of the work, and the digits were recorded with 8.
    """
    found = []
    root = tmp_path_factory.mktemp("runs")
    overrides: dict[str, Any] = {
        "threads": 1,
        "distill": {"batch_size": 128},
        "teacher": {"shape": [1, 24, 24]},
    }
    for seed in SEEDS:
        folder = root / f"digits-{seed}"
        overrides["controls"] = ["noise_smooth", "noise_white"] if seed == 0 else ["noise_white"]
        found.append((folder, run_recipe(load_recipe("digits", overrides | {"seed": seed}), folder)))
        overrides["teacher"] = {"path": str(root / "digits-0" / "teacher")}
    return found


def accuracies(runs: list[tuple[Path, RunMetrics]], arm: str) -> list[float]:
    return [row.test_accuracy.percent for _, metrics in runs for row in metrics.arms if row.arm == arm]


@pytest.mark.slow
def test_the_student_comes_near_its_teacher_and_white_noise_does_not_do(
    runs: list[tuple[Path, RunMetrics]],
) -> None:
    """Smooth noise does on digits, once the student begins with its teacher's weights: all that is held is
    that impressions do not lose more against it than five of the 500 pictures that are tested on."""
    teacher = statistics.mean(metrics.teacher.test_accuracy.percent for _, metrics in runs)
    student = accuracies(runs, "zskd")
    assert teacher > 95
    assert statistics.mean(student) >= teacher - 1
    white = accuracies(runs, "noise_white")
    pooled = ((statistics.variance(student) + statistics.variance(white)) / 2) ** 0.5
    assert statistics.mean(student) - statistics.mean(white) >= 2 * pooled
    assert student[0] >= accuracies(runs, "noise_smooth")[0] - 1


def test_a_run_leaves_everything_that_it_names(runs: list[tuple[Path, RunMetrics]]) -> None:
    from PIL import Image

    from zskd.run.verify import verify_folder

    folder, metrics = runs[0]
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


def test_a_finished_run_is_not_made_again(runs: list[tuple[Path, RunMetrics]]) -> None:
    folder, metrics = runs[0]
    before = {p: p.stat().st_mtime_ns for p in folder.glob("**/*.safetensors")}
    recipe = load_recipe(folder / "recipe.yaml")
    again = run_recipe(replace(recipe), folder)
    assert {p: p.stat().st_mtime_ns for p in folder.glob("**/*.safetensors")} == before
    assert again.arms == metrics.arms
