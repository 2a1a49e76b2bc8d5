"""`zskd show`: pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from zskd.cli.app import app
from zskd.cli.help import FLAGS, examples
from zskd.cli.options import Flag
from zskd.cli.telling import print_line
from zskd.config.checks import check_range
from zskd.core.errors import ZskdError

show_app = App(
    name="show",
    help="Draw a teacher's class similarity, images of a set, or the synthesis of one impression.",
    help_epilogue="",
    help_flags=FLAGS,
)
app.command(show_app)


@show_app.command(
    name="similarity",
    help_epilogue=examples(
        "zskd show similarity teacher/ --out similarity.svg",
    ),
)
def show_similarity(
    teacher: Path, /, *, out: Path = Path("similarity.png"), raw: Flag = False, model: str | None = None
) -> None:
    """Draw the concentration matrix as a labelled heat map.

    Args:
        teacher: Checkpoint folder.
        out: PNG, SVG or PDF file.
        raw: Draw the class similarity itself, without row min-max.
        model: Factory to run, for a network in your own code.
    """
    from zskd.evaluation.figures import save_figure, similarity_figure
    from zskd.models.checkpoint import load_checkpoint
    from zskd.synthesis.similarity import class_similarity, concentration
    from zskd.teacher.opening import check_model

    check_model(model, teacher)
    classifier, _ = load_checkpoint(teacher, model=model)
    values = class_similarity(classifier.head_weight)
    title = "class similarity" if raw else "concentration (class similarity, row min-max)"
    figure = similarity_figure(values if raw else concentration(values), classifier.class_names, title)
    print_line(f"picture in {save_figure(figure, out)}")


@show_app.command(
    name="samples",
    help_epilogue=examples(
        "zskd show samples set/ --class 3 --per-class 16 --out threes.png",
    ),
)
def show_samples(
    transfer_set: Path,
    /,
    *,
    out: Path = Path("samples.png"),
    only: Annotated[str | None, Parameter(name="--class")] = None,
    per_class: int = 2,
) -> None:
    """Draw a grid of impressions, each with the two strongest classes of its target.

    Args:
        transfer_set: Folder of the set.
        out: PNG, SVG or PDF file.
        only: Name of the only class to draw.
        per_class: Number of images of each class; no more than 200 in all.
    """
    from zskd.evaluation.figures import save_figure
    from zskd.run.page import MOST_SAMPLES, samples_figure
    from zskd.transfer_set.dataset import TransferSet
    from zskd.transfer_set.first import first_of_classes

    check_range("--per-class", per_class, 1)
    loaded = TransferSet(transfer_set)
    names = loaded.class_names
    if only is not None and only not in names:
        raise ZskdError(f"there is no class {only!r}: choose one of {', '.join(names)}")
    number = None if only is None else names.index(only)
    figure = samples_figure(loaded, per_class=per_class, only=number)
    print_line(f"picture in {save_figure(figure, out)}")
    if len(first_of_classes(loaded, per_class, most=MOST_SAMPLES + 1, only=number)) > MOST_SAMPLES:
        print_line(f"it shows no more than {MOST_SAMPLES} images")


@show_app.command(
    name="filmstrip",
    help_epilogue=examples(
        "zskd show filmstrip teacher/ set/ --index 3",
    ),
)
def show_filmstrip(
    teacher: Path,
    transfer_set: Path,
    /,
    *,
    out: Path = Path("filmstrip.png"),
    index: int = 0,
    model: str | None = None,
    trust: tuple[str, ...] = (),
) -> None:
    """Draw the steps of one impression from its start image to the last, made again from the settings.

    Args:
        teacher: Checkpoint folder.
        transfer_set: Folder of the set.
        out: PNG, SVG or PDF file.
        index: Number of the image, from 0, dropped ones included.
        model: Factory to run, for a network in your own code.
        trust: Names of your own code (method, start image) in the settings of the set that may run.
    """
    from zskd.core.progress import default_progress
    from zskd.evaluation.figures import check_ending, save_figure
    from zskd.models.checkpoint import load_checkpoint
    from zskd.run.page import trace_figure
    from zskd.synthesis.build import hashes_of
    from zskd.synthesis.sizes import made_spec
    from zskd.teacher.opening import check_model
    from zskd.transfer_set.manifest import read_manifest

    check_ending(out)
    check_model(model, teacher)
    classifier, _ = load_checkpoint(teacher, model=model)
    manifest = read_manifest(transfer_set)
    if manifest.teacher_sha256 != classifier.fingerprint():
        raise ZskdError(f"{transfer_set} was made with another teacher: name the folder of its teacher")
    spec = made_spec(manifest, trusted=trust)
    now, kept = hashes_of(spec), manifest.code or {}
    if now.get("files", {}) != (manifest.files or {}):
        raise ZskdError(f"{transfer_set} was made with another student than its settings name: make it again")
    if changed := [name for name, sha256 in now.get("code", {}).items() if kept.get(name, sha256) != sha256]:
        raise ZskdError(f"{transfer_set} was made with another version of {changed[0]}: make it again")
    figure = trace_figure(classifier, spec, index, default_progress())
    print_line(f"picture in {save_figure(figure, out)}")
