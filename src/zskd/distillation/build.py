"""One student in a folder of its own: trained, resumed or loaded."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import nn

from zskd.config.distillation import DistillConfig
from zskd.config.identity import former_keys, plain
from zskd.config.trust import code_hashes
from zskd.core.artefact import JsonObject, JsonValue
from zskd.core.errors import ZskdError
from zskd.core.files import make_folder, remove_file
from zskd.core.passes import Passes, counting
from zskd.core.progress import Progress
from zskd.core.ranks import ALONE, Ranks
from zskd.distillation.architecture import describe_student, fresh_student
from zskd.distillation.distill import check_images, distill
from zskd.distillation.division import check_division
from zskd.distillation.initialisation.from_teacher import initialise_from_teacher
from zskd.distillation.invariance import ASKED, settle_changes
from zskd.distillation.order import in_windows
from zskd.distillation.sources import check_generator
from zskd.distillation.spec import StudentSpec
from zskd.models.checkpoint import CARD, Card, Origin, load_checkpoint, read_card, save_checkpoint
from zskd.models.classifier import Classifier
from zskd.models.factory import Architecture, Factory, Layers, Narrowed, innermost
from zskd.training.curve import CURVE
from zskd.training.state import STATE
from zskd.transfer_set.dataset import TransferSet

_ABSENT: JsonObject = {"attention": 0.0, "features": None}
"""Settings of which cards have one at most, where they are absent."""


def build_student(
    teacher: Classifier,
    spec: StudentSpec,
    transfer_set: TransferSet | None,
    folder: str | Path,
    *,
    helper: bool = False,
    pictures: Mapping[str, TransferSet] | None = None,
    control: bool = False,
    ranks: Ranks = ALONE,
    progress: Progress | None = None,
) -> Classifier:
    """Train a student in `folder`, or resume its training, and return it frozen; a finished one is loaded.

    Args:
        teacher: frozen; on the device that the student is trained on.
        spec: student, seed and settings.
        transfer_set: of this teacher; None where a generator makes all images.
        folder: of this student alone.
        helper: whether a second process makes the batches, as for `distill`.
        pictures: of the user's, as for `distill`.
        control: whether the set takes the place of a generator that makes all images, to compare with it.
        ranks: as for `distill`; they share the folder.
        progress: reports every step.

    Raises:
        ZskdError: unknown architecture, one that does not fit the teacher, a set of another teacher, none
            where one is needed or one where a generator makes all images, the loss diverges, the folder holds
            another student, or several ranks cannot divide such a training.
    """
    folder, progress = Path(folder), progress or Progress()
    check_images(transfer_set, spec.distill, pictures)
    if not control:
        check_alone(transfer_set, spec.distill)
    pictures = {kind: one for kind, one in (pictures or {}).items() if spec.distill.pictures.shares[kind]}
    if (folder / CARD).is_file():
        _check_finished(folder, teacher, spec, transfer_set, pictures)
        remove_file(folder / STATE)  # of a training killed after its last step
        factory = spec.factory or _code_of(teacher)  # a copy of the teacher runs the teacher's
        student = load_checkpoint(folder, model=factory)[0].freeze().to(teacher.device)
        student.rewrite = teacher.rewrite
        return student
    transfer_set = in_windows(transfer_set, spec.distill)
    config = spec.trained_with(images=transfer_set is not None)
    check_division(config, ranks)
    check_generator(teacher, config)
    architecture = describe_student(spec.student, teacher)
    network = fresh_student(architecture, teacher, spec.seed).module
    make_folder(folder)
    with counting(teacher=teacher) as tally:
        asked = partial(settle_changes, teacher, transfer_set, config, folder / ASKED)
        config = ranks.once(partial(asked, seed=spec.seed, progress=progress))
        from_teacher = False
        if ranks.first:  # the others receive its weights
            network, from_teacher = _initialised(
                teacher, network, transfer_set, config, seed=spec.seed, progress=progress
            )
        student = distill(
            teacher,
            network,
            transfer_set,
            config,
            seed=spec.seed,
            state=folder / STATE,
            begins_as=spec.student,
            code=code_hashes(spec.student, "student"),
            curve=folder / CURVE,
            helper=helper,
            pictures=pictures,
            ranks=ranks,
            progress=progress,
        )
    origin = Origin(
        how="distilled",
        teacher_sha256=teacher.fingerprint(),
        transfer_set_sha256=None if transfer_set is None else transfer_set.fingerprint(),
        transfer_set_images=None if transfer_set is None else len(transfer_set),
        method=config.generator.method if transfer_set is None else transfer_set.manifest.method,
        seed=spec.seed,
        inherited=from_teacher,
        distill=_settings(spec.distill),
        passes=tally.passes(),
        threads=torch.get_num_threads(),
        device=teacher.device.type,
    )
    if pictures:
        fingerprints = {kind: one.fingerprint() for kind, one in pictures.items()}
        origin = origin.model_copy(update={"pictures_sha256": fingerprints})
    if code := _code(spec):
        origin = origin.model_copy(update={"code": code})
    if ranks.several:
        origin = origin.model_copy(update={"ranks": ranks.world})
    if ranks.first:
        save_checkpoint(student, Card(architecture=architecture, origin=origin), folder)
        remove_file(folder / STATE)
    ranks.wait()
    return student


def check_alone(transfer_set: TransferSet | None, config: DistillConfig) -> None:
    """Refuse a set beside a generator that makes all images.

    Raises:
        ZskdError: there are both.
    """
    if transfer_set is not None and not config.needs_set:
        raise ZskdError(
            "a generator makes all images of this student: leave the transfer set out, or give "
            "--distill.generator.share below 1"
        )


def _check_finished(
    folder: Path,
    teacher: Classifier,
    spec: StudentSpec,
    transfer_set: TransferSet | None,
    pictures: Mapping[str, TransferSet],
) -> None:
    """Refuse a finished student that is not the one that is asked for.

    Of a card of an older version, what it has is compared.

    Raises:
        ZskdError: its card tells another one, or is damaged.
    """
    card = read_card(folder)
    origin, known = card.origin, card.origin.model_fields_set
    of_set = None if transfer_set is None else transfer_set.fingerprint()
    of_pictures = {kind: one.fingerprint() for kind, one in pictures.items()}
    same = {
        "teacher": origin.teacher_sha256 in (None, teacher.fingerprint()),
        "transfer set": "transfer_set_sha256" not in known or origin.transfer_set_sha256 == of_set,
        "set of pictures": (origin.pictures_sha256 or {}) == of_pictures,
        "seed": origin.seed in (None, spec.seed),
        "version of your own code": _same_code(origin.code, _code(spec)),
        "training": not origin.distill or _agree(_ABSENT | origin.distill, _ABSENT | _settings(spec.distill)),
    }
    other = next((what for what, holds in same.items() if not holds), None)
    told = _told(card.architecture)
    if other is None and told != spec.student and told != _told(describe_student(spec.student, teacher)):
        other = "architecture"
    if other is not None:
        raise ZskdError(f"{folder} holds a student of another {other}: choose another folder")


def _agree(kept: JsonValue, asked: JsonValue) -> bool:
    """Return whether two nested values are the same where both have something.

    Settings of a method are compared as a whole: those that nobody gave are absent.
    """
    if isinstance(kept, dict) and isinstance(asked, dict):
        return all(
            kept[key] == asked[key] if key == "method_settings" else _agree(kept[key], asked[key])
            for key in kept.keys() & asked.keys()
        )
    return kept == asked


def _code_of(teacher: Classifier) -> str | None:
    """Return the user's own code that built a teacher; None for another network."""
    of = None if teacher.architecture is None else innermost(teacher.architecture)
    return of.factory if isinstance(of, Factory) else None


