"""`zskd teacher`: train or import a teacher."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from zskd.cli.app import app, examples
from zskd.cli.options import Flag, must_be_new, print_line, resolve
from zskd.config.data import DataConfig
from zskd.config.training import TeacherConfig
from zskd.core.errors import ZskdError
from zskd.core.progress import default_progress

teacher_app = App(name="teacher", help="Train a teacher, or import one from a file.", help_epilogue="")
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
    data: DataConfig = DataConfig(),  # noqa: B008
    teacher: TeacherConfig = TeacherConfig(),  # noqa: B008
    seed: int = 0,
    threads: int = 0,
    quiet: Flag = False,
) -> None:
    """Train a teacher on real images; save the weights of the last step.

    Args:
        out: Folder of the checkpoint.
        recipe: Recipe with the settings.
        data: Real images.
        teacher: Architecture and training.
        seed: Seed of weights and order.
        threads: Threads; 0 for one per core.
        quiet: Print only the result.
    """
    from zskd.core.device import use_threads
    from zskd.core.files import folder_lock
    from zskd.evaluation.metrics import accuracy
    from zskd.teacher.sources import make_teacher, open_sources

    full = resolve(recipe, data=data, teacher=teacher, seed=seed, threads=threads)
    if full.teacher.path is not None:
        raise ZskdError("--teacher.path is for a trained teacher: import it with zskd teacher import FILE")
    must_be_new(out)
    with folder_lock(out), use_threads(full.threads):
        sources = open_sources(full)
        made = make_teacher(full, sources, out, default_progress(quiet))
    if sources.data is not None and len(sources.data.validation):
        print_line(f"validation accuracy {accuracy(made, sources.data.validation)}")
    print_line(f"teacher in {out}")


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
    teacher: TeacherConfig = TeacherConfig(),  # noqa: B008
) -> None:
    """Import a teacher: .safetensors, a plain state_dict (.pt, .pth), or the reproduction's .mat.

    No code in the file is run. Only golden pairs can check mean and standard deviation.

    Args:
        file: The weights.
        out: Folder of the checkpoint.
        teacher: Architecture and input.
    """
    from zskd.models.checkpoint import save_checkpoint
    from zskd.teacher.sources import open_teacher

    if file.is_dir():
        raise ZskdError(f"{file} is a folder: name a .safetensors, .pt or .mat file")
    made, card = open_teacher(file, teacher)
    must_be_new(out)
    save_checkpoint(made, card, out)
    checked = "golden pairs agree" if card.golden else "not checked against golden pairs"
    print_line(f"teacher in {out}: {made.parameters_count:,} parameters, {made.classes} classes, {checked}")
