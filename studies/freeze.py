"""Freeze the default: `python studies/freeze.py "why"` appends its hash to results/frozen.jsonl.

What is frozen is all that makes a student from a teacher, the size of the set included. Its settings were
chosen on digits and MNIST (results/tuning/better.jsonl); Fashion-MNIST and the twins are run with exactly
that, and the first run counts. A recipe that is frozen later keeps its forerunners in the file.
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
    """Return what a shipped recipe makes its students by."""
    values = identity(load_recipe(recipe))
    settings = {name: values[name] for name in ("method", "rate", "targets", "synthesis", "distill")}
    return settings | {"teacher": values["teacher"]}


def main() -> None:
    """Append a line; refuse recipes that differ."""
    settings = frozen_settings("mnist")
    if settings != frozen_settings("fashion-mnist"):
        raise SystemExit("the recipes mnist and fashion-mnist differ: one frozen recipe is for both")
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
