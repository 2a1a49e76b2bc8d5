"""What fits into a budget: the arithmetic, from measured seconds to a count and to steps."""

import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from zskd.config.identity import identity
from zskd.config.loading import load_recipe
from zskd.config.recipe import Recipe
from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.core.errors import ZskdError
from zskd.core.progress import Progress
from zskd.core.reading import read_json
from zskd.core.timing import Enough, Pace, Stopwatch
from zskd.distillation.students import training_seconds
from zskd.experiment.definition import load_experiment
from zskd.experiment.plan import plan_cells
from zskd.models.classifier import Classifier
from zskd.run.budget import BUDGET, Budget
from zskd.run.shares import images_that_fit, steps_that_fit
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.spec import SetSpec

SPEC = SetSpec(count=24_000)
ROWS = SetSpec(count=2400, targets=TargetsConfig(order="rows"))


def test_students_are_begun_when_a_worker_is_free() -> None:
    paces = [Pace(2.0, 0.1), Pace(1.0, 0.3), Pace(0.5, 0.1)]
    assert training_seconds(paces, 10, workers=1) == pytest.approx(3.5 + 5.0)
    # the third follows the first, which has finished after 3 seconds
    assert training_seconds(paces, 10, workers=2) == pytest.approx(4.5)
    assert training_seconds(paces, 10, workers=3) == pytest.approx(4.0)
    assert training_seconds(paces, 100, workers=2) == pytest.approx(31.0)


def test_one_step_more_would_not_fit() -> None:
    numbers = random.Random(0)
    for _ in range(300):
        students = numbers.randint(1, 5)
        paces = [Pace(numbers.uniform(0, 5), numbers.uniform(0.001, 0.2)) for _ in range(students)]
        workers, seconds, own = numbers.randint(1, 4), numbers.uniform(0, 200), numbers.choice([0.0, 50.5])
        steps = steps_that_fit(paces, seconds, workers=workers, own=own)
        assert training_seconds(paces, steps + 1 + own, workers) > seconds
        if steps >= 0:
            assert training_seconds(paces, steps + own, workers) <= seconds


def test_the_steps_of_one_student() -> None:
    one = [Pace(start=5.0, step=0.01)]
    assert steps_that_fit(one, 105.0, workers=1) in (9_999, 10_000)  # up to rounding
    assert steps_that_fit(one, 105.005, workers=1, own=300) == 9_700
    assert steps_that_fit(one, 4.9, workers=1) == -1
    assert steps_that_fit(one, -3.0, workers=1) == -1


@pytest.mark.parametrize(
    ("spec", "seconds_per_image", "seconds", "workers", "count"),
    [
        (SPEC, 0.001, 24.1, 1, 24_000),
        (SPEC, 0.001, 12.1, 2, 24_000),
        (SPEC, 0.001, 11.9, 2, 22_000),  # both workers make eleven shards
        (SPEC, 0.001, 23.9, 1, 23_000),
        (replace(SPEC, count=23_500), 0.001, 12.1, 2, 23_500),
        (SPEC, 0.001, 1.01, 2, 2000),
        (SPEC, 0.001, 0.95, 2, 900),  # less than a shard, which one worker makes
        (SPEC, 0.001, 0.35, 1, 300),
        (SPEC, 1.0, 0.1, 1, 300),  # so many in any case
        (replace(SPEC, count=240), 1.0, 0.1, 1, 240),
        (ROWS, 0.001, 9.0, 1, 2400),
        (ROWS, 0.001, 1.205, 1, 1200),  # rows of equal length
        (ROWS, 0.001, 0.605, 2, 1200),
        (ROWS, 0.001, 0.001, 2, 300),
    ],
)
def test_the_images_that_fit(
    spec: SetSpec, seconds_per_image: float, seconds: float, workers: int, count: int
) -> None:
    fewest = min(300, spec.count)
    found = images_that_fit(spec, seconds_per_image, seconds, classes=10, workers=workers, fewest=fewest)
    assert found == count


