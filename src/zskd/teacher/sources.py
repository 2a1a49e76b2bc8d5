"""The teacher of a run: from a checkpoint, from another file, or trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zskd.config.identity import described, to_values
from zskd.config.recipe import Recipe
from zskd.config.training import DEFAULT_BOX, NetworkConfig, TeacherConfig
from zskd.config.trust import code_hashes
from zskd.core.artefact import Artefact, JsonObject, Sha256
from zskd.core.code import format_call, is_code, without_folders
from zskd.core.device import choose_device
from zskd.core.errors import ZskdError
from zskd.core.files import remove_file, sha256_json
from zskd.core.progress import Progress
from zskd.core.versions import versions
from zskd.data.datasets import Dataset, folder_of_test, load_data
from zskd.data.pictures import hash_pictures
from zskd.models.checkpoint import CARD, Card, Origin, load_checkpoint, save_checkpoint
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import Architecture, build, describe, fresh_weights, own_code
from zskd.teacher.named.facts import check_given_names
from zskd.teacher.named.source import parse_source
from zskd.teacher.opening import open_teacher
from zskd.teacher.training import train_teacher
from zskd.training.state import STATE


def input_spec(config: NetworkConfig) -> InputSpec:
    """Return the input specification of a network to be trained."""
    mean, std, box = config.mean or (0.0,), config.std or (1.0,), config.box or DEFAULT_BOX
    return InputSpec(shape=config.input_shape, mean=mean, std=std, box=box)


def open_given(source: Path, config: NetworkConfig) -> tuple[Classifier, Card]:
    """Open a teacher with what the settings tell of it.

    Raises:
        ZskdError: as `open_teacher` does.
    """
    return open_teacher(
        source,
        model=config.model,
        weights=config.weights,
        shape=config.shape,
        mean=config.mean,
        std=config.std,
        box=config.box,
        class_names=config.class_names,
        head=config.head,
        golden=config.golden,
    )


class SourceHashes(Artefact):
    """Fingerprints of the inputs of a run, which identify them."""

    data_sha256: Sha256 | None = None
    """Of the real images; None without them."""
    teacher_sha256: Sha256 | None = None
    """Of the given teacher; None where it is to be trained."""
    images_sha256: Sha256 | None = None
    """Of the files of `--images`, as the next of `--few`; absent without them."""
    few_sha256: Sha256 | None = None
    code: dict[str, Sha256 | None] | None = None
    """Of the source files of the user's own code in the settings of a run, by its name; absent without such,
    and in runs of earlier versions."""


@dataclass(frozen=True)
class Sources:
    """The inputs of a run, loaded and checked before any work starts."""

    data: Dataset | None
    """Real images; None without them."""
    model: Classifier
    """The given teacher, or the network to be trained."""
    card: Card | None
    """Card of the given teacher; None where it is to be trained."""
    hashes: SourceHashes
    """Fingerprints of both."""


def open_sources(recipe: Recipe, *, test: bool = True) -> Sources:
    """Load the data and the given teacher of a recipe, and check that they fit.

    Args:
        recipe: the settings.
        test: whether test images are read, as for `load_data`.

    Raises:
        ZskdError: there is neither teacher nor data, or one of them is wrong.
    """
    config, data, given = recipe.teacher, None, None
    device = choose_device(recipe.device)
    if config.path is not None:
        given = open_given(config.path, config)
    elif recipe.data.name == "none":
        raise ZskdError("no teacher and no data to train one: give --teacher.path FILE")
    elif config.golden is not None:
        raise ZskdError(
            "--golden checks a teacher from a file, but this one is to be trained: give --teacher.path FILE"
        )
    elif config.weights is not None:
        raise ZskdError(
            "--weights chooses in a teacher's file, but this one is to be trained: give --teacher.path FILE"
        )
    shape = given[0].spec.shape if given else config.input_shape
    hashes: dict[str, Any] = {}
    if recipe.data.name != "none":
        data = load_data(recipe.data, shape, test=test)
    for kind, folder in recipe.picture_folders.items():
        _check_apart(kind, folder, folder_of_test(recipe.data))
        hashes[f"{kind}_sha256"] = hash_pictures(folder)
    if given:
        model, card = given
        hashes["teacher_sha256"] = model.fingerprint()
    else:
        assert data is not None
        model, card = fresh_teacher(recipe, data), None
    if data is not None:
        data = data.for_classes(model.class_names)
        hashes["data_sha256"] = data.fingerprint()
    model.to(device).rewrite = recipe.rewrite
    return Sources(data, model, card, SourceHashes(**hashes))


def with_code(sources: Sources, settings: Any) -> SourceHashes:
    """Return the hashes of sources with those of the user's own code.

    Args:
        sources: of which a given teacher may be such code.
        settings: nested plain values, which may name such code.

    Raises:
        ZskdError: the code cannot be found.
    """
    code = dict(own_code(sources.model.architecture))
    for name, sha256 in code_hashes(settings).items():
        short = without_folders(name)
        code[short if code.get(short, sha256) == sha256 else name] = sha256  # two files may have one name
    return sources.hashes.model_copy(update={"code": code}) if code else sources.hashes


def code_of_teacher(recipe: Recipe, sources: Sources) -> dict[str, str | None]:
    """Return the hashes of the user's own code that a teacher to be trained depends on, by its name.

    Raises:
        ZskdError: the code cannot be found.
    """
    optimiser = {} if recipe.teacher.path else code_hashes(recipe.teacher.optimiser, "optimiser")
    return {**own_code(sources.model.architecture), **optimiser}


def _check_apart(kind: str, pictures: Path, test: Path | None) -> None:
    """Refuse to show a student the images that it is tested on."""
    if test is None:
        return
    shown, tested = pictures.resolve(), test.resolve()
    if shown.is_relative_to(tested) or tested.is_relative_to(shown):
        raise ZskdError(
            f"--{kind} {pictures} has test images of --data-dir: a student that was shown them would be "
            "tested on what it has seen; give other pictures"
        )


def open_network(recipe: Recipe) -> Classifier:
    """Return the given teacher of a recipe, or a network like the one to be trained, with two classes.

    Raises:
        ZskdError: there is no such file or network.
    """
    config = recipe.teacher
    if config.path is not None:
        return open_given(config.path, config)[0]
    architecture = describe(config.network, shape=config.input_shape, classes=2)
    network = fresh_weights(lambda: build(architecture, run_code=True), recipe.teacher_seed)
    return Classifier(network, spec=input_spec(config), head=config.head, copy=False)


def make_teacher(recipe: Recipe, sources: Sources, folder: Path, progress: Progress) -> Classifier:
    """Return the teacher of a recipe, frozen: from `folder` if it exists there, otherwise made and saved.

    Args:
        recipe: the settings.
        sources: its inputs; a network to be trained is trained in place.
        folder: of the checkpoint.
        progress: receives every training step.

    Raises:
        ZskdError: the loss diverges, or the checkpoint cannot be read or written.
    """
    if not (folder / CARD).is_file():
        for line in sources.card.origin.lines() if sources.card else ():
            progress.log(f"teacher: {line}")
        card = sources.card or _train(recipe, sources, folder, progress)
        save_checkpoint(sources.model, card, folder)
    remove_file(folder / STATE)
    return load_teacher(recipe, folder)


def load_teacher(recipe: Recipe, folder: Path) -> Classifier:
    """Return the teacher that `make_teacher` saved in a folder, frozen, on the recipe's device.

    Raises:
        ZskdError: as `load_checkpoint` does.
    """
    teacher, _ = load_checkpoint(folder, model=_named_code(recipe.teacher))
    teacher.freeze().to(choose_device(recipe.device))
    teacher.rewrite = recipe.rewrite
    return teacher


def _named_code(config: TeacherConfig) -> str | None:
    """Return the user's own code that the settings name for the network, which may therefore run."""
    if config.model is not None:
        return config.model if is_code(config.model) else None
    source = parse_source(str(config.path)) if config.path else None
    return format_call(source.name, source.arguments) if source and source.kind == "code" else None


