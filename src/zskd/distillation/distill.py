"""Distillation: the student is trained to output the teacher's logits on the images of a transfer set, of an
adversarial generator, or of both.

The stored targets are never used: the teacher computes logits for every augmented batch (ZSKD, section 3.3;
Beyer et al. 2022, arXiv:2106.05237, call it consistent teaching).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from zskd.config.distillation import DistillConfig
from zskd.config.identity import plain
from zskd.config.trust import code_hashes
from zskd.core.artefact import write_artefact
from zskd.core.device import read_every, warn_if_slow
from zskd.core.errors import ZskdError
from zskd.core.files import sha256_json
from zskd.core.memory import available_memory
from zskd.core.passes import counting
from zskd.core.progress import Progress, readable_bytes
from zskd.core.ranks import ALONE, Ranks
from zskd.core.rng import torch_stream
from zskd.core.versions import versions
from zskd.distillation.architecture import copy_student
from zskd.distillation.batch_norm import Statistics
from zskd.distillation.batches import DistillationBatches
from zskd.distillation.compiling import Compiling
from zskd.distillation.division import check_division
from zskd.distillation.features.paired import PairedFeatures, pair_features
from zskd.distillation.invariance import settle_changes
from zskd.distillation.objective import Objective
from zskd.distillation.order import in_windows, order_of
from zskd.distillation.room import check_memory, reading
from zskd.models.classifier import Classifier
from zskd.models.modes import check_learns, frozen
from zskd.training.loop import fit
from zskd.transfer_set.dataset import TransferSet

_FIRST_IMAGES = 256
"""Images that losses of features look at before the first step."""


def distill(
    teacher: Classifier,
    student: nn.Module,
    transfer_set: TransferSet | None,
    config: DistillConfig | None = None,
    *,
    seed: int = 0,
    state: str | Path | None = None,
    begins_as: str | None = None,
    code: Mapping[str, str | None] | None = None,
    curve: str | Path | None = None,
    helper: bool = False,
    pictures: Mapping[str, TransferSet] | None = None,
    ranks: Ranks = ALONE,
    progress: Progress | None = None,
) -> Classifier:
    """Train a copy of a student and return it as a classifier of the teacher's inputs.

    Args:
        teacher: receives every batch in evaluation mode; left as it is. The copy is on its device.
        student: network that maps normalised images (N, C, H, W) to logits (N, K); left as it is. The copy
            starts from its weights; `initialise_from_teacher` returns better ones than random for a narrower
            copy of the teacher.
        transfer_set: images to train on; None where a generator makes all of them.
        config: losses, augmentation, schedule, statistics of batch-norm and generator.
        seed: of order and augmentation.
        state: file that the training is saved to and resumed from; None: it is not saved. It stays when the
            training is done: delete it when the student is kept.
        begins_as: identifies the student's first weights in `state`, where they are made again to resume and
            may round otherwise; None: a hash of their values.
        code: hashes of the code that builds the student, by its name: with other code, `state` begins anew.
        curve: file that the curve of the loss is written to when the training is done; None: it is not kept.
        helper: whether a second process makes the batches, teacher's logits included, while the student is
            trained: the same student in less time where a core is free. A script that sets it needs
            `if __name__ == "__main__":`.
        pictures: sets of pictures of the user's, as `build_picture_set` makes them: "images" to be shown with
            the share `config.pictures.share`, and "few" with `few_share` and strong changes.
        ranks: processes that train the student together, each on a part of every batch. All call this
            function with the same arguments and return the same student; the first writes the files.
        progress: reports every step.

    Returns:
        The trained copy, frozen. To train it further, give `student.module.requires_grad_()`. To save that of
        a `network = zskd.student(…)`, give `Card(architecture=network.architecture)` to `save_checkpoint`;
        `build_student` does all of this.

    Raises:
        ZskdError: images, classes or inputs do not fit, no features of the networks can be paired, all
            weights of the student are frozen, a batch does not fit into the memory, or the loss diverges;
            or several ranks cannot divide such a training.
    """
    config = config or DistillConfig()
    check_division(config, ranks)
    check_images(transfer_set, config, pictures)
    if transfer_set is not None:
        _check_set(teacher, transfer_set)
    for one in (pictures or {}).values():
        _check_set(teacher, one)
    progress, transfer_set = progress or Progress(), in_windows(transfer_set, config)
    warn_if_slow("distill", config.precision, teacher.device, progress)
    config = ranks.once(
        partial(settle_changes, teacher, transfer_set, config, None, seed=seed, progress=progress)
    )
    classifier = copy_student(teacher, student)
    ranks.copy_first(classifier.module)
    check_learns(classifier.module, "student")
    features = pair_features(teacher, classifier, config.features, seed=seed)
    check_memory(classifier, config, features, ranks)
    if transfer_set is not None:
        config = choose_reading(transfer_set, config, progress, readers=ranks.here)
    images = config.batch_size if transfer_set is None else len(transfer_set)
    batches = DistillationBatches(teacher, transfer_set, config, features, pictures, ranks=ranks)
    total = config.total_steps(images)
    companions = batches.attach_student(classifier, seed=seed, steps=total)
    helper = helper and batches.fits_helper()
    progress.detail(
        f"distill: {torch.get_num_threads()} threads on {teacher.device}"
        f"{', and as many in a helper process' if helper else ''}"
        f"{f', in each of {ranks.world} processes' if ranks.several else ''}; "
        f"teacher: {teacher.how_run()}; student: {classifier.how_run()}"
    )
    for option in config.shares_of_nothing(pictures or ()):
        progress.log(f"distill: {option} gives no image of a batch of {config.batch_size}: raise one of them")
    if features is not None:
        if features.begins:
            # what it finds is rounded otherwise with another number of threads
            companions = {**companions, "features": (features.losses, None)}
            first = next(batches.images_for_statistics(seed))[:_FIRST_IMAGES]
            with counting("initialisation", teacher=teacher):
                features.begin(teacher, classifier, first, torch_stream(seed, "features", 0))
            ranks.copy_first(features.losses)  # their machines may round otherwise
        progress.log(f"distill: {config.features.loss} compares {', '.join(map(str, features.pairs))}")
    elif config.features.weight:
        progress.log(
            "distill: no stage of the student has the channels of the teacher's: only logits are compared"
        )
    # sources that learn from a batch read it at once: from then on the loss can be read without waiting
    reads = 1 if batches.learns else read_every(teacher.device)
    learn = batches.learn if batches.learns else None
    objective = Objective(classifier, config, features, learn, remember=reads)
    statistics = Statistics(
        classifier, partial(batches.images_for_statistics, seed), config.batch_norm, steps=total, ranks=ranks
    )
    compiling = Compiling(
        [classifier] if helper or not config.teacher_weight else [teacher, classifier],
        len(range(config.batch_size)[ranks.part(config.batch_size)]),
        steps=total,
        progress=progress,
        reads_layers=features is not None,
    )

    def before_step(step: int) -> None:
        statistics.before_step(step)
        if config.compile == "auto":
            compiling.before_step(step)

    key = ""
    if state:
        key = _key(
            teacher, classifier, begins_as, code or {}, transfer_set, pictures or {}, config, features, seed
        )
    # the teacher that a helper receives is frozen too, because it is pickled in here
    with frozen(teacher), counting("distillation", teacher=teacher), compiling, _several_images():
        fell = fit(
            classifier.module,
            batches,
            objective.loss,
            config,
            images=images,
            seed=seed,
            section="distill",
            helper=helper,
            state=Path(state) if state else None,
            key=key,
            companions=companions,
            beside=None if features is None else features.losses,
            before_step=before_step,
            watch=objective.watch if config.teacher_weight else None,
            explain=objective.explain,
            read_every=reads,
            ranks=ranks,
            order=order_of(transfer_set, config, seed, total),
            progress=progress,
        )
        statistics.at_end()
    if curve is not None and ranks.first:
        write_artefact(Path(curve), fell)
    return classifier.freeze()


@contextmanager
def _several_images() -> Iterator[None]:
    """Tell in a line that batch-norm cannot take statistics of one value for each channel."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ZskdError(
            "the student's batch-norm takes no statistics of a single value: give --distill.batch-size 2 or "
            "more, and shares of it that are not one image"
        ) from error


