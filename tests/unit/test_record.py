"""Records of experiments: nothing missing, nothing too much, no contradictions; and the ledger."""

import base64
import copy
import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zskd.core.errors import ZskdError
from zskd.experiment.cell import end_last_line, note_evaluation
from zskd.experiment.record import (
    FORMAT,
    LEDGER,
    Record,
    pack_mask,
    read_record,
    read_records,
    record_path,
    write_record,
)

CORRECT = np.random.default_rng(0).random(203) < 0.9
SHA = "0123456789abcdef" * 4
VALUES: dict[str, Any] = {
    "format": FORMAT,
    "experiment": "tiny",
    "cell": "default-2-0",
    "key": SHA,
    "dataset": "digits",
    "arm": "default",
    "title": "ZSKD",
    "preset": "default",
    "method": "zskd",
    "augmented": True,
    "rate": 2.0,
    "count": 26,
    "unique_images": 25,
    "seed": 0,
    "recipe_sha256": SHA,
    "teacher_sha256": SHA,
    "student_sha256": SHA,
    "student": "half",
    "student_parameters": 35820,
    "student_steps": 4,
    "selection": "last",
    "test_accuracy": 100 * int(CORRECT.sum()) / len(CORRECT),
    "test_images": len(CORRECT),
    "test_hits": pack_mask(CORRECT),
    "teacher_accuracy": 99.0,
    "teacher_agreement": 90.0,
    "reported": {"value": 98.77, "source": "somebody 2019"},
    "teacher_forwards": 1098,
    "teacher_backwards": 48,
    "passes": {
        "distillation": {
            "teacher_forward": 90,
            "teacher_backward": 0,
            "student_forward": 90,
            "student_backward": 90,
        }
    },
    "wall_seconds": 3.5,
    "set_seconds": 1.5,
    "workers": 2,
    "threads": 1,
    "versions": {"zskd": "0.1.0", "torch": "2.10.0", "python": "3.11.7"},
    "cpu": "a processor",
    "cores": 2,
    "commit": "0123abc+",
    "command": "zskd reproduce tiny --only default-2-0 --again",
    "date": "2026-11-22",
}


def refused(folder: Path, values: dict[str, Any]) -> str:
    """Write it and return why it is not read."""
    path = folder / "default-2-0.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ZskdError) as error:
        read_record(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    record = Record.model_validate(VALUES)
    path = record_path(tmp_path, record.experiment, record.cell)
    write_record(path, record)
    assert path == tmp_path / "tiny" / "default-2-0.json"
    assert read_record(path) == record
    assert json.loads(path.read_text()) == VALUES
    written = path.read_bytes()
    write_record(path, read_record(path))
    assert path.read_bytes() == written


KEYS = [field.alias or name for name, field in Record.model_fields.items()]


def test_the_example_of_these_tests_has_every_field() -> None:
    assert list(VALUES) == KEYS


def test_records_from_before_passes_were_counted_are_read_and_written_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps({name: value for name, value in VALUES.items() if name != "passes"}))
    record = read_record(path)
    assert record.passes is None
    write_record(path, record)
    assert "passes" not in json.loads(path.read_text())


@pytest.mark.parametrize("field", [key for key in KEYS if key != "passes"])
def test_a_record_that_lacks_anything_is_refused(field: str, tmp_path: Path) -> None:
    values = {name: value for name, value in VALUES.items() if name != field}
    assert f"is no complete record ({field}: Field required)" in refused(tmp_path, values)


@pytest.mark.parametrize("field", ["rate", "reported", "commit"])
def test_what_does_not_exist_is_none(field: str, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(VALUES | {field: None}))
    assert getattr(read_record(path), field) is None


def test_a_record_that_has_something_more_is_refused(tmp_path: Path) -> None:
    assert "best_epoch: Extra inputs" in refused(tmp_path, VALUES | {"best_epoch": 17})
    inner = copy.deepcopy(VALUES)
    inner["reported"]["epoch"] = 3
    assert "reported.epoch: Extra inputs" in refused(tmp_path, inner)


