"""Freeze the default: `python studies/freeze.py "why"` appends its hash to results/frozen.jsonl.

With `--preset batch_norm`, that of the preset that the rule chooses for teachers with batch-norm, to
results/frozen-batch-norm.jsonl: chosen on coloured digits and on images held out of the training folder of
CIFAR-10 (results/carry.json, results/colour.json). With `--preset batch_norm_chain`, that for chains, to
results/frozen-batch-norm-chain.jsonl: chosen on filled digits (results/tuning/grey-batch-norm.jsonl).

The hash covers all settings that make a student from a teacher, also the size of the set. They were chosen
on digits and MNIST (results/tuning/better.jsonl). Fashion-MNIST and the twins are run with exactly these
settings, and the first run counts. Earlier frozen settings stay in the file.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from typing import Any

from records import RESULTS
from zskd.config.identity import identity
from zskd.config.loading import load_recipe
from zskd.config.rule import TeacherFacts, choose
from zskd.core.files import sha256_json
from zskd.core.versions import source_commit

FROZEN = RESULTS / "frozen.jsonl"
FROZEN_PRESETS = {
    "batch_norm": RESULTS / "frozen-batch-norm.jsonl",
    "batch_norm_chain": RESULTS / "frozen-batch-norm-chain.jsonl",
}
"""Preset that the rule chooses -> record."""


def frozen_settings(recipe: str) -> dict[str, Any]:
    """Return the settings by which a shipped recipe makes its students."""
    values = identity(load_recipe(recipe))
    settings = {name: values[name] for name in ("method", "rate", "targets", "synthesis", "distill")}
    return settings | {"teacher": values["teacher"]}


def frozen_preset(name: str) -> dict[str, Any]:
    """Return the settings by which a preset for batch-norm makes its students, and the size of its set."""
    rows = choose(TeacherFacts(batch_norms=1, chain=name == "batch_norm_chain"))
    chosen = {key: value for row in rows for key, value in row.values.items() if key != "student"}
    assert chosen["preset"] == name
    values = identity(load_recipe("my-teacher", chosen))
    names = ("method", "method_settings", "count", "targets", "synthesis", "distill")
    return {name: values[name] for name in names}


def main() -> None:
    """Append a line; refuse recipes that differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("why")
    parser.add_argument("--preset", choices=FROZEN_PRESETS)
    given = parser.parse_args()
    settings = frozen_preset(given.preset) if given.preset else frozen_settings("mnist")
    if not given.preset and settings != frozen_settings("fashion-mnist"):
        raise SystemExit("the recipes mnist and fashion-mnist differ: give both the same settings")
    line = {
        "frozen": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "sha256": sha256_json(settings),
        "why": given.why,
        "commit": source_commit(),
        "settings": settings,
    }
    with FROZEN_PRESETS.get(given.preset, FROZEN).open("a") as stream:
        stream.write(json.dumps(line) + "\n")
    print(line["sha256"])


if __name__ == "__main__":
    main()
