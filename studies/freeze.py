"""Freeze the default: `python studies/freeze.py "why"` appends its hash to results/frozen.jsonl.

The hash covers all settings that make a student from a teacher, also the size of the set. They were chosen
on digits and MNIST (results/tuning/better.jsonl). Fashion-MNIST and the twins are run with exactly these
settings, and the first run counts. Earlier frozen settings stay in the file.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any

from records import RESULTS
from zskd.config.identity import identity
from zskd.config.loading import load_recipe
from zskd.core.files import sha256_json
from zskd.core.versions import source_commit

FROZEN = RESULTS / "frozen.jsonl"


def frozen_settings(recipe: str) -> dict[str, Any]:
    """Return the settings by which a shipped recipe makes its students."""
    values = identity(load_recipe(recipe))
    settings = {name: values[name] for name in ("method", "rate", "targets", "synthesis", "distill")}
    return settings | {"teacher": values["teacher"]}


def main() -> None:
    """Append a line; refuse recipes that differ."""
    settings = frozen_settings("mnist")
    if settings != frozen_settings("fashion-mnist"):
        raise SystemExit("the recipes mnist and fashion-mnist differ: give both the same settings")
    line = {
        "frozen": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "sha256": sha256_json(settings),
        "why": sys.argv[1],
        "commit": source_commit(),
        "settings": settings,
    }
    with FROZEN.open("a") as stream:
        stream.write(json.dumps(line) + "\n")
    print(line["sha256"])


if __name__ == "__main__":
    main()