OUTSIDE: dict[str, list[Any]] = {
    "format": ["zskd-record/2", ""],
    "key": ["", SHA[:-1], SHA.upper()],
    "test_accuracy": [-1, 101, None, "many"],
    "teacher_accuracy": [-0.1, 100.5, float("nan")],
    "teacher_agreement": [101],
    "rate": [0, -1, 101],
    "count": [0, -1, 2.5],
    "unique_images": [0],
    "seed": [-1],
    "student_parameters": [0],
    "student_steps": [-1],
    "selection": ["best", ""],
    "test_images": [0],
    "teacher_forwards": [-1],
    "wall_seconds": [-0.1],
    "workers": [0],
    "threads": [0],
    "versions": [{}, {"zskd": "0.1.0", "torch": "2"}, None],
    "command": [""],
    "date": ["22.11.2026", "2026-11-22T10:00"],
    "reported": [{"value": 98.8}, {"value": 98.8, "source": ""}, {"value": 101, "source": "x"}],
}


@pytest.mark.parametrize("field", OUTSIDE)
def test_a_value_that_cannot_be_is_refused_by_its_name(field: str, tmp_path: Path) -> None:
    for value in OUTSIDE[field]:
        assert f"({field}" in refused(tmp_path, VALUES | {field: value})


def flipped(image: int) -> str:
    mask = CORRECT.copy()
    mask[image] = ~mask[image]
    return pack_mask(mask)


CONTRADICTIONS: dict[str, dict[str, Any]] = {
    "one correct image more or less": {"test_hits": flipped(0)},
    "the last image": {"test_hits": flipped(202)},
    "another accuracy": {"test_accuracy": VALUES["test_accuracy"] + 0.01},
    "all right": {"test_accuracy": 100.0},
    "more test images": {"test_images": len(CORRECT) + 8},
    "fewer test images": {"test_images": len(CORRECT) - 8},
    "a mask that is no base64": {"test_hits": "not hits!"},
    "a mask with a bit too many": {"test_hits": base64.b64encode(b"\xff" * 26).decode()},
    "more unique images than images": {"unique_images": 27},
    "more seconds for the images than for all": {"set_seconds": 3.6},
}


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_a_record_that_contradicts_itself_is_refused(what: str, tmp_path: Path) -> None:
    assert "is no complete record" in refused(tmp_path, VALUES | CONTRADICTIONS[what])


@pytest.mark.parametrize(
    "text",
    ["", "{", json.dumps(VALUES)[:-40], "[]", "null", '"text"', "\xff\xfe", json.dumps(VALUES) + "}"],
    ids=range(8),
)
def test_a_damaged_file_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "tiny" / "default-2-0.json"
    path.parent.mkdir()
    path.write_text(text, encoding="latin-1")
    for read in (lambda: read_record(path), lambda: read_records(tmp_path, "tiny")):
        with pytest.raises(ZskdError, match=r"damaged|JSON object") as error:
            read()
        assert str(path) in str(error.value)


def test_a_missing_record(tmp_path: Path) -> None:
    with pytest.raises(ZskdError, match=r"gone.json is missing: it should be a record"):
        read_record(tmp_path / "gone.json")


def test_records_of_one_experiment_among_other_files(tmp_path: Path) -> None:
    with pytest.raises(ZskdError, match=f"no records of tiny in {tmp_path}/tiny: zskd reproduce makes them"):
        read_records(tmp_path, "tiny")
    for experiment, seed in (("tiny", 1), ("tiny", 0), ("other", 0)):  # both on one data set
        name = f"default-2-{seed}"
        values = VALUES | {"experiment": experiment, "seed": seed, "cell": name}
        write_record(record_path(tmp_path, experiment, name), Record.model_validate(values))
    (tmp_path / "tiny" / "speed.json").write_text('{"format": "something else"}')
    (tmp_path / "tiny" / "notes.txt").write_text("nothing")
    (tmp_path / LEDGER).write_text("{}\n")
    (tmp_path / "tiny" / ".default-2-2.json.zskd-part").mkdir()  # by a writer that was killed
    (tmp_path / "tiny" / ".default-2-2.json.zskd-part" / ".tmp1a2b.json").write_text("")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "default-2-0.json").write_text("{")  # of another one, which is not read
    assert [one.cell for one in read_records(tmp_path, "tiny")] == ["default-2-0", "default-2-1"]
    assert [one.experiment for one in read_records(tmp_path, "other")] == ["other"]


