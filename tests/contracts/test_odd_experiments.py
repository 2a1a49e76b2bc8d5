"""Experiments and results as they are met: what once was compared, counted or averaged wrongly."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from zskd.cli.main import main as run
from zskd.config.loading import choices, load_recipe
from zskd.config.recipe import Recipe
from zskd.config.rule import TeacherFacts, choose
from zskd.config.synthesis import SynthesisConfig
from zskd.core.errors import ZskdError
from zskd.core.files import folder_lock
from zskd.data.datasets import Dataset
from zskd.evaluation.check import check_answers
from zskd.evaluation.membership import separation
from zskd.evaluation.metrics import agreement
from zskd.evaluation.statistics import prediction_interval
from zskd.experiment import cost
from zskd.experiment.cell import _of_nested
from zskd.experiment.definition import Arm, load_experiment
from zskd.experiment.layout import CellPaths, State, lay_out, states
from zskd.experiment.plan import Cell, plan_cells
from zskd.experiment.record import LEDGER, read_record
from zskd.models.classifier import Classifier
from zskd.run.recorded import recorded_estimate, recorded_run
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.spec import SetSpec

PLAN: dict[str, Any] = {
    "name": "tiny",
    "recipe": "digits",
    "settings": {
        "threads": 1,
        "teacher": {"epochs": 1, "shape": [1, 16, 16]},
        "distill": {"steps": 2, "start": "random"},
    },
    "arms": {"noise": {"title": "noise", "settings": {"method": "noise"}}},
    "plan": [{"arms": ["noise"], "rates": [2], "seeds": 2}],
}


def plan(folder: Path, **changes: Any) -> Path:
    """Write the plan with some keys changed, and return its file."""
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(copy.deepcopy(PLAN) | changes, sort_keys=False))
    return file


def zskd(*words: object) -> int:
    """Run a command and return its exit code."""
    try:
        return run(list(map(str, words)))
    except SystemExit as ended:
        return int(ended.code or 0)


METHOD = """
from dataclasses import dataclass
import zskd

@dataclass(frozen=True, kw_only=True)
class Mine(zskd.Method):
    def targets(self, teacher, entries, config, *, seed):
        return zskd.one_hot([entry.anchor for entry in entries], teacher.classes)

    def objective(self, config):
        return zskd.CrossEntropy()
"""


def key_of(file: Path, name: str) -> str:
    code = f"{file.parent / 'mine.py'}:Mine"
    (cell,) = plan_cells(load_experiment(str(file), trust=[code]), (name,))
    return cell.key(26, {})


def test_other_code_of_the_same_name_makes_another_cell(tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text(METHOD)
    arms = PLAN["arms"] | {"mine": {"title": "mine", "settings": {"method": f"{code}:Mine"}}}
    blocks = [{"arms": ["noise", "mine"], "rates": [2]}]
    file = plan(tmp_path, arms=arms, plan=blocks)
    first, of_noise = key_of(file, "mine-2-0"), key_of(file, "noise-2-0")
    assert key_of(file, "mine-2-0") == first
    code.write_text(METHOD + "\n# changed\n")
    assert key_of(file, "mine-2-0") != first
    assert key_of(file, "noise-2-0") == of_noise


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished experiment."""
    folder = tmp_path_factory.mktemp("tiny")
    words = ("--results", folder / "results", "--out", folder / "work", "--workers", "1", "--quiet")
    assert zskd("reproduce", plan(folder), *words) == 0
    return folder


