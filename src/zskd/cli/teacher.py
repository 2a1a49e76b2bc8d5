"""`zskd teacher`: train or import a teacher."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from zskd.cli.app import app
from zskd.cli.help import FLAGS, examples
from zskd.cli.options import Detail, Settings, Trust
from zskd.cli.outputs import new_folder
from zskd.cli.telling import Json, Teller
from zskd.cli.typed import check_data, note_no_folder
from zskd.config.data import DataConfig
from zskd.config.groups import MACHINE, OUTPUT
from zskd.config.training import NetworkConfig, TeacherConfig
from zskd.core.errors import ZskdError

teacher_app = App(
    name="teacher", help="Train a teacher, or import one from a file.", help_epilogue="", help_flags=FLAGS
)
app.command(teacher_app)


@teacher_app.command(
    name="train",
    help_epilogue=examples(
        "zskd teacher train --data.name mnist --data-dir data --out teacher/",
    ),
)
def train(
    *,
    out: Annotated[Path, Parameter(group=OUTPUT)],
    recipe: str | None = None,
    data: DataConfig = DataConfig(),  # noqa: B008
    teacher: TeacherConfig = TeacherConfig(),  # noqa: B008
    seed: int = 0,
    threads: Annotated[int, Parameter(group=MACHINE)] = 0,
    device: Annotated[str, Parameter(group=MACHINE)] = "auto",
    trust: Trust = Trust(),  # noqa: B008
    detail: Detail = Detail(),  # noqa: B008
    json: Annotated[Json, Parameter(group=OUTPUT)] = False,
) -> None:
    """Train a teacher on real images; save the weights of the last step.

    Args:
        out: Folder of the checkpoint.
        recipe: Recipe with the settings.
        data: Real images.
        teacher: Architecture and training.
        seed: Seed of weights and order.
        threads: Threads; 0 for one per core.
        device: auto (a GPU if there is one), cpu, cuda, cuda:1.
        trust: Code that the recipe file may run.
        detail: What is printed.
        json: Print the result as JSON.
    """
    from zskd.core.device import use_threads
    from zskd.evaluation.metrics import accuracy
    from zskd.teacher.sources import make_teacher, open_sources

    full = Settings(
        recipe, trust=trust, data=data, teacher=teacher, seed=seed, threads=threads, device=device
    ).alone()
    if full.teacher.path is not None:
        raise ZskdError("--teacher.path is for a trained teacher: import it with zskd teacher import FILE")
    check_data(full.data)
    note_no_folder(full.data)
    with new_folder(out), use_threads(full.threads):
        sources = open_sources(full)
        made = make_teacher(full, sources, out, detail.progress())
    tell, document = Teller(json), dict[str, object]({"folder": out, "parameters": made.parameters_count})
    if sources.data is not None and len(sources.data.validation):
        validated = accuracy(made, sources.data.validation)
        tell.line(f"validation accuracy {validated}")
        document["validation_accuracy"] = asdict(validated)
    tell.line(f"teacher in {out}")
    tell.document(document)


@teacher_app.command(
    name="import",
    help_epilogue=examples(
        "zskd teacher import Lenet5.mat --out teacher/",
        "zskd teacher import resnet20@net.th --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225 --out teacher/",
        "zskd teacher import net.pt --model my_net.py:MyNet --shape 3 32 32 --golden g.npz --out teacher/",
    ),
)
def import_(
    source: Path,
    /,
    *,
    out: Annotated[Path, Parameter(group=OUTPUT)],
    teacher: NetworkConfig = NetworkConfig(),  # noqa: B008
    json: Annotated[Json, Parameter(group=OUTPUT)] = False,
) -> None:
    """Keep a teacher of another program as a checkpoint folder: torch, safetensors, timm, ONNX, and others.

    No code in a file is run. Only golden pairs can check mean and standard deviation.

    Args:
        source: A file or folder of weights; or timm:NAME, torchvision:NAME, hf:FOLDER, onnx:FILE,
            file.py:factory@WEIGHTS, resnet20@WEIGHTS.
        out: Folder of the checkpoint.
        teacher: Architecture and input.
        json: Print the result as JSON.
    """
    from zskd.models.checkpoint import CARD, save_checkpoint
    from zskd.teacher.named.source import is_there
    from zskd.teacher.sources import open_given

    if is_there(source / CARD):
        raise ZskdError(f"{source} is a checkpoint of zskd already: use it as it is")
    _check_kept(str(source), out)
    made, card = open_given(source, teacher)
    with new_folder(out):
        save_checkpoint(made, card, out)
    tell, lines = Teller(json), card.origin.lines()
    for line in lines:
        tell.line(line)
    checked = "golden pairs agree" if card.golden else "not checked against golden pairs"
    tell.line(f"teacher in {out}: {made.parameters_count:,} parameters, {made.classes} classes, {checked}")
    size = {"parameters": made.parameters_count, "classes": made.classes}
    tell.document({"folder": out, **size, "golden": card.golden and card.golden.to_json(), "notes": lines})


def _check_kept(source: str, out: Path) -> None:
    """Refuse to write a checkpoint over the file that it is made of.

    Raises:
        ZskdError: the folder of the checkpoint is the source, or holds it under the name of its weights.
    """
    from zskd.models.checkpoint import WEIGHTS
    from zskd.teacher.named.source import is_there, parse_source

    parsed = parse_source(source)
    is_path = parsed.kind in ("path", "onnx", "hf") or parsed.name.startswith("local-dir:")
    named = Path(parsed.name.removeprefix("local-dir:")) if is_path else None
    for path in (named, parsed.weights):
        if path is None or not is_there(path):
            continue
        if out.resolve() == path.resolve() or (out / WEIGHTS).resolve() == path.resolve():
            raise ZskdError(
                f"{path} is what the checkpoint is made of, and would be written over: choose another folder "
                "with --out"
            )
