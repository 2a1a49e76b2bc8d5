"""What a search has tried: one line of a file for each trial, and what all of them have in common."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from zskd.config.recipe import Recipe
from zskd.core.artefact import (
    Artefact,
    AtLeastOne,
    Count,
    JsonObject,
    Percent,
    Processor,
    Sha256,
    Versions,
    parse,
    read_artefact,
    write_artefact,
)
from zskd.core.errors import ZskdError
from zskd.core.files import first_difference, sha256_json, write_text
from zskd.core.reading import one_line_errors, parse_json, read_bytes
from zskd.core.versions import source_commit
from zskd.experiment.cell import append_line, end_last_line
from zskd.tuning.trial import Measured

JOURNAL, STUDY = "tuning.jsonl", "study.json"
FORMAT: Final = "zskd-tuning/1"
Value = Literal["agreement", "accuracy"]
_ADVICE = "choose another folder with --out, or delete this one"


class Trial(Artefact):
    """A line of the journal."""

    number: Count
    settings: JsonObject
    """By dotted name."""
    value: Percent | None
    """What is searched for: agreement or accuracy; None where the trial failed."""
    measured: Measured | None
    error: str | None
    """Why it failed."""
    key: Sha256 | None
    """Hash of everything that determines the student; None where the settings contradict each other."""
    repeats: Count | None
    """Number of an earlier trial with the same student, which is not made again."""
    versions: Versions
    processor: Processor
    commit: str | None


class Common(Artefact):
    """What all trials of a search have in common."""

    format: Literal["zskd-tuning/1"]
    recipe: JsonObject
    """Settings that identify a result; a trial changes some of them."""
    sources: JsonObject
    """Hashes of the data, without test images, and of a given teacher."""
    space: JsonObject
    sampler: str
    together: AtLeastOne
    value: Value


class Journal:
    """The journal of a folder that this process has locked. It is written anew, as a whole, for each line.

    Args:
        folder: of the search.
        common: what its trials have in common.

    Raises:
        ZskdError: the folder belongs to another search, or a file is damaged.
    """

    def __init__(self, folder: Path, common: Common) -> None:
        self._path = folder / JOURNAL
        self.trials: dict[int, Trial] = {one.number: one for one in read_journal(self._path)}
        if not self.trials:  # a mistake in the first command can be corrected
            write_artefact(folder / STUDY, common)
            return
        there = read_artefact(folder / STUDY, Common, "what the trials of a search have in common", _ADVICE)
        if "code" not in there.sources:  # as in searches of earlier versions
            sources = {key: one for key, one in common.sources.items() if key != "code"}
            common = common.model_copy(update={"sources": sources})
        if there != common:
            what = first_difference(there.to_json(), common.to_json(), "")
            raise ZskdError(f"{folder} is a search with another {what}: {_ADVICE}")

    def add(self, trial: Trial) -> None:
        """Write a line.

        Raises:
            ZskdError: the file cannot be written.
        """
        self.trials[trial.number] = trial
        ordered = [self.trials[number].to_json() for number in sorted(self.trials)]
        write_text(self._path, "".join(f"{json.dumps(one)}\n" for one in ordered))

    def check(self, number: int, settings: JsonObject) -> None:
        """Refuse a line whose settings are not those that are proposed for it now.

        Raises:
            ZskdError: another version of Optuna, or another processor, proposes something else.
        """
        trial = self.trials.get(number)
        if trial is not None and trial.settings != settings:
            what = first_difference(trial.settings, settings, "")
            raise ZskdError(
                f"{self._path}: for trial {number} Optuna now proposes another {what}: install version "
                f"{trial.versions.get('optuna')}, or {_ADVICE}"
            )


def read_journal(path: Path) -> list[Trial]:
    """Return the trials of a journal, in the order of their numbers; none without a file.

    Raises:
        ZskdError: it is damaged.
    """
    if not path.is_file():
        return []
    trials = []
    what, data = "the journal of a search", read_bytes(path, "the journal of a search")
    for number, line in enumerate(data.splitlines(), start=1):
        with one_line_errors(f"{path}, {what}, is damaged in line {number}", _ADVICE):
            values = parse_json(line)
            if not isinstance(values, dict):
                raise ValueError("it is no JSON object")
        trials.append(parse(values, Trial, f"{path}, {what}, line {number},", _ADVICE))
    return trials


def note_search(ledger: Path, recipe: Recipe, common: Common, trials: Sequence[Trial]) -> None:
    """Append one line to the ledger of evaluations, once: a search has ended, and used no test image.

    Args:
        ledger: the file.
        recipe: that was searched for.
        common: what the trials have in common.
        trials: all of them, at least one of them measured.

    Raises:
        ZskdError: the file cannot be read or written.
    """
    key = sha256_json({"common": common.to_json(), "trials": [trial.key for trial in trials]})
    if ledger.is_file() and key.encode() in read_bytes(ledger, "the ledger of evaluations"):
        return
    line = {
        "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "experiment": f"{recipe.name}-tuning",
        "dataset": recipe.data.label,
        "cell": f"{len(trials)} trials",
        "key": key,
        "student_sha256": None,
        "test_images": 0,
        "test_accuracy": None,
        "validation_images": max(trial.measured.images for trial in trials if trial.measured),
        "commit": source_commit(),
    }
    end_last_line(ledger)
    append_line(ledger, line)
