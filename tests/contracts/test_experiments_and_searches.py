"""Experiments, searches and runs as files define them: what was refused, missed or counted wrongly."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from zskd.cli.main import main as run
from zskd.config.synthesis import SynthesisConfig
from zskd.core.errors import ZskdError
from zskd.experiment.definition import load_experiment
from zskd.experiment.plan import Cell, plan_cells
from zskd.experiment.record import read_record
from zskd.models.classifier import Classifier
from zskd.run.verify import verify_folder
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.spec import SetSpec
from zskd.transfer_set.manifest import read_manifest
from zskd.tuning.proposals import Proposer
from zskd.tuning.space import Range

PLAN: dict[str, Any] = {
    "name": "base",
    "recipe": "digits",
    "settings": {"threads": 1, "teacher": {"steps": 2, "shape": [1, 16, 16]}},
    "arms": {"noise": {"title": "noise", "settings": {"method": "noise"}}},
    "plan": [{"arms": ["noise"], "rates": [2]}],
}


def experiment(folder: Path, name: str = "base", **changes: Any) -> str:
    """Write an experiment, which is the plan with some keys changed, and return its file."""
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(copy.deepcopy(PLAN) | changes, sort_keys=False))
    return str(file)


def cells(file: str, *only: str) -> dict[str, Cell]:
    return {cell.name: cell for cell in plan_cells(load_experiment(file), only)}


@pytest.mark.parametrize("contrasts", [None, 5, [5], [{"first": ["noise"], "second": "noise"}]])
def test_comparisons_that_are_none_are_refused_in_one_line(
    contrasts: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = experiment(tmp_path, contrasts=contrasts)
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump({"name": "mine", "like": base, "plan": PLAN["plan"]}))
    assert run(["reproduce", str(mine), "--dry-run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{mine}: contrasts" in line


@pytest.mark.parametrize(
    ("settings", "instead"),
    [
        ({"workers": 1}, "workers is for a run, and would change nothing: give --workers"),
        ({"engine": "ray"}, "engine is for a run, and would change nothing: give --engine"),
        ({"controls": []}, "controls is for a run, and would change nothing: each control is an arm"),
        ({"held_out": 20}, "held_out is for a run, and would change nothing: students are measured on"),
    ],
)
def test_settings_that_an_experiment_does_not_read_are_refused(
    settings: dict[str, Any], instead: str, tmp_path: Path
) -> None:
    arms = {"noise": {"title": "noise", "settings": {"method": "noise"} | settings}}
    for changes in ({"settings": PLAN["settings"] | settings}, {"arms": arms}):
        with pytest.raises(ZskdError, match=instead):
            load_experiment(experiment(tmp_path, **changes))


SPREAD = {"method": "soft_targeted", "method_settings": {"spread": 0.5}}


def test_an_arm_of_another_method_does_not_get_the_settings_of_the_common_one(tmp_path: Path) -> None:
    arms = {
        "noise": {"title": "noise", "settings": {"method": "noise"}},
        "pairs": {"title": "p", "settings": {"method": "boundary", "method_settings": {"halvings": 2}}},
        "soft": {"title": "soft", "settings": {"method": "soft_targeted"}},
        "common": {"title": "common"},
    }
    settings = PLAN["settings"] | SPREAD
    file = experiment(tmp_path, settings=settings, arms=arms, plan=[{"arms": list(arms), "rates": [2]}])
    found = {cell.arm_name: cell.recipe.method_settings for cell in cells(file, "[!t]*").values()}
    assert found == {
        "noise": {},
        "pairs": {"halvings": 2},
        "soft": {"spread": 0.5},
        "common": {"spread": 0.5},
    }
    for cell in cells(file).values():
        cell.key(26, {})  # makes the method with its settings


def test_a_cell_with_brackets_is_chosen_by_its_name(tmp_path: Path) -> None:
    arms = {"a[1]": PLAN["arms"]["noise"], "a1": PLAN["arms"]["noise"]}
    file = experiment(tmp_path, arms=arms, plan=[{"arms": list(arms), "rates": [2]}])
    assert list(cells(file, "a[1]-2-0")) == ["a[1]-2-0", "a1-2-0"]  # it is a pattern, too
    with pytest.raises(ZskdError, match="no cell"):
        cells(file, "a[2]-2-0")


def test_cells_count_the_passes_of_pairs_as_they_were_made(tmp_path: Path) -> None:
    """A pair takes its steps once; half of a set takes half of its passes."""
    synthesis = {"steps": 3, "batch_size": 2, "noise_share": 0.0, "learning_rate_search": 0, "candidates": 1}
    pairs = {"title": "pairs", "settings": {"method": "boundary", "synthesis": synthesis}}
    file = experiment(
        tmp_path,
        settings=PLAN["settings"] | {"distill": {"steps": 1, "start": "random", "optimiser": "adam"}},
        arms={"pairs": pairs},
        plan=[{"arms": ["pairs"], "rates": [0.3, 0.6]}],
    )
    out, results = tmp_path / "work", tmp_path / "results"
    words = ["--only", "pairs-*", "--out", out, "--results", results, "--workers", "1", "--quiet"]
    assert run(list(map(str, ["reproduce", file, *words]))) == 0
    records = [read_record(results / "base" / f"pairs-{rate}-0.json") for rate in (0.3, 0.6)]
    assert [record.count for record in records] == [4, 8]
    (folder,) = (one.parent for one in out.glob("sets/*/manifest.json"))
    of_set = read_manifest(folder).passes
    assert of_set is not None
    for record, share in zip(records, (0.5, 1.0), strict=True):
        assert record.passes is not None
        for forward, total in ((True, record.teacher_forwards), (False, record.teacher_backwards)):
            of_student, of_images = (
                sum(one.teacher_forward if forward else one.teacher_backward for one in passes.values())
                for passes in (record.passes, of_set)
            )
            assert total == of_student + share * of_images > 0


def noise_set(folder: Path, teacher: Classifier) -> None:
    synthesis = SynthesisConfig(steps=1, batch_size=2, noise_share=1.0)
    build_transfer_set(teacher, SetSpec(method="noise", count=2, synthesis=synthesis), folder)


def test_linked_folders_of_a_run_are_verified(teacher: Classifier, tmp_path: Path) -> None:
    big, folder = tmp_path / "big", tmp_path / "runs" / "a"
    noise_set(big / "noise", teacher)
    folder.mkdir(parents=True)
    (folder / "sets").symlink_to(big)
    (folder / "again").symlink_to(folder / "sets")
    (folder / "up").symlink_to("..")
    (big / "loop").symlink_to(big)
    assert len(verify_folder(folder)) == 1
    (shard,) = (big / "noise").glob("shard-*")
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    with pytest.raises(ZskdError, match="is not the file that was written"):
        verify_folder(folder)


def test_samplers_propose_as_their_documentation_says() -> None:
    """`tpe` is at random for twelve trials in rounds of four; after its first trial, `qmc` is even."""
    space = {"distill.tau": Range(1.0, 17.0)}

    def proposed(sign: int) -> list[Any]:
        proposer, values = Proposer(space, "tpe", 0), list[Any]()
        for _ in range(4):
            values += (found := [one["distill.tau"] for one in proposer.ask(4)])
            proposer.tell([sign * value for value in found])
        return values

    best, worst = proposed(1), proposed(-1)
    assert best[:12] == worst[:12]
    assert best[12:] != worst[12:]
    points: list[Any] = [one["distill.tau"] for one in Proposer(space, "qmc", 0).ask(17)]
    assert sorted(int(point) for point in points[1:]) == list(range(1, 17))
    assert len({int(point) for point in points[:16]}) < 16
