"""The models of JSON files: those of 0.1.0 come back byte for byte, and damaged ones end in one line."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zskd.core.artefact import read_artefact, write_artefact
from zskd.core.errors import ZskdError
from zskd.core.reading import read_json
from zskd.core.timing import read_seconds
from zskd.models.checkpoint import read_card
from zskd.run.budget import BudgetFile
from zskd.run.metrics import read_metrics
from zskd.run.similarity import SimilarityFile
from zskd.teacher.named.exported import exported_facts
from zskd.teacher.named.source import parse_source
from zskd.teacher.sources import SourceHashes
from zskd.transfer_set.manifest import read_manifest

FILES = Path(__file__).parents[1] / "files" / "0.1.0"
EARLIER = sorted((Path(__file__).parents[2] / "results" / "before-after").glob("*.json"))


def in_folder(read: Callable[[Path], Any], name: str) -> Callable[[Path], Any]:
    """A reader of a file that reads the folder where it has its own name."""

    def reader(path: Path) -> Any:
        folder = path.parent / "folder"
        folder.mkdir(exist_ok=True)
        shutil.copy(path, folder / name)
        return read(folder)

    return reader


READERS: dict[str, Callable[[Path], Any]] = {
    "manifest": in_folder(read_manifest, "manifest.json"),
    "teacher": in_folder(read_card, "card.json"),
    "student": in_folder(read_card, "card.json"),
    "metrics": read_metrics,
    "budget": lambda path: read_artefact(
        path, BudgetFile, "what a budget allows", "delete it and make it again"
    ),
    "similarity": lambda path: read_artefact(
        path, SimilarityFile, "a similarity", "delete it and make it again"
    ),
    "sources": lambda path: read_artefact(
        path, SourceHashes, "the hashes of a run's sources", "delete it and make it again"
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_what_0_1_0_wrote_comes_back_byte_for_byte(name: str, tmp_path: Path) -> None:
    shutil.copy(FILES / f"{name}.json", tmp_path / "file.json")
    write_artefact(tmp_path / "again.json", READERS[name](tmp_path / "file.json"))
    assert (tmp_path / "again.json").read_bytes() == (FILES / f"{name}.json").read_bytes()


@pytest.mark.parametrize("path", EARLIER, ids=lambda path: path.stem)
def test_metrics_of_earlier_versions_are_read_and_keep_their_keys(path: Path) -> None:
    assert read_metrics(path).to_json() == read_json(path, "the test's", "look")


DAMAGES: list[tuple[str, str, object, str]] = [
    ("manifest", "count", -1, "count: Input should be greater than or equal to 0"),
    ("manifest", "count", 99, "count is not that of the shards"),
    ("manifest", "count", "100", "count: Input should be a valid integer"),
    ("manifest", "count", True, "count: Input should be a valid integer"),
    ("manifest", "shape", [1, 32], "shape.2: Field required"),
    ("manifest", "shape", [1, 0, 32], "shape.1: Input should be greater than or equal to 1"),
    ("manifest", "class_names", ["a", 1], "class_names.1: Input should be a valid string"),
    ("manifest", "class_names", [], "class_names: Tuple should have at least 1 item"),
    ("manifest", "teacher_sha256", "abc", "teacher_sha256: String should match pattern"),
    ("manifest", "mean_kl", float("nan"), "mean_kl: Input should be a finite number"),
    ("manifest", "mean_kl", None, "mean_kl: Input should be a valid number"),
    ("manifest", "spec", {}, "spec: .*it has no method"),
    ("manifest", "shards.0.file", "../x", "shards.0.file: String should match pattern"),
    ("manifest", "shards.0.missed", -1, "shards.0.missed: Input should be greater"),
    ("manifest", "more", 1, "more: Extra inputs are not permitted"),
    ("student", "architecture", {"factory": 3}, "architecture"),
    ("student", "architecture.layers.0", ["Conv2d"], "architecture"),
    ("student", "weights_sha256", "", "weights_sha256: String should match pattern"),
    ("student", "origin.seed", -1, "origin.seed: Input should be greater"),
    ("student", "input.std", [0.0], r"std \(0.0,\) must be above 0"),
    ("student", "input.box", [0.0, 2], r"box \(0.0, 2\) must be two increasing numbers"),
    ("student", "class_names", ["a"], "class_names: Tuple should have at least 2 items"),
    ("student", "golden", {"pairs": 0}, "golden.pairs: Input should be greater"),
    ("teacher", "parameters", -3, "parameters: Input should be greater"),
    ("metrics", "arms", [], "arms: Tuple should have at least 1 item"),
    ("metrics", "arms.0.agreement.impressions.percent", 120, "a percentage must lie in its interval"),
    ("metrics", "arms.0.agreement.impressions.n", 0, "n must be at least 1"),
    ("metrics", "arms.0.parameters", 1.5, "arms.0.parameters: Input should be a valid integer"),
    (
        "metrics",
        "teacher.test_accuracy.low",
        "x",
        "teacher.test_accuracy.low: Input should be a valid",
    ),
    ("metrics", "seconds.teacher", -1, "seconds.teacher: Input should be greater"),
    ("metrics", "student_steps", 0, "student_steps: Input should be greater"),
    ("budget", "steps", 0, "steps: Input should be greater"),
    ("budget", "minutes", 0, "minutes: Input should be greater than 0"),
    ("budget", "paces.zskd", {"start": 1.0}, "paces.zskd.step: Field required"),
    ("similarity", "similarity.3", [1.0], "similarity has not 10 rows and columns"),
    ("sources", "data_sha256", 3, "data_sha256: Input should be a valid string"),
]


@pytest.mark.parametrize(("name", "where", "value", "message"), DAMAGES)
def test_a_damaged_file_ends_in_one_line_that_names_file_and_value(
    name: str, where: str, value: object, message: str, tmp_path: Path
) -> None:
    values = json.loads((FILES / f"{name}.json").read_text())
    *path, last = [int(key) if key.isdigit() else key for key in where.split(".")]
    level: Any = values
    for key in path:
        level = level[key]
    level[last] = value
    refuses(name, values, message, tmp_path)


@pytest.mark.parametrize("name", [name for name in READERS if name != "sources"])
def test_every_key_that_must_be_there_is_named_when_it_is_not(name: str, tmp_path: Path) -> None:
    values = json.loads((FILES / f"{name}.json").read_text())
    optional = {"missed", "dropped", "resolved", "origin", "golden", "parameters", "versions"}
    optional |= {"count", "seconds_per_image", "steps", "paces", "beside"} if name == "budget" else set()
    needed = values.keys() - (optional - {"versions"} if name not in ("teacher", "student") else optional)
    for key in needed - {"format"}:
        less = copy.deepcopy(values)
        del less[key]
        refuses(name, less, f"{key}: Field required", tmp_path)


@pytest.mark.parametrize("name", READERS)
def test_a_file_that_is_no_json_gets_the_advice_of_its_own_reader(name: str, tmp_path: Path) -> None:
    path, advices = tmp_path / f"{name}.json", set[str]()
    values = json.loads((FILES / f"{name}.json").read_text())
    for text in (json.dumps(values | {"more": 1}), "{", "[]"):
        path.write_text(text)
        with pytest.raises(ZskdError) as caught:
            READERS[name](path)
        advices.add(str(caught.value).rpartition(": ")[2])
    assert len(advices) == 1


def test_the_configuration_of_another_program_is_not_to_be_deleted(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    for read in (lambda: parse_source(str(tmp_path)), lambda: exported_facts(tmp_path)):
        with pytest.raises(ZskdError, match=r"is damaged .*: download or export it again$"):
            read()


def refuses(name: str, values: object, message: str, folder: Path) -> None:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ZskdError, match=message) as caught:
        READERS[name](path)
    assert "\n" not in str(caught.value)
    assert ".json" in str(caught.value)
    assert "make" in str(caught.value)


@pytest.mark.parametrize(
    "text", ['{"teacher": -1}', '{"teacher": "1"}', '{"": 1}', '{"teacher": 1e999}', "[]"]
)
def test_damaged_seconds_end_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "timings.json"
    assert read_seconds(path, "the timings of a run") == {}
    path.write_text(text)
    with pytest.raises(ZskdError, match=r"timings\.json, the timings of a run, .*delete it"):
        read_seconds(path, "the timings of a run")
    assert read_seconds(FILES / "timings.json", "the timings of a run")["teacher"] == 2.339
