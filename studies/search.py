"""Search for settings: trains students and measures them on images held out of the *training* set.

    python studies/search.py studies/ablation.yaml --data-dir data --out runs/search

The file has `base`, settings of a recipe that all trials share; `trials`, by name, the settings that each one
changes; `seeds`, how many of each; `data`, a list of digits, mnist, twins of it (such as permuted) and filled
(MNIST's digits blurred and textured); `tasks`, by name, settings between base and trials, if all trials are
run for several teachers; and `records`, the file that gets one line per trial. A trial that has a line there
is not run. Start one process per core: each skips the trials that another process runs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from filelock import FileLock

from zskd.config.identity import identity
from zskd.config.loading import load_recipe
from zskd.config.recipe import Recipe
from zskd.config.yaml import merge
from zskd.core.device import use_threads
from zskd.core.errors import ZskdError
from zskd.core.files import folder_lock, sha256_json
from zskd.core.progress import Progress
from zskd.core.types import Images
from zskd.core.versions import source_commit
from zskd.data.datasets import Dataset, Split, load_data
from zskd.distillation.build import build_student
from zskd.distillation.spec import StudentSpec
from zskd.evaluation.metrics import accuracy, agreement
from zskd.models.classifier import Classifier
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.real import build_real_set
from zskd.synthesis.spec import SetSpec
from zskd.teacher.sources import SourceHashes, Sources, fresh_teacher, make_teacher
from zskd.transfer_set.dataset import TransferSet

_TWINS = ("transposed", "inverted", "permuted")
FILLED = "filled"
"""MNIST's digits as grey, textured, blurred shapes: like clothes they have no strokes, and a teacher makes as
many errors on them."""


def filled(split: Split, seed: int) -> Split:
    """Blur the digits and fill each with a soft texture and a random brightness.

    Args:
        split: images (N, 1, H, W) in [0, 1] and their labels.
        seed: of textures and brightness.
    """
    images = split.images
    blurred = _blur(images, 2.8)
    blurred = blurred / blurred.amax((2, 3), keepdim=True)
    numbers = torch.Generator().manual_seed(seed)
    grid = torch.randn(len(images), 1, 8, 8, generator=numbers)
    texture = F.interpolate(grid, size=images.shape[2:], mode="bicubic", align_corners=False)
    brightness = 0.45 + 0.5 * torch.rand(len(images), 1, 1, 1, generator=numbers)
    mask = torch.sigmoid((blurred - 0.42) * 10)
    drawn = (mask * brightness * (1 + 0.45 * texture)).clamp(0, 1)
    grain = 0.02 * torch.randn(images.shape, generator=numbers) * mask
    return replace(split, images=(drawn + grain).clamp(0, 1))


def _blur(images: Images, deviation: float) -> Images:
    reach = int(3 * deviation + 1)
    kernel = torch.exp(-(torch.arange(-reach, reach + 1).float() ** 2) / (2 * deviation**2))
    kernel = kernel / kernel.sum()
    across = F.conv2d(images, kernel.view(1, 1, 1, -1), padding=(0, reach))
    return F.conv2d(across, kernel.view(1, 1, -1, 1), padding=(reach, 0))


def main() -> None:
    """Run all trials that have no line; the file is read anew before each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trials", type=Path)
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--out", type=Path, default=Path("runs/search"))
    args = parser.parse_args()
    records = Path(yaml.safe_load(args.trials.read_text())["records"])
    while (trial := _next_trial(args.trials, records, args.out)) is not None:
        try:
            with folder_lock(args.out / "trials" / _key(trial)):
                line = run_trial(trial, args.data_dir, args.out)
        except ZskdError as error:
            line = {"error": str(error)}
        with records.open("a") as stream:
            stream.write(json.dumps(trial | line | {"key": _key(trial)}) + "\n")
        print(json.dumps(trial | line), flush=True)


def _trials(path: Path) -> Iterator[dict[str, Any]]:
    plan = yaml.safe_load(path.read_text())
    for seed, data, task in product(range(plan["seeds"]), plan["data"], plan.get("tasks", {"": {}}).values()):
        for name, changes in plan["trials"].items():
            settings = merge(merge(plan["base"], task), changes)
            yield {"name": name, "data": data, "seed": seed, "settings": settings}


