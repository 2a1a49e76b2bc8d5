"""Does another version of the code make the same teachers, sets and students, byte for byte?

    python studies/same_bytes.py OLD/.venv/bin/python NEW/.venv/bin/python --out results/same-bytes.json

Each interpreter has its own zskd. Both do one small run of digits for each preset and for each part that no
preset uses, one thread each; all safetensors files and the hash of the recipe are compared. Recipes have the
names of settings that the first records know, which every version reads. Exit code 1 when anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

COMMON: dict[str, Any] = {
    "count": 200,
    "held_out": 10,
    "controls": [],
    "threads": 1,
    "workers": 1,
    "data": {"name": "digits"},
    "teacher": {"epochs": 2},
    "distill": {"steps": 25, "batch_size": 64},
}
FEW = {"synthesis": {"steps": 20}}
RUNS: dict[str, dict[str, Any]] = {
    "default with its controls": {
        "controls": ["class_impressions", "noise_smooth", "noise_shapes", "noise_white"]
    },
    "first": {"preset": "first"},
    "paper": {"preset": "paper", **FEW},
    "release": {"preset": "release", **FEW},
    "reproduction": {"preset": "reproduction", **FEW},
    "reproduction, small batch": {"preset": "reproduction", "synthesis": {"steps": 20, "batch_size": 4}},
    "dfad": {"preset": "dfad"},
    "zskt": {"preset": "zskt"},
    "soft_targeted": {
        "method": "soft_targeted",
        "targets": {"spread": 2.0},
        "synthesis": {"noise_share": 0.2},
    },
    "image bank": {"distill": {"rounds": {"share": 0.5, "count": 3, "images": 40}}},
    "generator and a set": {"preset": "first", "distill": {"game": {"share": 0.5}}},
    "l1, sgd, free pixels, l2": {
        "distill": {"loss": "l1", "optimiser": "sgd"},
        "synthesis": {"pixels": "free", "l2": 0.01},
    },
    "mse, adam, smooth starts, drop": {
        "distill": {"loss": "mse", "optimiser": "adam"},
        "synthesis": {"start": "smooth", "missed": "drop", "noise_share": 0.0, "tolerance": 1.0},
    },
    "ce, random start, attention": {
        "student": "lenet5_half",
        "distill": {"loss": "ce", "start": "random", "attention": 10.0},
    },
    "batch-norm": {
        "teacher": {"model": "lenet5_bn"},
        "student": "lenet5_small",
        "distill": {"start": "random"},
    },
}


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return nested values where those of `above` win."""
    both = {
        key: merged(below[key], value) for key, value in above.items() if isinstance(below.get(key), dict)
    }
    return below | above | both


def made(python: str, recipe: Path, folder: Path) -> dict[str, Any]:
    """Do a run and return the hashes of its files, and what it was made with."""
    command = [python, "-m", "zskd", "run", str(recipe), "--out", str(folder), "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{python}: {done.stderr.strip()}")
    metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
    files = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.safetensors"))
    }
    files["recipe"] = metrics["recipe_sha256"]
    return {"files": files, "with": {key: metrics[key] for key in ("commit", "versions", "processor")}}


def main() -> int:
    """Compare two versions run by run, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("before", help="Python that has the older zskd")
    parser.add_argument("after", help="Python that has the newer one")
    parser.add_argument("--out", type=Path, required=True, help="JSON record")
    given = parser.parse_args()
    record: dict[str, Any] = {
        "command": f"python studies/same_bytes.py BEFORE AFTER --out results/{given.out.name}",
        "runs": {},
    }
    same = True
    for name, settings in RUNS.items():
        with tempfile.TemporaryDirectory() as scratch:
            recipe = Path(scratch) / "recipe.yaml"
            recipe.write_text(yaml.safe_dump(merged(COMMON, settings)), encoding="utf-8")
            before = made(given.before, recipe, Path(scratch) / "before")
            after = made(given.after, recipe, Path(scratch) / "after")
        record |= {"before": before["with"], "after": after["with"]}
        names = sorted(before["files"].keys() | after["files"].keys())
        differ = [one for one in names if before["files"].get(one) != after["files"].get(one)]
        digest = hashlib.sha256(json.dumps(after["files"], sort_keys=True).encode()).hexdigest()
        record["runs"][name] = {"files": len(names), "differ": differ, "sha256_of_all": digest}
        print(f"{name}: {len(names)} hashes, {len(differ)} differ {', '.join(differ[:3])}", flush=True)
        same = same and not differ
    given.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
