"""The default is what was frozen, and its records were made by it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from zskd.config.identity import identity
from zskd.core.files import sha256_json
from zskd.experiment.definition import load_experiment
from zskd.experiment.plan import plan_cells

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (ROOT / "results" / "frozen.jsonl").read_text().splitlines()]


def test_the_default_is_the_recipe_that_was_frozen_last(
    lines: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "studies"))
    sys.modules.pop("freeze", None)
    from freeze import frozen_settings

    for recipe in ("mnist", "fashion-mnist"):
        assert sha256_json(frozen_settings(recipe)) == lines[-1]["sha256"]
    assert all(sha256_json(line["settings"]) == line["sha256"] for line in lines)


def test_the_presets_for_batch_norm_are_those_that_were_frozen_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "studies"))
    sys.modules.pop("freeze", None)
    from freeze import frozen_preset

    def read(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (ROOT / "results" / name).read_text().splitlines()]

    lines, of_chains = read("frozen-batch-norm.jsonl"), read("frozen-batch-norm-chain.jsonl")
    for name, frozen in (("batch_norm", lines), ("batch_norm_chain", of_chains)):
        assert sha256_json(frozen_preset(name)) == frozen[-1]["sha256"]
        assert all(sha256_json(line["settings"]) == line["sha256"] for line in frozen)
    # the bench makes its students so, but for their number of steps and images
    for experiment, frozen in (("bench-cifar-public", lines[0]), ("bench-cifar-hour", lines[1])):
        cells = plan_cells(load_experiment(experiment))
        values = identity(next(one for one in cells if one.arm_name == "default").recipe)
        expected = frozen["settings"]
        assert (values["method"], values["targets"]) == (expected["method"], expected["targets"])
        assert values["synthesis"] == expected["synthesis"] | {"precision": "bfloat16"}
        steps = {"precision": "bfloat16", "steps": values["distill"]["steps"]}
        assert values["distill"] == expected["distill"] | steps


@pytest.mark.parametrize("name", ["better-mnist", "better-fashion-mnist"])
def test_the_experiment_runs_exactly_that(name: str, lines: list[dict[str, Any]]) -> None:
    frozen = lines[-1]["settings"]
    cells = {one.name: one for one in plan_cells(load_experiment(name))}
    values = identity(cells["default-40-0"].recipe)
    assert {part: values[part] for part in frozen} == frozen
