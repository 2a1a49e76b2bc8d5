"""What stays within a budget of passes: counted beforehand, the same on every machine, and never exceeded."""

import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import Lines
from zskd.cli.main import main
from zskd.config.distillation import DistillConfig, GeneratorConfig, ImageBankConfig
from zskd.config.identity import identity
from zskd.config.loading import load_recipe
from zskd.config.recipe import Recipe
from zskd.config.sizes import read_number
from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.config.transforms import WarpConfig
from zskd.core.errors import ZskdError
from zskd.core.passes import teacher_passes
from zskd.models.checkpoint import read_card
from zskd.models.classifier import Classifier
from zskd.run.metrics import RunMetrics
from zskd.run.passes import plan_passes, set_passes, steps_within, training_passes
from zskd.run.pipeline import run_recipe
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.spec import SetSpec
from zskd.transfer_set.dataset import TransferSet

FLIPS = WarpConfig(flip=0.5)
FEW = SynthesisConfig(steps=3, batch_size=8, shard_size=30, noise_share=0.4)


@pytest.mark.parametrize(
    ("spec", "exact"),
    [
        (SetSpec(count=50, synthesis=replace(FEW, tolerance=0.0)), True),
        (SetSpec(count=50, synthesis=replace(FEW, tolerance=2.0)), False),
        (SetSpec(count=50, method="noise", synthesis=FEW), True),
        (SetSpec(count=50, synthesis=replace(FEW, changes="by_teacher", tolerance=0.0, warp=FLIPS)), True),
        (SetSpec(count=60, targets=TargetsConfig(order="rows"), synthesis=replace(FEW, tolerance=0)), True),
        (SetSpec(count=50, method="noise", synthesis=replace(FEW, candidates=4)), True),
        (SetSpec(count=50, synthesis=replace(FEW, tolerance=0.0, candidates=2)), True),
        (SetSpec(count=50, method="boundary", synthesis=replace(FEW, tolerance=0, noise_share=0)), True),
    ],
)
def test_a_set_takes_no_more_passes_than_foreseen(
    spec: SetSpec, exact: bool, teacher: Classifier, tmp_path: Path
) -> None:
    taken = teacher_passes(build_transfer_set(teacher, spec, tmp_path / "set").manifest.passes or {})
    foreseen = set_passes(teacher, spec)
    assert taken == foreseen if exact else taken < foreseen


def test_one_step_more_would_not_fit() -> None:
    numbers = random.Random(0)
    for _ in range(100):
        trainings = [
            DistillConfig(
                start="random",
                batch_size=numbers.randint(1, 64),
                generator=GeneratorConfig(
                    share=numbers.choice([0, 0.3]), student_steps=numbers.randint(1, 5)
                ),
                image_bank=ImageBankConfig(share=numbers.choice([0, 0.4]), images=50, count=4),
            )
            for _ in range(numbers.randint(1, 3))
        ]
        passes = numbers.randint(0, 50_000)
        steps = steps_within(trainings, passes)
        assert sum(training_passes(one, steps + 1) for one in trainings) > passes
        assert sum(training_passes(one, steps) for one in trainings) <= passes
    assert steps_within(trainings, -1) == -1


@pytest.mark.parametrize("passes", [300_000, 1_000_000, 20_000_000])
def test_a_quarter_is_for_the_sets_and_all_is_used(passes: int, teacher: Classifier) -> None:
    recipe, specs = Recipe(passes=passes), [SetSpec(count=8000), SetSpec(count=8000, method="noise")]
    trainings = [DistillConfig()] * 2
    plan = plan_passes(recipe, teacher, specs, trainings)
    assert plan.count is not None
    assert plan.sets == sum(set_passes(teacher, replace(spec, count=plan.count)) for spec in specs)
    assert plan.sets <= passes / 4
    larger = sum(set_passes(teacher, replace(spec, count=plan.count + 1000)) for spec in specs)
    assert larger > passes / 4 or plan.count == 8000
    assert plan.sets + plan.students <= passes < plan.sets + plan.students + 2 * 256
    assert plan.students == 2 * 256 * plan.steps