def test_a_record_in_the_folder_of_another_experiment_is_named(tmp_path: Path) -> None:
    write_record(record_path(tmp_path, "tiny", "default-2-0"), Record.model_validate(VALUES))
    path = record_path(tmp_path, "tiny", "default-2-1")
    write_record(path, Record.model_validate(VALUES | {"experiment": "other", "cell": "default-2-1"}))
    with pytest.raises(ZskdError) as error:
        read_records(tmp_path, "tiny")
    assert str(error.value) == f"{path} is a record of other: move it to {tmp_path / 'other'}"


def _append(ledger: Path, number: int) -> None:
    record = Record.model_validate(VALUES | {"seed": number, "cell": f"default-2-{number}"})
    for _ in range(50):
        note_evaluation(ledger, record)


def test_the_ledger_gains_whole_lines_from_several_processes_and_loses_none(tmp_path: Path) -> None:
    ledger = tmp_path / "results" / LEDGER
    note_evaluation(ledger, Record.model_validate(VALUES))
    before = ledger.read_text()
    processes = [
        multiprocessing.get_context("fork").Process(target=_append, args=(ledger, k)) for k in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert ledger.read_text().startswith(before)
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert len(lines) == 1 + 4 * 50
    assert lines[0].pop("time") <= lines[-1].pop("time")
    repeated = (
        "experiment",
        "dataset",
        "cell",
        "key",
        "student_sha256",
        "test_images",
        "test_accuracy",
        "commit",
    )
    assert lines[0] == {name: VALUES[name] for name in repeated}
    cells = [line["cell"] for line in lines[1:]]
    assert {cell: cells.count(cell) for cell in cells} == {f"default-2-{k}": 50 for k in range(4)}


def test_a_ledger_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / LEDGER).mkdir()
    with pytest.raises(ZskdError, match=f"cannot append to .*{LEDGER}: Is a directory"):
        note_evaluation(tmp_path / LEDGER, Record.model_validate(VALUES))


RESULTS = Path(__file__).parents[2] / "results"


def committed() -> list[Path]:
    found = sorted(RESULTS.glob("*/*.json"))
    return [path for path in found if json.loads(path.read_text()).get("format") == FORMAT]


def test_the_committed_records_are_whole_lie_where_they_belong_and_stand_in_the_ledger() -> None:
    records = [read_record(path) for path in committed()]
    for path, record in zip(committed(), records, strict=True):
        assert path == record_path(RESULTS, record.experiment, record.cell)
        rate = "" if record.rate is None else f"-{record.rate:g}"
        assert record.cell == f"{record.arm}{rate}-{record.seed}"
        assert f" --only {record.cell} --again" in record.command
    assert len({(record.experiment, record.key) for record in records}) == len(records)
    # Two experiments may share a teacher; the same inputs must then have made the same bytes.
    networks = {(record.key, record.student_sha256, record.test_accuracy) for record in records}
    assert len(networks) == len({record.key for record in records})
    if records:
        lines = [json.loads(line) for line in (RESULTS / LEDGER).read_text().splitlines()]
        noted = {(line["key"], line["student_sha256"], line["test_accuracy"]) for line in lines}
        assert {(one.key, one.student_sha256, one.test_accuracy) for one in records} <= noted


def test_a_line_that_a_power_cut_left_unfinished_is_ended_and_no_other_is_changed(tmp_path: Path) -> None:
    ledger = tmp_path / LEDGER
    end_last_line(ledger)
    assert not ledger.exists()
    note_evaluation(ledger, Record.model_validate(VALUES))
    whole = ledger.read_text()
    end_last_line(ledger)
    assert ledger.read_text() == whole
    ledger.write_text(whole + whole[:40])
    end_last_line(ledger)
    note_evaluation(ledger, Record.model_validate(VALUES))
    first, torn, last = ledger.read_text().splitlines()
    assert (first, torn) == (whole.rstrip("\n"), whole[:40])
    assert json.loads(last)["cell"] == VALUES["cell"]
