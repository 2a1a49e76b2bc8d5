"""Where a run's teacher comes from: a checkpoint, a file from elsewhere, or training."""

from __future__ import annotations

from pathlib import Path

import torch

from zskd.checkpoint import Card, load_checkpoint, save_checkpoint
from zskd.classifier import Classifier, InputSpec
from zskd.config import Recipe, Teacher
from zskd.data import Dataset, load_data
from zskd.errors import ZskdError
from zskd.files import sha256_json
from zskd.fitting import fresh_weights
from zskd.importing import import_teacher
from zskd.models import HALF, Architecture, build, describe, describe_half
from zskd.progress import Progress
from zskd.recipes import to_values
from zskd.training import train_teacher


def input_spec(config: Teacher) -> InputSpec:
    """Return what the settings say about the teacher's input."""
    return InputSpec(shape=config.shape, mean=config.mean, std=config.std, box=config.box)


def open_teacher(path: Path, config: Teacher, model: str | None = None) -> tuple[Classifier, Card]:
    """Open a checkpoint folder, or import a file from elsewhere.

    Args:
        path: folder or file.
        config: describes a file from elsewhere; a folder describes itself.
        model: the factory that the user allows to run for a checkpoint of own code.

    Raises:
        ZskdError: as `load_checkpoint` and `import_teacher` do.
    """
    if path.is_dir():
        factory = model or (config.model if ":" in config.model else None)
        classifier, card = load_checkpoint(path, model=factory)
        return classifier.freeze(), Card(
            architecture=card["architecture"], origin=card["origin"], golden=card["golden"]
        )
    return import_teacher(
        path,
        model=config.model,
        spec=input_spec(config),
        class_names=config.class_names,
        head=config.head,
        golden=config.golden,
    )


def make_teacher(recipe: Recipe, folder: Path, progress: Progress) -> tuple[Classifier, Dataset | None]:
    """Return the teacher that a recipe asks for, from `folder` if it is there already.

    Returns:
        The frozen teacher, and the data if they had to be loaded.

    Raises:
        ZskdError: no teacher and no data to train one, or anything wrong with either.
    """
    config = recipe.teacher
    data = None
    if not (folder / "card.json").is_file():
        if config.path is not None:
            teacher, card = open_teacher(config.path, config)
        else:
            if recipe.data.name == "none":
                raise ZskdError("no teacher and no data to train one: give --teacher.path FILE")
            data = load_data(recipe.data, config.shape)
            teacher, card = _train(recipe, data, folder, progress)
        save_checkpoint(folder, teacher, card)
        (folder / "training.safetensors").unlink(missing_ok=True)
    factory = config.model if ":" in config.model else None
    return load_checkpoint(folder, model=factory)[0].freeze(), data


def _train(recipe: Recipe, data: Dataset, folder: Path, progress: Progress) -> tuple[Classifier, Card]:
    config = recipe.teacher
    architecture = describe(config.model, shape=config.shape, classes=len(data.class_names))
    settings = {key: to_values(recipe)[key] for key in ("seed", "data", "teacher")}
    settings["data"].pop("dir")
    teacher = train_teacher(
        data,
        architecture,
        input_spec(config),
        config,
        seed=recipe.seed,
        state=folder / "training.safetensors",
        key=sha256_json(settings | {"threads": torch.get_num_threads()}),
        progress=progress,
    )
    return teacher, Card(architecture=architecture, origin={"how": "trained", **settings})


def describe_student(name: str, teacher: Classifier) -> Architecture:
    """Return the architecture of a student by its name: `half`, built-in, or a factory."""
    if name == HALF:
        return describe_half(teacher.module)
    return describe(name, shape=teacher.spec.shape, classes=teacher.classes)


def fresh_student(architecture: Architecture, teacher: Classifier, seed: int) -> Classifier:
    """Build an untrained student for the teacher's inputs and classes.

    Raises:
        ZskdError: it has another number of classes than the teacher.
    """
    module = fresh_weights(lambda: build(architecture, run_code=True), seed)
    student = Classifier(module, spec=teacher.spec)
    if student.classes != teacher.classes:
        raise ZskdError(f"the student has {student.classes} classes and its teacher {teacher.classes}")
    return student
