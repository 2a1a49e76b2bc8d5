"""How often trainings and syntheses wait for a device, on one that counts it (`fake_device`).

It computes on the CPU, so that all bytes must be those of the CPU; where tensors of both are mixed, it fails.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from limits import LIMIT
from warm import python

TESTS = Path(__file__).parents[1]
PROGRAM = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from on_fake_device import main

main(Path(sys.argv[2]))
"""
MOST = 15
"""Waits in 100 steps of a training."""
COUNTED = 20
"""Steps that waits are counted in."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("waits")
    done = subprocess.run(
        [*python(), "-c", PROGRAM, str(TESTS), str(folder)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_step_of_a_training_does_not_wait(found: Any) -> None:
    """Losses are read ten together. An image bank reads its images from the device, once in each phase."""
    for name in ("plain", "changes", "bfloat16", "statistics", "generator"):
        one = found["trainings"][name]
        assert set(one["waits"]) == {"copy from the device"}, name
        assert sum(one["waits"].values()) * 100 / COUNTED <= MOST, name


def test_what_each_step_waits_for_is_known(found: Any) -> None:
    """JPEG files are written by the CPU; the images of replay are chosen and kept there."""
    assert sum(found["trainings"]["jpeg"]["waits"].values()) <= 1.1 * COUNTED
    assert sum(found["trainings"]["replay"]["waits"].values()) <= 5 * COUNTED


def test_weights_and_curves_are_those_of_the_cpu(found: Any) -> None:
    for name, one in found["trainings"].items():
        if name == "generator":  # batch-norm rounds by the layout in memory, which the device chooses
            assert one["distance"] < 1e-5
        else:
            assert one["distance"] == 0, name
            assert one["same curve"], name


def test_a_resumed_training_does_not_wait_either(found: Any) -> None:
    """What the optimiser keeps is where it was."""
    assert found["resumed"]["steps"] == 4
    assert sum(found["resumed"]["waits"].values()) == 0
    assert found["resumed"]["distance"] == 0


def test_a_teacher_is_trained_without_waiting(found: Any) -> None:
    assert found["teacher"]["distance"] == 0
    assert sum(found["teacher"]["waits"].values()) * 100 / COUNTED <= MOST


def test_a_step_of_a_synthesis_does_not_wait(found: Any) -> None:
    """The rest belongs to the shard: its images go to the device and back, and are labelled in batches."""
    of_shard = 12
    for name, every in {"zskd": 3, "deepinversion": 8, "boundary": 10}.items():
        one = found["syntheses"][name]
        assert one["waits"] - of_shard <= one["steps"] / every, name


def test_images_are_those_of_the_cpu_whenever_it_is_looked_at_them(found: Any) -> None:
    assert found["syntheses"]["zskd"]["early"] > 0
    assert all(one["distance"] == 0 for one in found["syntheses"].values())