def choose_reading(
    transfer_set: TransferSet, config: DistillConfig, progress: Progress, *, readers: int = 1
) -> DistillConfig:
    """Return the settings with "auto" replaced by where the images are read from.

    Args:
        transfer_set: images to train on.
        config: settings; an `images` other than "auto" does not change.
        progress: logs the choice.
        readers: processes that each read a set of this size at the same time.

    Raises:
        ZskdError: `images` is "memory" and they do not fit.
    """
    need, free = readers * transfer_set.image_bytes, available_memory()
    if config.images == "memory" and need > free:
        raise ZskdError(
            f"{readable_bytes(need)} of images do not fit into the {readable_bytes(free)} of free memory: "
            "give --distill.images mapped"
        )
    if config.images == "auto":
        config = replace(config, images=reading(need, free))
        how = "copied into memory" if config.images == "memory" else "read from mapped files at each step"
        progress.log(
            f"distill: {len(transfer_set):,} images of {readable_bytes(transfer_set.image_bytes)} are {how} "
            f"({readable_bytes(free)} are free)"
        )
    return config


def check_images(
    transfer_set: TransferSet | None,
    config: DistillConfig,
    pictures: Mapping[str, TransferSet] | None = None,
) -> None:
    """Refuse a training without the images that it needs, before anything is made for it.

    Args:
        transfer_set: images to train on, if any.
        config: settings.
        pictures: of the user's, as for `distill`.

    Raises:
        ZskdError: there is no transfer set and one is needed, or pictures of another kind than "images" and
            "few".
    """
    for kind in pictures or {}:
        if kind not in config.pictures.shares:
            raise ZskdError(f"pictures: {kind!r} is no kind: give {' or '.join(config.pictures.shares)}")
    if transfer_set is not None:
        return
    if config.needs_set:
        raise ZskdError(
            "there is no transfer set to train on: name one (zskd synthesize makes it), or give --preset dfad"
        )
    if pictures:
        raise ZskdError("pictures take a part of a transfer set's place: name one, or leave the pictures out")