def fresh_teacher(recipe: Recipe, data: Dataset) -> Classifier:
    """Build the untrained teacher of a recipe for the classes of its data.

    Raises:
        ZskdError: unknown architecture, it does not accept such images, or two classes are named alike.
    """
    config = recipe.teacher
    check_given_names(config.class_names or ())
    architecture = _architecture(recipe, data)
    module = fresh_weights(lambda: build(architecture, run_code=True), recipe.teacher_seed)
    names = config.class_names or data.class_names
    made = Classifier(module, spec=input_spec(config), class_names=names, head=config.head, copy=False)
    made.architecture = architecture
    return made


def _architecture(recipe: Recipe, data: Dataset) -> Architecture:
    return describe(recipe.teacher.network, shape=recipe.teacher.input_shape, classes=len(data.class_names))


def _train(recipe: Recipe, sources: Sources, folder: Path, progress: Progress) -> Card:
    """Train the teacher of the sources in place."""
    assert sources.data is not None
    settings = {key: to_values(recipe)[key] for key in ("seed", "data", "teacher")}
    settings["data"].pop("dir")
    settings["teacher"] = described(settings["teacher"])
    del settings["teacher"]["seed"]  # `settings["seed"]` holds it
    del settings["teacher"]["weights"]  # for a teacher from a file
    settings["seed"] = recipe.teacher_seed
    settings["versions"] = versions()
    how: JsonObject = {"device": recipe.device, "rewrite": recipe.rewrite}
    if code := code_of_teacher(recipe, sources):
        how["code"] = {**code}
    train_teacher(
        sources.model,
        sources.data,
        recipe.teacher,
        seed=recipe.teacher_seed,
        state=folder / STATE,
        key=sha256_json(settings | how | sources.hashes.to_json()),
        progress=progress,
    )
    origin = Origin.model_validate({"how": "trained"} | settings)
    return Card(architecture=_architecture(recipe, sources.data), origin=origin)