def _next_trial(path: Path, records: Path, out: Path) -> dict[str, Any] | None:
    text = records.read_text() if records.is_file() else ""
    done = {json.loads(line)["key"] for line in text.splitlines()}
    for trial in _trials(path):
        if _key(trial) in done:
            continue
        try:
            with folder_lock(out / "trials" / _key(trial)):
                return trial
        except ZskdError:
            continue
    return None


def _key(trial: dict[str, Any]) -> str:
    return sha256_json({name: trial.get(name) for name in ("data", "seed", "settings")})[:16]


def run_trial(trial: dict[str, Any], data_dir: str | None, out: Path) -> dict[str, Any]:
    """Make the teacher, set and student of a trial that do not exist yet; measure the student.

    Returns:
        The results of its line: percentages, seconds and counts.
    """
    settings = merge({"threads": 1, "workers": 1}, trial.get("settings") or {})
    real = settings.pop("real", False)
    only_teacher = settings.pop("only_teacher", False)
    name = trial.get("data", "mnist")
    source: dict[str, Any] = {"dir": data_dir} | ({"twin": name} if name in _TWINS else {})
    recipe = load_recipe(
        "mnist" if name == FILLED or name in _TWINS else name,
        merge({"seed": trial.get("seed", 0), "data": source}, settings),
    )
    data = load_data(recipe.data, recipe.teacher.shape)
    if name == FILLED:
        data = replace(data, train=filled(data.train, 1), validation=filled(data.validation, 2))
    with use_threads(1):
        started = perf_counter()
        teacher = _teacher(recipe, name, data, out)
        of_teacher = accuracy(teacher, data.validation).percent
        if only_teacher:
            return {
                "teacher": of_teacher,
                "seconds": round(perf_counter() - started),
                "commit": source_commit(),
            }
        started = perf_counter()
        images = _images(recipe, teacher, data, out, real)
        made = perf_counter()
        folder = out / "trials" / _key(trial) / "student"
        spec = StudentSpec(student=recipe.student, seed=recipe.seed, distill=recipe.distill)
        student = build_student(teacher, spec, images, folder)
    return {
        "accuracy": accuracy(student, data.validation).percent,
        "agreement": agreement(teacher, student, data.validation.images).percent,
        "teacher": of_teacher,
        "set_seconds": round(made - started),
        "student_seconds": round(perf_counter() - made),
        "images_seen": recipe.distill.total_steps(len(images)) * recipe.distill.batch_size,
        "commit": source_commit(),
    }


def _teacher(recipe: Recipe, name: str, data: Dataset, out: Path) -> Classifier:
    fixed = replace(recipe, seed=0)
    settings = identity(fixed)
    what = {"name": name, "data": settings["data"], "teacher": settings["teacher"]}
    folder = out / "teachers" / f"{name}-{sha256_json(what)[:8]}"
    sources = Sources(data, fresh_teacher(fixed, data), None, SourceHashes(data_sha256=data.fingerprint()))
    with _locked(folder):
        return make_teacher(fixed, sources, folder, Progress())


def _images(recipe: Recipe, teacher: Classifier, data: Dataset, out: Path, real: bool) -> TransferSet | None:
    if not recipe.distill.needs_set:
        return None
    count = recipe.size(data.train_size)
    spec = SetSpec(
        method=recipe.method,
        method_settings=recipe.method_settings,
        count=count,
        seed=recipe.seed,
        targets=recipe.targets,
        synthesis=recipe.synthesis,
    )
    what = {"real": count, "seed": recipe.seed} if real else asdict(spec)
    folder = out / "sets" / sha256_json(what | {"teacher": teacher.fingerprint()})[:16]
    with _locked(folder):
        if real:
            return build_real_set(teacher, data.train, folder, count=count, seed=recipe.seed)
        return build_transfer_set(teacher, spec, folder)


def _locked(folder: Path) -> FileLock:
    """Return the lock of a folder; it waits for another process that writes there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{folder}.lock")


if __name__ == "__main__":
    main()