def test_cells_are_run_again_as_their_records_say(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = done / "results"
    before = (results / LEDGER).read_text().count("\n")
    words = ("--results", results, "--out", tmp_path / "work", "--workers", "1", "--quiet", "--again")
    recorded = read_record(results / "tiny" / "noise-2-0.json")
    assert f"--results {results} --again" in recorded.command
    assert zskd("reproduce", done / "tiny.yaml", "--only", "noise-2-0", *words) == 0
    assert "identical, weight for weight" in capsys.readouterr().out
    # also this use of the test set stands in the ledger of the records
    assert (results / LEDGER).read_text().count("\n") == before + 1

    other = plan(tmp_path, settings=PLAN["settings"] | {"distill": {"steps": 3, "start": "random"}})
    assert zskd("reproduce", other, "--only", "noise-2-0", *words) == 2
    assert "other settings or code" in capsys.readouterr().err
    assert (results / LEDGER).read_text().count("\n") == before + 1


def test_interrupted_cells_do_not_run_while_another_command_runs_other_cells(
    done: Path, tmp_path: Path
) -> None:
    experiment, out = load_experiment(str(done / "tiny.yaml")), tmp_path / "work"
    layout, _ = lay_out(experiment, plan_cells(experiment), out, tmp_path / "results")
    interrupted = next(paths for paths in layout if paths.cell.name == "noise-2-1")
    interrupted.folder.mkdir(parents=True)
    interrupted.started.touch()
    words = ("--results", tmp_path / "results", "--out", out, "--workers", "1", "--quiet")
    assert zskd("reproduce", done / "tiny.yaml", "--only", "teacher-0", *words) == 0
    with folder_lock(out):
        assert states([interrupted], out) == [State.LEFT]


def test_records_count_all_passes_of_the_teacher(done: Path) -> None:
    record = read_record(done / "results" / "tiny" / "noise-2-0.json")
    assert record.passes is not None
    of_student = sum(one.teacher_forward for one in record.passes.values())
    assert record.teacher_forwards == record.count + of_student > record.count == 26
    teacher = read_record(done / "results" / "tiny" / "teacher-0.json")
    assert (teacher.student, teacher.teacher_forwards) == ("lenet5", 0)


def test_the_search_for_a_learning_rate_costs_passes_too(teacher: Classifier, tmp_path: Path) -> None:
    """Also of a set whose beginnings are sets, of which each image tells its own steps."""
    config = SynthesisConfig(steps=2, batch_size=4, learning_rate_search=1, noise_share=0.0)
    spec = SetSpec(method="class_impressions", count=4, synthesis=config)
    assert spec.nests
    images = build_transfer_set(teacher, spec, tmp_path)
    asked = images.manifest.asked
    assert asked is not None
    assert sum(one.teacher_forward for one in asked.values()) > 0
    found = _of_nested(images)
    for stage, own in (("synthesis", int(images.column("steps").sum())), ("labelling", 4)):
        before = asked[stage].teacher_forward if stage in asked else 0
        assert found[stage].teacher_forward == before + own


def cells(file: Path) -> list[Cell]:
    return plan_cells(load_experiment(str(file)))


def test_a_given_teacher_is_measured_once(teacher_folder: Path, tmp_path: Path) -> None:
    settings = PLAN["settings"] | {"teacher": {"path": str(teacher_folder)}}
    assert [one.name for one in cells(plan(tmp_path, settings=settings))] == [
        "teacher-0",
        "noise-2-0",
        "noise-2-1",
    ]
    words = ("--results", tmp_path / "results", "--out", tmp_path / "work", "--workers", "1", "--quiet")
    file = plan(tmp_path, settings=settings | {"teacher": {"path": str(teacher_folder)}})
    assert zskd("reproduce", file, "--only", "teacher-0", *words) == 0
    record = read_record(tmp_path / "results" / "tiny" / "teacher-0.json")
    assert (record.student, record.student_steps) == ("lenet5", 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"contrasts": [{"first": "noise", "second": "noise"}]},
        {"contrasts": [{"first": "noise", "second": "noise", "rate": 5}]},
        {"contrasts": [{"first": "noise", "second": "noise", "rate": 2, "second_rate": 3}]},
    ],
)
def test_comparisons_without_cells_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ZskdError, match="which is not in the plan"):
        load_experiment(str(plan(tmp_path, **changes)))