def _code(spec: StudentSpec) -> dict[str, str | None]:
    """Return the hashes of the user's own code that a student depends on."""
    return code_hashes(plain(spec.distill)) | code_hashes(spec.student, "student")


def _same_code(kept: Mapping[str, str | None] | None, now: Mapping[str, str | None]) -> bool:
    """Return whether code is unchanged, wherever it lies; so is that of which nothing was kept."""
    return kept is None or {*kept.values()} == {*now.values()}


def _told(architecture: Architecture) -> object:
    """Return what a student's name tells of its architecture: not what belongs to its teacher, nor where code
    of the user's own is."""
    if isinstance(architecture, Factory):
        return Factory
    if isinstance(architecture, Layers):
        return architecture
    return architecture.student if isinstance(architecture, Narrowed) else architecture.title


def _initialised(
    teacher: Classifier,
    network: nn.Module,
    transfer_set: TransferSet | None,
    config: DistillConfig,
    *,
    seed: int,
    progress: Progress,
) -> tuple[nn.Module, bool]:
    """Return the network that a training begins with, and whether its weights are from the teacher."""
    if config.start != "teacher":
        return network, False
    assert transfer_set is not None, "without a transfer set, the settings initialise at random"
    found = initialise_from_teacher(
        teacher, network, transfer_set, config.augment, seed=seed, training=config, progress=progress
    )
    return found.student, found.from_teacher


def _settings(config: DistillConfig) -> JsonObject:
    """Return the settings that a student's card records: all but where the images were read from."""
    return {key: value for key, value in former_keys(plain(config), "distill").items() if key != "images"}


def passes_of(folder: Path) -> Passes | None:
    """Return the passes until a finished student was trained, by stage; None if an older version made it.

    Args:
        folder: of the student.

    Raises:
        ZskdError: its card is missing or damaged.
    """
    return read_card(folder).origin.passes


def generated_images(config: DistillConfig) -> int:
    """Return how many images a generator makes in a training without a transfer set."""
    steps, generator = config.total_steps(config.batch_size), config.generator
    batches = -(-steps // (generator.student_steps if generator.same else 1))
    # of each batch but the first, some are of its pool
    again = min(round(generator.replay * config.batch_size), generator.pool)
    return batches * config.batch_size - (batches - 1) * again