@pytest.mark.parametrize("specs", [[SetSpec(count=8000)], [SetSpec(count=8000, method="noise")], []])
def test_too_few_passes_are_refused_and_the_message_names_enough(
    specs: list[SetSpec], teacher: Classifier
) -> None:
    with pytest.raises(ZskdError, match=r"--passes 900 allows \d+ steps, .* at least 100: give") as refused:
        plan_passes(Recipe(passes=900), teacher, specs, [DistillConfig()])
    enough = int(str(refused.value).split()[-3])
    assert plan_passes(Recipe(passes=enough), teacher, specs, [DistillConfig()]).steps >= 100
    with pytest.raises(ZskdError):
        plan_passes(Recipe(passes=enough * 7 // 10), teacher, specs, [DistillConfig()])


def test_numbers_may_have_units() -> None:
    written = {"200k": 200_000, "1M": 1_000_000, "1.5M": 1_500_000, "2G": 2 * 10**9, "77": 77, ".5k": 500}
    for text, number in written.items():
        assert read_number(text, "--passes") == number
        assert load_recipe("digits", {"passes": text}).passes == number
    with pytest.raises(ZskdError, match="--passes is '1m': did you mean 1M?"):
        read_number("1m", "--passes")
    with pytest.raises(ZskdError, match="--passes is 'many': write a number, 200k or 1M"):
        read_number("many", "--passes")
    with pytest.raises(ZskdError, match="--passes is 0: it must be at least 1"):
        load_recipe("digits", {"passes": 0})


def test_one_kind_of_budget_is_enough() -> None:
    with pytest.raises(ZskdError, match="give one of them"):
        load_recipe("digits", {"passes": 1000, "budget": 3})
    assert "passes" not in identity(load_recipe("digits"))
    assert identity(load_recipe("digits", {"passes": "2k"}))["passes"] == 2000


SMALL: dict[str, Any] = {
    "controls": [],
    "count": 500,
    "held_out": 20,
    "workers": 1,
    "threads": 1,
    "synthesis": {"steps": 5, "shard_size": 50, "batch_size": 10, "tolerance": 0.3},
    "distill": {"batch_size": 8, "start": "random"},
    "teacher": {"shape": [1, 16, 16], "steps": 20},
}


def test_a_run_tells_what_it_will_do_and_stays_within_its_passes(tmp_path: Path) -> None:
    def run(passes: str, lines: Lines) -> RunMetrics:
        recipe = load_recipe("digits", SMALL | {"passes": passes})
        return run_recipe(recipe, tmp_path / "run", progress=lines)

    with pytest.raises(ZskdError, match="--passes 1000 allows 12 steps"):
        run("1k", Lines())
    lines = Lines()
    metrics = run("3k", lines)
    count, steps = metrics.arms[0].count, metrics.student_steps
    assert count == 300
    assert any(
        line.startswith("passes: 3,000 passes of the teacher allow 300 images in each set (")
        and f"{steps:,} steps of each student" in line
        for line in lines.lines
    )
    assert metrics.arms[0].passes is not None
    assert 2500 < teacher_passes(metrics.arms[0].passes) <= 3000
    assert run("3k", Lines()) == metrics


def test_a_student_is_trained_within_its_passes(
    teacher_folder: Path, small_set: TransferSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["distill", str(teacher_folder), str(small_set.folder), "--threads", "1", "--workers", "1"]
    command += ["--distill.batch-size", "8", "--distill.start", "random", "--no-estimate"]
    assert main([*command, "--passes", "0.9k", "--out", str(tmp_path / "student")]) == 0
    assert "900 passes of the teacher allow 112 steps of each student (896)" in capsys.readouterr().err
    made = read_card(tmp_path / "student").origin.passes
    assert made is not None
    assert teacher_passes(made) == 112 * 8
    assert main([*command, "--passes", "700", "--out", str(tmp_path / "other")]) == 2
    assert "allows 87 steps, and a student needs at least 100" in capsys.readouterr().err
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for number in range(20):
        pixels = rng.integers(0, 256, (4, 4), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")
    command += ["--passes", "1.2k", "--images", str(tmp_path / "pictures"), "--distill.pictures.count", "20"]
    assert main([*command, "--out", str(tmp_path / "third")]) == 0
    told = capsys.readouterr().err
    looks = int(re.findall(r"the pictures \((\d+) at most\)", told)[0])
    assert looks >= 20
    made = read_card(tmp_path / "third").origin.passes
    assert made is not None
    assert 1200 - 8 < teacher_passes(made) + looks <= 1200