def _check_set(teacher: Classifier, transfer_set: TransferSet) -> None:
    transfer_set.check_shape(teacher.spec.shape)
    if transfer_set.manifest.teacher_sha256 != teacher.fingerprint():
        raise ZskdError(f"{transfer_set.folder} was made with another teacher: make a set with this one")


def _key(
    teacher: Classifier,
    student: Classifier,
    begins_as: str | None,
    code: Mapping[str, str | None],
    transfer_set: TransferSet | None,
    pictures: Mapping[str, TransferSet],
    config: DistillConfig,
    features: PairedFeatures | None,
    seed: int,
) -> str:
    """Return a hash of everything that a saved state must have in common with this training to be resumed."""
    code = code_hashes(plain(config)) | dict(code)
    return sha256_json(
        {
            "teacher": teacher.fingerprint(),
            "transfer_set": transfer_set and transfer_set.fingerprint(),
            "pictures": {kind: one.fingerprint() for kind, one in pictures.items()},
            "student": [[name, list(value.shape)] for name, value in student.module.state_dict().items()],
            "begins_as": begins_as or student.fingerprint(),
            "config": plain(replace(config, images="auto")),
            "seed": int(seed),
            "versions": versions(),
            "device": teacher.device.type,
            "rewrite": teacher.rewrite,
        }
        | ({"code": code} if code else {})
        | ({"fitted": "saved"} if features is not None and features.begins else {})
    )
