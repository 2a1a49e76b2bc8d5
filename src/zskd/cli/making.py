"""The verbs that make something: teachers, transfer sets, students, and whole runs."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from zskd.cli import app, examples
from zskd.cli.output import Flag, Verbose, must_be_new, say, say_estimate
from zskd.cli.settings import ready_teacher, resolve
from zskd.config import Data, Distill, Recipe, Synthesis, Targets, Teacher
from zskd.errors import ZskdError
from zskd.progress import default_progress

Method = Literal["zskd", "soft_targeted", "class_impressions", "noise"]

teacher_app = App(name="teacher", help="Train a teacher, or import one from elsewhere.", help_epilogue="")
app.command(teacher_app)


@teacher_app.command(
    name="train",
    help_epilogue=examples(
        "zskd teacher train --data.name mnist --data-dir data --out teacher/",
    ),
)
def train(
    *,
    out: Path,
    recipe: str | None = None,
    data: Data = Data(),  # noqa: B008
    teacher: Teacher = Teacher(),  # noqa: B008
    seed: int = 0,
    threads: int = 0,
    quiet: Flag = False,
) -> None:
    """Train a teacher on real images; the weights of the last step are kept.

    Args:
        out: Folder of the checkpoint.
        recipe: Recipe to take settings from.
        data: Real images.
        teacher: Architecture and schedule.
        seed: Seed of weights and order.
        threads: Threads; 0 for one per core.
        quiet: Print the result only.
    """
    from zskd.evaluate import accuracy
    from zskd.files import folder_lock
    from zskd.machine import use_threads
    from zskd.teachers import make_teacher, open_sources

    full = resolve(recipe, data=data, teacher=teacher, seed=seed, threads=threads)
    if full.teacher.path is not None:
        raise ZskdError("this trains a teacher; one from a file is read with: zskd teacher import FILE")
    must_be_new(out)
    with folder_lock(out), use_threads(full.threads):
        sources = open_sources(full)
        made = make_teacher(full, sources, out, default_progress(quiet))
    if sources.data is not None and len(sources.data.validation):
        say(f"validation accuracy {accuracy(made, sources.data.validation)}")
    say(f"teacher in {out}")


@teacher_app.command(
    name="import",
    help_epilogue=examples(
        "zskd teacher import Lenet5.mat --out teacher/",
        "zskd teacher import net.pt --model my_net.py:MyNet --shape 3 32 32 --golden g.npz --out teacher/",
    ),
)
def import_(
    file: Path,
    /,
    *,
    out: Path,
    teacher: Teacher = Teacher(),  # noqa: B008
) -> None:
    """Import a teacher: .safetensors, a plain state_dict (.pt, .pth), or the reproduction's .mat.

    Nothing in the file is run. Golden pairs are the only check of mean and standard deviation.

    Args:
        file: The weights.
        out: Folder of the checkpoint.
        teacher: Architecture and input.
    """
    from zskd.checkpoint import save_checkpoint
    from zskd.teachers import open_teacher

    if file.is_dir():
        raise ZskdError(f"{file} is a folder: name a .safetensors, .pt or .mat file")
    made, card = open_teacher(file, teacher)
    must_be_new(out)
    save_checkpoint(out, made, card)
    checked = "golden pairs agree" if card.golden else "not checked against golden pairs"
    say(f"teacher in {out}: {made.parameters_count:,} parameters, {made.classes} classes, {checked}")


@app.command(
    help_epilogue=examples(
        "zskd synthesize teacher/ --count 24000 --out set/",
        "zskd synthesize teacher/ --count 24000 --method noise --out noise/",
    )
)
def synthesize(
    teacher: Path,
    /,
    *,
    out: Path,
    recipe: str | None = None,
    preset: str = "default",
    method: Method = "zskd",
    count: int | None = None,
    rate: float | None = None,
    seed: int = 0,
    targets: Targets = Targets(),  # noqa: B008
    synthesis: Synthesis = Synthesis(),  # noqa: B008
    data: Data = Data(),  # noqa: B008
    model: str | None = None,
    workers: int = 0,
    device: str = "auto",
    rewrite: bool = True,
    quiet: Flag = False,
    verbose: Verbose = False,
) -> None:
    """Make a transfer set, or go on with one that was interrupted.

    Args:
        teacher: Checkpoint folder.
        out: Folder of the set.
        recipe: Recipe to take settings from.
        preset: default, first, paper, release, reproduction, dfad or zskt.
        method: How images are made.
        count: Images in the set.
        rate: The same as a percentage of the training set of --data.name.
        seed: Seed of everything random.
        targets: What the teacher is to answer.
        synthesis: How images are made.
        data: Training set that --rate is a percentage of.
        model: Factory to run, for a network of your own code.
        workers: Processes that make shards side by side; 0 for one per core.
        device: auto for a GPU when there is one, cpu, cuda, cuda:1.
        rewrite: Run an equivalent network that is cheaper.
        quiet: Print the result only.
        verbose: Print what was chosen for this machine.
    """
    from zskd.files import folder_lock
    from zskd.pipeline import set_size
    from zskd.synthesis import SetSpec, build_transfer_set

    full = resolve(
        recipe,
        preset=preset,
        method=method,
        count=count,
        rate=rate,
        seed=seed,
        targets=targets,
        synthesis=synthesis,
        data=data,
        workers=workers,
        device=device,
        rewrite=rewrite,
    )
    classifier = ready_teacher(teacher, model, full)
    spec = SetSpec(
        method=full.method,
        count=set_size(full, None),
        seed=full.seed,
        targets=full.targets,
        synthesis=full.synthesis,
    )
    with folder_lock(out):
        made = build_transfer_set(
            classifier, spec, out, workers=full.workers, progress=default_progress(quiet, verbose)
        )
    facts = made.manifest
    say(
        f"{len(made):,} images in {out}: mean KL {facts['mean_kl']:.4f}, "
        f"{100 * facts['anchor_match']:.1f} % of their class; "
        f"{facts['missed']:,} missed their target, {facts['dropped']:,} of them are dropped"
    )


@app.command(
    help_epilogue=examples(
        "zskd distill teacher/ set/ --student half --distill.steps 6000 --out student/",
        "zskd distill teacher/ --preset dfad --out student/",
        "zskd distill teacher/ set/ --budget 3 --out student/",
    )
)
def distill(
    teacher: Path,
    transfer_set: Path | None = None,
    /,
    *,
    out: Path,
    recipe: str | None = None,
    preset: str = "default",
    student: str = "half",
    seed: int = 0,
    threads: int = 0,
    distill: Distill = Distill(),  # noqa: B008
    budget: float | None = None,
    model: str | None = None,
    workers: int = 0,
    device: str = "auto",
    rewrite: bool = True,
    estimate: bool = True,
    quiet: Flag = False,
    verbose: Verbose = False,
) -> None:
    """Train a student on a transfer set or against a generator, or go on where that was interrupted.

    Args:
        teacher: Checkpoint folder.
        transfer_set: Folder of the set; none with a preset whose generator makes all images.
        out: Folder of the student.
        recipe: Recipe to take settings from.
        preset: default, first, paper, release, reproduction, dfad or zskt.
        student: half, a built-in name, or package.module:factory.
        seed: Seed of weights, order and augmentation.
        threads: Threads; 0 for half of the cores, the other half makes the batches ready.
        distill: How the student learns.
        budget: Minutes for the student; its steps are as many as fit.
        model: Factory to run, for a teacher of your own code.
        workers: 1 for no second process that makes the batches ready.
        device: auto for a GPU when there is one, cpu, cuda, cuda:1.
        rewrite: Run equivalent networks that are cheaper.
        estimate: Estimate in the end how often the student agrees with its teacher on real images.
        quiet: Print the result only.
        verbose: Print what was chosen for this machine.
    """
    from zskd.budget import Budget
    from zskd.files import folder_lock, sha256_json
    from zskd.machine import use_threads
    from zskd.recipes import identity
    from zskd.students import make_student, room_for_helper, threads_of_each
    from zskd.transfer_set import REAL, TransferSet

    full = resolve(
        recipe,
        preset=preset,
        student=student,
        seed=seed,
        threads=threads,
        distill=distill,
        budget=budget,
        workers=workers,
        device=device,
        rewrite=rewrite,
    )
    classifier = ready_teacher(teacher, model, full)
    loaded = None if transfer_set is None else TransferSet(transfer_set)
    must_be_new(out)
    progress, helper = default_progress(quiet, verbose), room_for_helper(full)
    with folder_lock(out), use_threads(threads_of_each(full, 1)):
        if full.budget is not None:
            settings = identity(full) | {"teacher": classifier.fingerprint()}
            key = sha256_json(settings | {"set": loaded and loaded.fingerprint()})
            spending = Budget(full, classifier, out, key=key, progress=progress)
            full = spending.fit_steps(full, {"student": loaded})
        made = make_student(full, classifier, loaded, out, progress, helper=helper)
    say(f"student in {out}: {made.parameters_count:,} parameters")
    if estimate:
        from_real = loaded is not None and loaded.manifest["spec"]["method"] == REAL
        say_estimate(made, classifier, from_real)


@app.command(
    help_epilogue=examples(
        "zskd run digits",
        "zskd run mnist --data-dir data --rate 10 --seed 1 --out runs/mnist-10",
        "zskd run mnist --data-dir data --budget 3 --empty-controls --out runs/mnist-3-minutes",
        "zskd run mnist --preset reproduction --distill.steps 6000 --out runs/mnist-reproduction",
        "zskd run my-teacher --print-config > mine.yaml",
    )
)
def run(
    recipe: str,
    /,
    *,
    out: Path | None = None,
    print_config: Flag = False,
    quiet: Flag = False,
    verbose: Verbose = False,
    settings: Annotated[Recipe, Parameter(name="*")] = Recipe(),  # noqa: B008
) -> None:
    """Run a recipe from end to end, or go on with it: teacher, sets, students, table, pictures.

    Args:
        recipe: digits, mnist, fashion-mnist, my-teacher, or a YAML file.
        out: Folder of the run; absent: runs/NAME.
        print_config: Print the resolved recipe and do nothing.
        quiet: Print the result only.
        verbose: Print what was chosen for this machine.
    """
    from dataclasses import fields

    full = resolve(recipe, **{field.name: getattr(settings, field.name) for field in fields(Recipe)})
    if print_config:
        from zskd.recipes import to_yaml

        say(to_yaml(full).rstrip())
        return
    from zskd.pipeline import run_recipe
    from zskd.run_page import summary_lines

    folder = out or Path("runs") / full.name
    command = shlex.join(["zskd", *sys.argv[1:]])
    metrics = run_recipe(full, folder, progress=default_progress(quiet, verbose), command=command)
    for line in summary_lines(metrics):
        say(line)
    say(f"\nPictures and tables: {folder / 'README.md'}")