def test_an_experiment_like_another_inherits_what_its_plan_has(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nlike: better-digits\nplan: [{arms: [default], rates: [40], seeds: 1}]\n")
    assert load_experiment(str(file)).contrasts == ()


ARM = {"title": "other", "settings": {"method": "noise"}}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"contrasts": [{"first": "noise", "second": "teacher", "rate": 2, "second_rate": 2}]},
            "teacher at 2 %",
        ),
        (
            {"reported": [{"arm": "noise", "at": {"2 %": 98}, "source": "A 2019"}]},
            "noise at 2 %: give a rate",
        ),
        (
            {"reported": [{"arm": "noise", "at": {"all": 98}, "source": "A 2019"}]},
            "noise at all: give a rate",
        ),
        ({"reported": [{"arm": "teacher", "at": {"2": 98}, "source": "A 2019"}]}, "teacher at 2.0: give all"),
    ],
)
def test_keys_that_no_cell_reads_are_refused(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(ZskdError, match=told):
        load_experiment(str(plan(tmp_path, **changes)))


def test_published_accuracies_are_those_of_the_rate_however_it_is_written(tmp_path: Path) -> None:
    file = plan(tmp_path, reported=[{"arm": "noise", "at": {"2.0": 98}, "source": "A 2019"}])
    assert [one.reported and one.reported.value for one in cells(file)] == [None, 98] * 2


def test_an_arm_of_ones_own_that_the_plan_of_the_other_experiment_lacks_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    values = {"name": "other", "like": str(plan(tmp_path)), "arms": {"mine": ARM}}
    other.write_text(yaml.safe_dump(values))
    with pytest.raises(
        ZskdError, match="arm mine is in no block of the plan: name it there, or leave it out"
    ):
        load_experiment(str(other))
    other.write_text(yaml.safe_dump(values | {"plan": [{"arms": ["mine"], "rates": [2]}]}))
    assert set(load_experiment(str(other)).arms) == {"mine"}


def test_an_arm_of_an_experiment_like_another_is_merged_as_a_recipe_is(tmp_path: Path) -> None:
    inherited = {"method": "soft_targeted", "method_settings": {"spread": 2}, "distill": {"steps": 9}}
    file = plan(tmp_path, arms={"noise": {"title": "noise", "settings": inherited}})
    other, own = tmp_path / "other.yaml", {"method": "zskd", "distill": {"epochs": 3}}
    arms = {"noise": {"settings": own}}
    other.write_text(yaml.safe_dump({"name": "other", "like": str(file), "arms": arms}))
    recipe = cells(other)[-1].recipe
    assert (recipe.method, recipe.method_settings) == ("zskd", {})
    assert (recipe.distill.epochs, recipe.distill.steps) == (3, None)


def test_wrong_numbers_of_workers_are_told(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ((), ("--dry-run",)):
        assert zskd("reproduce", done / "tiny.yaml", "--workers", "-1", *words) == 2
        assert "--workers is -1" in capsys.readouterr().err


def test_equal_values_predict_no_interval() -> None:
    assert prediction_interval([96.6, 96.6, 96.6]) is None


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_are_told(wrong: float, teacher: Classifier, digits: Dataset) -> None:
    right, broken = torch.zeros(4, 2), torch.zeros(4, 2)
    broken[1, 0] = wrong
    with pytest.raises(ZskdError, match="an output of the student is not finite"):
        check_answers(right, broken, ("a", "b"), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(ZskdError, match="an output of the teacher is not finite"):
        check_answers(broken, right, ("a", "b"))
    with pytest.raises(ZskdError, match="no images|no value"):
        agreement(teacher, teacher, [])


def test_members_with_smaller_scores_are_no_leak() -> None:
    """Many scores are equal: the interval of the area is wider than the test says."""
    scores = np.array([0.0] * 20 + [0.0] * 14 + [1.0] * 6)
    found = separation("teacher", "loss", scores, np.arange(40) < 20)
    assert found.p < 0.05
    assert found.area.area < 0.5 < found.area.high
    assert not found.tells


def test_a_preset_that_the_rule_chooses_has_its_size() -> None:
    rows = choose(TeacherFacts(batch_norms=3, chain=False))
    assert choices(None, {}, rows)["count"] == choices(None, {"preset": "batch_norm"}, rows)["count"] == 6000
    assert "count" not in choices(None, {"preset": "deepinversion"}, rows)


def test_settings_of_a_method_are_those_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Recipe(method_settings={"competition-tau": 3}).method_settings == {"competition_tau": 3}
    file = tmp_path / "mine.yaml"
    file.write_text("preset: batch_norm\nmethod: zskd_bn\nmethod_settings: {statistics: 0.3}\ncount: 20\n")
    assert zskd("run", file, "--method", "zskd", "--print-config") == 0
    assert "method_settings: {}" in capsys.readouterr().out
    assert zskd("run", "digits", "--method-settings.spread", "0.5", "--out", tmp_path / "run") == 2
    assert "there is nothing to choose" in capsys.readouterr().err


def test_a_rate_is_of_a_data_set_that_was_named(
    teacher_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("synthesize", teacher_folder, "--rate", "2", "--out", tmp_path / "set")
    assert zskd(*words) == 2
    assert "--data.name" in capsys.readouterr().err
    assert zskd(*words, "--data.name", "digits", "--method", "noise", "--quiet") == 0
    assert "26 images" in capsys.readouterr().out


def test_results_are_of_the_network_that_is_there(tmp_path: Path) -> None:
    root = Path(__file__).parents[2] / "results" / "students.json"
    (tmp_path / "metrics.json").write_bytes(root.read_bytes())
    student = tmp_path / "students" / json.loads(root.read_text())["arms"][0]["arm"]
    assert recorded_run(student) is None  # another program's file
    (tmp_path / "sources.json").write_text("{}")
    assert recorded_estimate(student) is not None
    metrics = recorded_run(student)
    assert metrics is not None
    arm = replace_sha(metrics.to_json(), "0" * 64)
    (tmp_path / "metrics.json").write_text(json.dumps(arm))
    assert recorded_estimate(student, sha256="0" * 64) is not None
    assert recorded_estimate(student, sha256="1" * 64) is None


def replace_sha(metrics: dict[str, Any], sha256: str) -> dict[str, Any]:
    first, *others = metrics["arms"]
    return metrics | {"arms": [first | {"sha256": sha256}, *others]}


def test_reports_refuse_options_without_effect(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("report", done / "tiny.yaml", "--results", done / "results")
    assert zskd(*words) == 0
    assert zskd(*words, "--data-dir", done) == 2
    assert "--data-dir is for the page of a run" in capsys.readouterr().err
    assert zskd("report", done, "--twin", "inverted") == 2
    assert "--twin is for an experiment" in capsys.readouterr().err
    assert zskd("report", done, "--format", "md", "--trust", "my.py:start") == 2
    assert "--trust is for the page of a run" in capsys.readouterr().err


def test_a_report_writes_over_nothing_of_the_users(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("report", done / "tiny.yaml", "--results", done / "results")
    for name, more in (("error.png", ("--out", ".")), ("tiny.html", ("--format", "html"))):
        (tmp_path / name).write_text("mine")
        assert zskd(*words, *more) == 2
        assert f"{name} is" in (told := capsys.readouterr().err)
        assert "would be written over" in told
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()
        assert zskd(*words, *more) == zskd(*words, *more) == 0


def test_an_estimate_charges_the_steps_before_the_first_once(
    teacher: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {0: 2.0, cost._STEPS: 5.0}
    monkeypatch.setattr(
        cost, "_seconds_per_step", lambda recipe, _: seconds[recipe.distill.generator.warm_up]
    )
    generator = {"share": 1, "method": "dfad", "warm_up": 100}
    recipe = load_recipe("digits", {"distill": {"generator": generator, "steps": 50, "start": "random"}})
    cell = Cell("mine-0", "mine", Arm(title="mine", images="generated"), None, recipe, None)
    paths = CellPaths(cell, "", 0, None, Path(), Path(), None, Path())
    (found,) = cost.estimate([paths], teacher, {})
    assert found.student == 50 * 2.0 + 100 * 3.0


def test_the_ending_of_a_picture_is_checked_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert zskd("show", "filmstrip", tmp_path, tmp_path, "--out", tmp_path / "strip.jpg") == 2
    assert "give such an ending" in capsys.readouterr().err
