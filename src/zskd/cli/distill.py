"""`zskd distill`: train a student."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from zskd.cli.app import app
from zskd.cli.help import examples
from zskd.cli.options import Detail, Machine, Settings, Trust, ready_teacher
from zskd.cli.outputs import new_folder
from zskd.cli.places import Place, local, on_this_machine, output
from zskd.cli.telling import Json, Teller
from zskd.config.distillation import DistillConfig
from zskd.config.groups import MACHINE, OUTPUT, RUN, TEACHER
from zskd.config.names import PresetName, StudentName
from zskd.config.recipe import PassLimit, Recipe
from zskd.core.errors import ZskdError

if TYPE_CHECKING:
    from zskd.core.progress import Progress
    from zskd.core.ranks import Ranks
    from zskd.models.classifier import Classifier
    from zskd.transfer_set.dataset import TransferSet


@app.command(
    group_parameters=RUN,
    help_epilogue=examples(
        "zskd distill teacher/ set/ --student half --distill.steps 6000 --out student/",
        "zskd distill teacher/ set/ --student budget:200k --out student/",
        "zskd distill teacher/ --preset dfad --out student/",
        "zskd distill teacher/ set/ --budget 3 --out student/",
        "zskd distill teacher/ set/ --images photos/ --out student/",
        "zskd distill teacher/ set/ --images pictures.parquet --out student/",
    ),
)
def distill(
    teacher: Place,
    transfer_set: Place | None = None,
    /,
    *,
    out: Annotated[Place, Parameter(group=OUTPUT)],
    recipe: str | None = None,
    preset: Annotated[PresetName, Parameter(show_default=False)] = "default",
    student: Annotated[StudentName, Parameter(show_default=False)] = "half",
    seed: int = 0,
    threads: Annotated[int, Parameter(group=MACHINE)] = 0,
    distill: DistillConfig = DistillConfig(),  # noqa: B008
    budget: float | None = None,
    passes: PassLimit = None,
    images: Path | None = None,
    few: Path | None = None,
    model: Annotated[str | None, Parameter(group=TEACHER)] = None,
    estimate: bool = True,
    machine: Machine = Machine(),  # noqa: B008
    trust: Trust = Trust(),  # noqa: B008
    detail: Detail = Detail(),  # noqa: B008
    json: Annotated[Json, Parameter(group=OUTPUT)] = False,
) -> None:
    """Train a student on a transfer set or against a generator, or resume an interrupted training.

    Args:
        teacher: Checkpoint folder, or another source that tells its network.
        transfer_set: Folder of the transfer set; absent where a generator makes all images.
        out: Folder of the student. All three may be addresses (s3://bucket/set).
        recipe: Recipe with the settings.
        preset: Base of the settings; absent: chosen for the teacher.
        student: half, narrow:0.5, budget:200k, auto, a built-in network, or file.py:factory. Absent: chosen
            for the teacher.
        seed: Seed of weights, order and augmentation.
        threads: Threads; 0: half of the cores. The other half prepares the batches. Beside a generator, an
            image bank or replay: all.
        distill: Training of the student.
        budget: Minutes for the student; they set the number of steps.
        passes: Teacher passes for the student, 200k; they set the number of steps on any machine.
        images: Unlabelled pictures to train on as well: a folder, Parquet or WebDataset files.
        few: Folder of a few real pictures, up to 20 of each class, shown often and changed strongly.
        model: Factory to run, for a teacher in your own code.
        estimate: Estimate the agreement of student and teacher on real images at the end.
        machine: This machine.
        trust: Code that the recipe file may run.
        detail: What is printed.
        json: Print the result as JSON.
    """
    from zskd.config.identity import identity
    from zskd.core.device import use_threads
    from zskd.core.files import sha256_json
    from zskd.core.progress import Progress
    from zskd.core.ranks import Ranks
    from zskd.distillation.build import build_student, check_alone
    from zskd.distillation.distill import check_images
    from zskd.distillation.invariance import ASKED
    from zskd.distillation.sources import check_generator
    from zskd.evaluation.gain import gain_table, measure_gain
    from zskd.evaluation.sanity import log_findings
    from zskd.evaluation.sizes import log_sizes
    from zskd.models.checkpoint import read_card
    from zskd.run.arms import execution, student_spec
    from zskd.run.budget import BUDGET, TIMED
    from zskd.training.curve import CURVE
    from zskd.transfer_set.dataset import TransferSet

    settings = Settings(
        recipe,
        machine,
        trust=trust,
        preset=preset,
        student=student,
        seed=seed,
        threads=threads,
        distill=distill,
        budget=budget,
        passes=passes,
        images=images,
        few=few,
    )
    ranks = Ranks.joined()
    progress = detail.progress() if ranks.first else Progress()
    _check_ranks(settings.alone(), out, ranks)
    classifier = ready_teacher(local(teacher, progress), model, settings.alone())
    full = replace(settings.of(classifier, progress), engine="local")  # one student is trained here
    loaded = None if transfer_set is None else TransferSet(local(transfer_set, progress))
    check_alone(loaded, full.distill)
    check_images(loaded, full.distill)
    check_generator(classifier, full.distill)
    how = execution(full)
    key = sha256_json(
        identity(full)
        | {"teacher": classifier.fingerprint(), "set": loaded and loaded.fingerprint()}
        | {"images": str(images), "few": str(few)}
    )
    written = [ASKED, CURVE, *(["pictures"] if images or few else [])]
    written += [] if full.budget is None else [BUDGET, TIMED]
    with (
        output(out, key, partial(new_folder, what="student", also=written), progress)
        if ranks.first
        else nullcontext(Path(out)) as folder,
        use_threads(how.threads_of_each(ranks.here), chosen=how.threads > 0),
    ):
        if ranks.first:
            log_findings(classifier, progress)
            log_sizes([full.student], classifier, progress)
        pictures = _picture_sets(full, classifier, folder, ranks, progress)
        full = _within_budget(full, classifier, loaded, pictures, folder, progress)
        made = build_student(
            classifier,
            student_spec(full),
            loaded,
            folder,
            helper=how.has_room_for_helper(ranks.here, ranks.here),
            pictures=pictures,
            ranks=ranks,
            progress=progress,
        )
        if not ranks.first:
            return
        card = read_card(folder)
    tell = Teller(json)
    tell.line(f"student in {out}: {made.parameters_count:,} parameters")
    gain = measure_gain(classifier, made)
    tell.table(gain_table(["teacher", "student"], [gain.teacher, gain.student]))
    document = {"folder": out, "parameters": made.parameters_count, "cost": gain.to_json()}
    if estimate:
        estimated = tell.estimate(classifier, made, card.origin)
        document["estimated_agreement"] = estimated and estimated.record().to_json()
    tell.document(document)


def _check_ranks(recipe: Recipe, out: Place, ranks: Ranks) -> None:
    """Refuse settings that are of one process.

    Raises:
        ZskdError: there are several, and they cannot follow them.
    """
    if not ranks.several:
        return
    if not on_this_machine(out):
        raise ZskdError(f"--out {out}: several processes write to a folder: give one, then zskd.upload it")
    if recipe.budget is not None:
        raise ZskdError("--budget measures one process: give --distill.steps under torchrun")
    if ":" in recipe.device:
        raise ZskdError(
            f"--device {recipe.device} is one GPU: give --device cuda, and each process takes its own"
        )


def _picture_sets(
    recipe: Recipe, teacher: Classifier, out: Path, ranks: Ranks, progress: Progress
) -> dict[str, TransferSet]:
    """Return the sets of the user's pictures; the first rank makes them."""
    from zskd.run.pictures import picture_sets
    from zskd.transfer_set.dataset import TransferSet

    made = picture_sets(recipe, teacher, out, progress) if ranks.first else {}
    folders = ranks.once(lambda: {kind: one.folder for kind, one in made.items()})
    return made if ranks.first else {kind: TransferSet(folder) for kind, folder in folders.items()}


def _within_budget(
    recipe: Recipe,
    teacher: Classifier,
    transfer_set: TransferSet | None,
    pictures: Mapping[str, TransferSet],
    out: Path,
    progress: Progress,
) -> Recipe:
    """Return the recipe with the number of steps that minutes or passes allow; as it is without a limit."""
    from zskd.config.identity import identity
    from zskd.core.files import sha256_json
    from zskd.core.passes import teacher_passes
    from zskd.run.arms import student_spec
    from zskd.run.budget import Budget
    from zskd.run.passes import plan_passes, with_steps

    if recipe.budget is not None:
        identified = identity(recipe) | {"teacher": teacher.fingerprint()}
        identified |= {kind: one.fingerprint() for kind, one in pictures.items()}
        key = sha256_json(identified | {"set": transfer_set and transfer_set.fingerprint()})
        spending = Budget(recipe, teacher, out, key=key, progress=progress)
        specs, sets = {"student": student_spec(recipe)}, {"student": transfer_set}
        recipe = spending.fit_steps(recipe, specs, sets, pictures)
    if recipe.passes is not None:
        spent = sum(teacher_passes(one.manifest.passes or {}) for one in pictures.values())
        plan = plan_passes(recipe, teacher, [], [recipe.distill], pictures=spent)
        progress.log(f"passes: {plan.words}")
        recipe = with_steps(recipe, plan.steps)
    return recipe