def test_a_stopwatch_tells_the_start_from_the_steps_and_ends_them() -> None:
    watch = Stopwatch(0.05)
    time.sleep(1)  # longer than eleven steps, even if a busy machine makes each of them 40 times as long
    begun = []

    def train() -> None:
        with watch.task("start from the teacher", 30, "billion multiply-adds") as task:
            for _ in range(30):
                time.sleep(0.02)
                task.advance()
        with watch.task("student", 10**9, "steps") as task:
            begun.append("steps")
            for _ in range(10**6):
                time.sleep(0.002)
                task.advance()

    with pytest.raises(Enough):
        train()
    pace = watch.pace()
    assert begun
    assert 0.002 <= pace.step < pace.start
    assert pace.start > 0.6  # the start from the teacher belongs to it


FEW = {"steps": 3, "batch_size": 10, "shard_size": 40}
SPECS: dict[str, SetSpec] = {
    "default": SetSpec(count=500, synthesis=SynthesisConfig(**FEW)),
    "noise": SetSpec(method="noise", count=500, synthesis=SynthesisConfig(**FEW)),
    "rows": SetSpec(count=500, targets=TargetsConfig(order="rows"), synthesis=SynthesisConfig(**FEW)),
    "minmax": SetSpec(
        count=500, synthesis=SynthesisConfig(**FEW, pixels="minmax", tolerance=0.0, noise_share=0.0)
    ),
    "dropping": SetSpec(
        count=500, synthesis=SynthesisConfig(**FEW | {"steps": 12}, missed="drop", tolerance=1)
    ),
    "one shard": SetSpec(count=500, synthesis=SynthesisConfig(**FEW | {"shard_size": 1000})),
    "full batches": SetSpec(
        count=500, synthesis=SynthesisConfig(**FEW | {"shard_size": 1000}, noise_share=0.0, tolerance=0.0)
    ),
}


@pytest.mark.parametrize(("minutes", "workers"), [(1e-6, 1), (1e-6, 2), (60.0, 2)])
@pytest.mark.parametrize("what", SPECS)
def test_a_set_that_was_begun_to_be_timed_is_the_set_of_its_count(
    what: str, minutes: float, workers: int, teacher: Classifier, tmp_path: Path
) -> None:
    recipe, spec, folder = Recipe(budget=minutes, workers=workers), SPECS[what], tmp_path / "set"
    fitted = Budget(recipe, teacher, tmp_path, key="k", progress=Progress()).fit_sets({folder: spec})
    count = fitted.count
    assert count == (500 if minutes == 60 else 300)
    chosen = replace(spec, count=count)
    if minutes < 1 and workers > 1 and what == "full batches":  # of no given size: all workers take part
        assert fitted.synthesis.shard_size == 10
        chosen = replace(chosen, synthesis=replace(spec.synthesis, shard_size=10))
    else:
        assert fitted.synthesis == recipe.synthesis
    plain = build_transfer_set(teacher, chosen, tmp_path / "plain")
    begun = build_transfer_set(teacher, chosen, folder)
    assert begun.manifest == plain.manifest
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in plain.folder.iterdir())
    # a second budget reads the file; one with other settings does not
    again = Budget(recipe, teacher, tmp_path, key="k", progress=Progress())
    assert again.fit_sets({folder: replace(spec, count=10**6)}) == fitted
    found = read_json(tmp_path / BUDGET, "the test's", "look")
    assert (found["minutes"], found["count"], found["key"]) == (minutes, count, "k")
    other = Budget(recipe, teacher, tmp_path, key="other", progress=Progress())
    assert other.fit_sets({tmp_path / "other": replace(spec, count=400)}).count in (300, 400)
    assert read_json(tmp_path / BUDGET, "the test's", "look")["key"] == "other"


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), float("inf")])
def test_a_budget_is_some_time(minutes: float) -> None:
    with pytest.raises(ZskdError, match="--budget is .*: it must be above 0"):
        load_recipe("digits", {"budget": minutes})


def test_runs_without_a_budget_are_known_as_before() -> None:
    assert "budget" not in identity(load_recipe("digits"))
    assert identity(load_recipe("digits", {"budget": 3}))["budget"] == 3


@pytest.mark.parametrize("where", ["settings", "arm"])
def test_an_experiment_compares_at_equal_steps(where: str, tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "name": "tiny",
        "recipe": "digits",
        "settings": {"budget": 3} if where == "settings" else {},
        "arms": {"default": {"title": "ZSKD", "settings": {"budget": 2} if where == "arm" else {}}},
        "plan": [{"arms": ["default"], "rates": [2]}],
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ZskdError, match="a budget is for one run, .*: give distill.steps"):
        plan_cells(load_experiment(str(tmp_path / "plan.yaml")))
