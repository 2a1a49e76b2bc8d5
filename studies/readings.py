"""Targets and images of the published readings of the method: writes results/readings.json.

    python studies/readings.py mnist --data-dir data --out runs/mnist-experiment

Targets are drawn for the first teacher of an experiment; the sets are those of the experiment.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zskd.config.loading import load_recipe
from zskd.config.targets import TargetsConfig
from zskd.core.files import write_json
from zskd.core.versions import source_commit, versions
from zskd.experiment.definition import load_experiment
from zskd.experiment.layout import CellPaths, lay_out
from zskd.experiment.plan import plan_cells
from zskd.models.classifier import Classifier
from zskd.synthesis.methods.zskd import ZSKD
from zskd.synthesis.plan import PlanEntry
from zskd.teacher.sources import load_teacher
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.manifest import MANIFEST, read_manifest

DRAWS = 5_000
ARMS = ("paper", "release", "release_beta", "release_cold", "reproduction", "default")


def of_targets(teacher: Classifier, config: TargetsConfig) -> dict[str, Any]:
    """Return for each β of a preset: mean entropy in nats with its standard error, and the share of targets
    whose largest entry is their class."""
    anchors = [i % teacher.classes for i in range(DRAWS)]
    found = {}
    for beta in sorted(config.betas):
        entries = [PlanEntry(i, anchor, beta, True) for i, anchor in enumerate(anchors)]
        y = ZSKD().targets(teacher, entries, config, seed=0).astype(np.float64)
        entropy = -(y * np.log(y.clip(1e-300))).sum(1)
        found[f"{beta:g}"] = {
            "entropy": float(entropy.mean()),
            "entropy_error": float(entropy.std(ddof=1) / DRAWS**0.5),
            "argmax_is_class": float((y.argmax(1) == anchors).mean()),
        }
    return found


def of_set(images: TransferSet) -> dict[str, Any]:
    """Return how well a set fits its targets, and the correlation of images of successive batches."""
    config = images.manifest.spec["synthesis"]
    correlation, correct, kl = [], [], []
    for shard in images:
        made = shard.steps > 0
        correct.append((shard.logits.argmax(1) == shard.targets.argmax(1))[made])
        kl.append(shard.kl[made])
        flat = shard.images.flatten(1).double()
        flat = flat - flat.mean(1, keepdim=True)
        flat = flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-12)
        batch = config["batch_size"]
        correlation.append((flat[batch:] * flat[:-batch]).sum(1))
    return {
        "count": len(images),
        "tau": config["tau"],
        "mean_kl": float(torch.cat(kl).mean()),
        "argmax_match": float(torch.cat(correct).double().mean()),
        "correlation_with_previous_batch": float(torch.cat(correlation).mean()),
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment")
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--record", type=Path, default=Path("results/readings.json"))
    given = parser.parse_args()
    settings = {"data": {"dir": given.data_dir}} if given.data_dir else {}
    experiment = load_experiment(given.experiment, settings)
    cells = plan_cells(experiment)
    layout, _ = lay_out(experiment, cells, given.out, Path("results"))
    at = {paths.cell.name: paths for paths in layout}
    first: CellPaths = at["teacher-0"]
    teacher = load_teacher(first.cell.recipe, first.teacher)
    targets = {
        name: of_targets(teacher, load_recipe(None, {"preset": name}).targets)
        for name in ("paper", "release", "reproduction", "default")
    }
    no_rescaling = replace(load_recipe(None, {"preset": "release"}).targets, rescale_after_beta=False)
    targets["release, its β taking effect"] = of_targets(teacher, no_rescaling)
    sets = {}
    for arm in ARMS:
        folder = at[f"{arm}-10-0"].set_folder
        if folder and (folder / MANIFEST).is_file() and read_manifest(folder).complete:
            count = at[f"{arm}-10-0"].count
            sets[arm] = of_set(TransferSet(folder, first=count))
    write_json(
        given.record,
        {
            "command": shlex.join(["python", *sys.argv]),
            "commit": source_commit(),
            "versions": versions(),
            "teacher_sha256": teacher.fingerprint(),
            "draws": DRAWS,
            "targets": targets,
            "sets": sets,
        },
    )
    print(json.dumps({"targets": targets, "sets": sets}, indent=2))


if __name__ == "__main__":
    main()
