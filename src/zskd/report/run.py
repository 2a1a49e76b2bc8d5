"""The page about a run: what its folder holds, and what its networks answer."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from zskd.config.data import IN_FOLDERS, DataConfig
from zskd.config.loading import load_recipe
from zskd.config.presets import RECIPES
from zskd.config.yaml import read_yaml
from zskd.core.errors import ZskdError
from zskd.core.progress import Progress
from zskd.data.datasets import Dataset, load_data
from zskd.models.checkpoint import load_checkpoint, read_card
from zskd.models.classifier import Classifier
from zskd.models.factory import innermost
from zskd.report.behaviour import Behaviour, measure_behaviour
from zskd.report.gallery import Impression, make_gallery
from zskd.report.page import write_page
from zskd.run.metrics import METRICS, RunMetrics, read_metrics
from zskd.run.similarity import shows_similarity
from zskd.synthesis.similarity import class_similarity
from zskd.synthesis.sizes import made_spec
from zskd.synthesis.spec import SetSpec
from zskd.teacher.opening import check_model
from zskd.training.curve import Curve, read_curve
from zskd.transfer_set.dataset import TransferSet

REPORT = "report.html"


@dataclass(frozen=True)
class RunReport:
    """Everything that the page shows."""

    metrics: RunMetrics
    similarity: tuple[tuple[float, ...], ...]
    """Of the classes in the teacher's last layer; empty where it has none."""
    class_names: tuple[str, ...]
    gallery: tuple[Impression, ...]
    behaviour: Behaviour | None
    """None without data."""
    curve: Curve | None
    """Of the student's training; None where it was not kept."""
    missing: tuple[str, ...]
    """Why a part of the page is not there, in words."""


def report_run(
    folder: str | Path,
    out: str | Path | None = None,
    *,
    teacher_model: str | None = None,
    student_model: str | None = None,
    trust: Collection[str] = (),
    data_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write the page about a finished run and return its path.

    The finished networks answer once more on the run's test images, if the data is there. Nothing is chosen
    by it.

    Args:
        folder: of the run.
        out: the page; None: report.html in the folder.
        teacher_model: factory to run, for a teacher in your own code.
        student_model: the same for its student; absent, for a copy of the teacher: `teacher_model`.
        trust: names of your own code in the settings of the set that may run.
        data_dir: folder of the data, where it has moved.
        progress: receives what takes long.

    Raises:
        ZskdError: the folder holds no finished run, one of its files is damaged, or its data are in no folder
            and `data_dir` is given.
    """
    folder, progress = Path(folder), progress or Progress()
    found = read_run(
        folder,
        teacher_model=teacher_model,
        student_model=student_model,
        trust=trust,
        data_dir=None if data_dir is None else Path(data_dir),
        progress=progress,
    )
    return write_page("run.html", Path(out or folder / REPORT), report=found)


def read_run(
    folder: Path,
    *,
    teacher_model: str | None,
    student_model: str | None,
    trust: Collection[str],
    data_dir: Path | None,
    progress: Progress,
) -> RunReport:
    """Gather what the page shows; arguments and errors are those of `report_run`."""
    if not (folder / METRICS).is_file():
        raise ZskdError(f"{folder} holds no finished run: name the folder of one, or an experiment")
    data_config = _data_config(folder, data_dir)
    metrics = read_metrics(folder / METRICS)
    arm = metrics.arms[0].arm
    check_model(teacher_model, folder / "teacher", option="--teacher-model")
    check_model(student_model, folder / "students" / arm, option="--student-model")
    teacher, card = load_checkpoint(folder / "teacher", model=teacher_model, option="--teacher-model")
    of_student = read_card(folder / "students" / arm)
    if student_model is None and innermost(of_student.architecture) == innermost(card.architecture):
        student_model = teacher_model  # a copy of the teacher runs the teacher's code
    student, _ = load_checkpoint(folder / "students" / arm, model=student_model, option="--student-model")
    missing: list[str] = []
    images = TransferSet(folder / "sets" / arm) if (folder / "sets" / arm).is_dir() else None
    gallery: tuple[Impression, ...] = ()
    if images is None:
        deleted = arm in metrics.sets
        why = "the set was deleted" if deleted else "a generator made the images while the student learned"
        missing.append(f"There is no gallery: {why}.")
    else:
        gallery = make_gallery(teacher, student, images, _spec(images, trust, missing), progress)
    data = _data_of(data_config, teacher, metrics, missing)
    behaviour = None if data is None else measure_behaviour(teacher, student, data.test, images)
    similarity = class_similarity(teacher.head_weight).tolist() if shows_similarity(teacher) else []
    return RunReport(
        metrics,
        tuple(map(tuple, similarity)),
        teacher.class_names,
        gallery,
        behaviour,
        read_curve(folder / "students" / arm),
        tuple(missing),
    )


def _spec(images: TransferSet, trust: Collection[str], missing: list[str]) -> SetSpec | None:
    """Return how the set was made; None where its images cannot be made again."""
    try:
        return made_spec(images.manifest, trusted=trust)
    except ZskdError as error:
        missing.append(f"There are no filmstrips: {error}.")
        return None


def _data_config(folder: Path, data_dir: Path | None) -> DataConfig:
    """Return the settings of the run's data, with the folder where they are now."""
    # of the data alone: other settings may name code
    kept = read_yaml(str(folder / "recipe.yaml"), RECIPES, "recipe").get("data") or {}
    config = load_recipe(None, {"data": kept}).data
    if data_dir is None:
        return config
    if config.name not in IN_FOLDERS:
        raise ZskdError(
            f"the run in {folder} reads no folder of data (data.name: {config.name}): leave out --data-dir"
        )
    return replace(config, dir=data_dir)


def _data_of(
    config: DataConfig, teacher: Classifier, metrics: RunMetrics, missing: list[str]
) -> Dataset | None:
    """Return the run's data; None where it had none, where they are gone, or others are in their place."""
    if config.name == "none":
        missing.append(
            "Accuracy, confusion, recall and calibration cannot be known without real images. "
            "zskd check STUDENT --teacher TEACHER FOLDER measures some of it on a few pictures of yours."
        )
        return None
    try:
        data = load_data(config, teacher.spec.shape).for_classes(teacher.class_names)
    except ZskdError as error:
        missing.append(f"The run's data cannot be read ({error}): name its folder with --data-dir.")
        return None
    if metrics.sources.data_sha256 not in (None, data.fingerprint()):
        missing.append("The data are not those of the run: name the folder of the same with --data-dir.")
        return None
    return data
