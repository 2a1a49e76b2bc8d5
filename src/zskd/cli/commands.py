"""The verbs. Each reads files, calls one or two functions of the library and writes files."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from zskd.cli import app, examples
from zskd.cli.settings import resolve
from zskd.config import Data, Distill, Recipe, Synthesis, Targets, Teacher
from zskd.errors import ZskdError
from zskd.progress import default_progress

Flag = Annotated[bool, Parameter(negative="")]
Method = Literal["zskd", "class_impressions", "noise"]

teacher_app = App(name="teacher", help="Train a teacher, or import one from elsewhere.")
show_app = App(name="show", help="Draw a picture of a teacher's similarity, of a set, or of one impression.")
app.command(teacher_app)
app.command(show_app)


@app.command(
    help_epilogue=examples(
        "zskd run digits",
        "zskd run mnist --data-dir data --rate 10 --seed 1 --out runs/mnist-10",
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
    settings: Annotated[Recipe, Parameter(name="*")] = Recipe(),  # noqa: B008
) -> None:
    """Run a recipe from end to end, or go on with it: teacher, sets, students, table, pictures.

    Args:
        recipe: digits, mnist, fashion-mnist, my-teacher, or a YAML file.
        out: Folder of the run; absent: runs/NAME.
        print_config: Print the resolved recipe and do nothing.
        quiet: Print the result only.
    """
    from dataclasses import fields

    full = resolve(recipe, **{field.name: getattr(settings, field.name) for field in fields(Recipe)})
    if print_config:
        from zskd.recipes import to_yaml

        _print(to_yaml(full).rstrip())
        return
    from zskd.pipeline import run_recipe
    from zskd.run_page import summary_lines

    folder = out or Path("runs") / full.name
    command = shlex.join(["zskd", *sys.argv[1:]])
    metrics = run_recipe(full, folder, progress=default_progress(quiet), command=command)
    for line in summary_lines(metrics):
        _print(line)
    _print(f"\nPictures and tables: {folder / 'README.md'}")


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
    from zskd.pipeline import use_threads
    from zskd.teachers import make_teacher

    full = resolve(recipe, data=data, teacher=teacher, seed=seed, threads=threads)
    if full.teacher.path is not None:
        raise ZskdError("this trains a teacher; one from a file is read with: zskd teacher import FILE")
    _must_be_new(out, "card.json")
    with folder_lock(out), use_threads(full.threads):
        made, loaded = make_teacher(full, out, default_progress(quiet))
    if loaded is not None and len(loaded.validation):
        _print(f"validation accuracy {accuracy(made, loaded.validation)}")
    _print(f"teacher in {out}")


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
    _must_be_new(out, "card.json")
    save_checkpoint(out, made, card)
    checked = "golden pairs agree" if card.golden else "not checked against golden pairs"
    _print(f"teacher in {out}: {made.parameters_count:,} parameters, {made.classes} classes, {checked}")


@app.command(
    help_epilogue=examples(
        "zskd inspect teacher/",
    )
)
def inspect(teacher: Path, /, *, model: str | None = None) -> None:
    """Tell what a teacher is and what will not work with it.

    Args:
        teacher: Checkpoint folder.
        model: Factory to run, for a network of your own code.
    """
    from zskd.checkpoint import load_checkpoint
    from zskd.inspection import inspect_teacher

    classifier, card = load_checkpoint(teacher, model=model)
    found = inspect_teacher(classifier)
    spec = classifier.spec
    half = f"{found.half_parameters:,} parameters" if found.half_parameters else "cannot be made"
    golden = f"{card['golden']['pairs']} golden pairs agree" if card.get("golden") else "no golden pairs"
    facts = {
        "network": str(card["architecture"].get("name") or card["architecture"].get("factory") or "layers"),
        "origin": str(card.get("origin", {}).get("how", "unknown")),
        "input": f"{spec.shape} in [{spec.box[0]:g}, {spec.box[1]:g}], mean {spec.mean}, std {spec.std}",
        "checked": golden,
        "classes": f"{classifier.classes}: {', '.join(classifier.class_names)}",
        "head": f"{found.head}, {found.features} features",
        "batch-norm": f"{found.batch_norms} layers",
        "parameters": f"{found.parameters:,}",
        "multiply-adds": f"{found.multiply_adds:,} per image",
        "student half": half,
    }
    for key, value in facts.items():
        _print(f"{key:<14}{value}")
    _print_matrix("class similarity", found.similarity, classifier.class_names)
    for warning in found.warnings:
        _print(f"note: {warning}")


@app.command(
    help_epilogue=examples(
        "zskd similarity teacher/ --out similarity.json",
    )
)
def similarity(teacher: Path, /, *, out: Path | None = None, model: str | None = None) -> None:
    """Print the class similarity of a teacher and the concentration made of it, or write both as JSON.

    Args:
        teacher: Checkpoint folder.
        out: JSON file; absent: printed.
        model: Factory to run, for a network of your own code.
    """
    from zskd.checkpoint import load_checkpoint
    from zskd.pipeline import write_similarity
    from zskd.similarity import class_similarity, concentration

    classifier, _ = load_checkpoint(teacher, model=model)
    if out is not None:
        write_similarity(classifier, out)
        _print(f"similarity in {out}")
        return
    matrix = class_similarity(classifier.head_weight)
    _print_matrix("class similarity", matrix, classifier.class_names)
    _print_matrix("concentration", concentration(matrix), classifier.class_names)


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
    quiet: Flag = False,
) -> None:
    """Make a transfer set, or go on with one that was interrupted.

    Args:
        teacher: Checkpoint folder.
        out: Folder of the set.
        recipe: Recipe to take settings from.
        preset: default, paper, release or reproduction.
        method: How images are made.
        count: Images in the set.
        rate: The same as a percentage of the training set of --data.name.
        seed: Seed of everything random.
        targets: What the teacher is to answer.
        synthesis: How images are made.
        data: Training set that --rate is a percentage of.
        model: Factory to run, for a network of your own code.
        quiet: Print the result only.
    """
    from zskd.checkpoint import load_checkpoint
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
    )
    classifier, _ = load_checkpoint(teacher, model=model)
    spec = SetSpec(
        method=full.method,
        count=set_size(full, None),
        seed=full.seed,
        targets=full.targets,
        synthesis=full.synthesis,
    )
    with folder_lock(out):
        made = build_transfer_set(classifier, spec, out, progress=default_progress(quiet))
    kl, match = made.manifest["mean_kl"], 100 * made.manifest["anchor_match"]
    _print(f"{len(made):,} images in {out}: mean KL {kl:.4f}, {match:.1f} % of their class")


@app.command(
    help_epilogue=examples(
        "zskd distill teacher/ set/ --student half --distill.steps 6000 --out student/",
    )
)
def distill(
    teacher: Path,
    transfer_set: Path,
    /,
    *,
    out: Path,
    recipe: str | None = None,
    preset: str = "default",
    student: str = "half",
    seed: int = 0,
    threads: int = 0,
    distill: Distill = Distill(),  # noqa: B008
    model: str | None = None,
    quiet: Flag = False,
) -> None:
    """Train a student on a transfer set, or go on where that was interrupted.

    Args:
        teacher: Checkpoint folder.
        transfer_set: Folder of the set.
        out: Folder of the student.
        recipe: Recipe to take settings from.
        preset: default, paper, release or reproduction.
        student: half, a built-in name, or package.module:factory.
        seed: Seed of weights, order and augmentation.
        threads: Threads; 0 for one per core.
        distill: How the student learns.
        model: Factory to run, for a teacher of your own code.
        quiet: Print the result only.
    """
    from zskd.checkpoint import load_checkpoint
    from zskd.files import folder_lock
    from zskd.pipeline import make_student, use_threads
    from zskd.transfer_set import TransferSet

    full = resolve(recipe, preset=preset, student=student, seed=seed, threads=threads, distill=distill)
    classifier, _ = load_checkpoint(teacher, model=model)
    loaded = TransferSet(transfer_set)
    _must_be_new(out, "card.json")
    with folder_lock(out), use_threads(full.threads):
        made = make_student(full, classifier, loaded, out, default_progress(quiet))
    _print(f"student in {out}: {made.parameters_count:,} parameters")


@app.command(
    help_epilogue=examples(
        "zskd evaluate student/ --data.name mnist --data-dir data --teacher teacher/",
        "zskd evaluate student/ --teacher teacher/ --set held-out/",
    )
)
def evaluate(
    checkpoint: Path,
    /,
    *,
    teacher: Path | None = None,
    transfer_set: Annotated[Path | None, Parameter(name="--set")] = None,
    data: Data = Data(name="none"),  # noqa: B008
    out: Path | None = None,
    model: str | None = None,
) -> None:
    """Measure a student: accuracy on test images, agreement with its teacher on any images.

    Args:
        checkpoint: Checkpoint folder.
        teacher: Checkpoint folder of its teacher.
        transfer_set: Set of images to measure the agreement on.
        data: Test images.
        out: JSON file to write as well.
        model: Factory to run, for networks of your own code.
    """
    import torch

    from zskd.checkpoint import load_checkpoint
    from zskd.data import load_data
    from zskd.evaluate import accuracy, accuracy_by_class, agreement
    from zskd.files import write_json
    from zskd.pipeline import NOT_MEASURED
    from zskd.transfer_set import TransferSet

    student, _ = load_checkpoint(checkpoint, model=model)
    master = load_checkpoint(teacher, model=model)[0] if teacher else None
    if transfer_set is not None and master is None:
        raise ZskdError("agreement on a set needs the teacher: add --teacher FOLDER")
    found: dict[str, object] = {}
    if data.name == "none":
        _print(NOT_MEASURED)
    else:
        test = load_data(data, student.spec.shape).test
        measured = accuracy(student, test)
        found["test_accuracy"] = asdict(measured)
        found["test_accuracy_by_class"] = accuracy_by_class(student, test)
        _print(f"test accuracy  {measured}")
        if master is not None:
            agreed = agreement(student, master, test.images)
            found["test_agreement"] = asdict(agreed)
            _print(f"agreement with the teacher on test images  {agreed}")
    if transfer_set is not None and master is not None:
        images = torch.cat([shard.images for shard in TransferSet(transfer_set)])
        agreed = agreement(student, master, images)
        found["set_agreement"] = asdict(agreed)
        _print(f"agreement with the teacher on {transfer_set}  {agreed}")
    if out is not None:
        write_json(out, found)


@app.command(
    help_epilogue=examples(
        "zskd predict student/ three.png eight.png --top 2",
    )
)
def predict(checkpoint: Path, /, *pictures: Path, top: int = 3, model: str | None = None) -> None:
    """Print the most probable classes of pictures, resized to the network's input.

    Args:
        checkpoint: Checkpoint folder.
        pictures: PNG, JPEG, … files.
        top: How many classes to print.
        model: Factory to run, for a network of your own code.
    """
    import torch

    from zskd.checkpoint import load_checkpoint
    from zskd.data.folder import read_image

    if not pictures:
        raise ZskdError("name at least one picture")
    if top < 1:
        raise ZskdError(f"--top is {top}: it must be at least 1")
    classifier, _ = load_checkpoint(checkpoint, model=model)
    classifier.freeze()
    for path in pictures:
        image = torch.from_numpy(read_image(path, classifier.spec.shape)).unsqueeze(0)
        best = torch.softmax(classifier(image)[0], 0).topk(min(top, classifier.classes))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        answers = "  ".join(f"{classifier.class_names[k]} {value:.3f}" for k, value in pairs)
        _print(f"{path}  {answers}")


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
        raw: Draw the class similarity itself, before its rows are stretched to [0, 1].
        model: Factory to run, for a network of your own code.
    """
    from zskd.checkpoint import load_checkpoint
    from zskd.figures import save_figure, similarity_figure
    from zskd.similarity import class_similarity, concentration

    classifier, _ = load_checkpoint(teacher, model=model)
    values = class_similarity(classifier.head_weight)
    title = "class similarity" if raw else "concentration (class similarity, row min-max)"
    figure = similarity_figure(values if raw else concentration(values), classifier.class_names, title)
    _print(f"picture in {save_figure(figure, out)}")


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
        only: Name of the one class to show.
        per_class: Images of each class.
    """
    from zskd.figures import save_figure
    from zskd.run_page import samples_figure
    from zskd.transfer_set import TransferSet

    if per_class < 1:
        raise ZskdError(f"--per-class is {per_class}: it must be at least 1")
    loaded = TransferSet(transfer_set)
    names = loaded.class_names
    if only is not None and only not in names:
        raise ZskdError(f"there is no class {only!r}: choose one of {', '.join(names)}")
    figure = samples_figure(loaded, per_class=per_class, only=None if only is None else names.index(only))
    _print(f"picture in {save_figure(figure, out)}")


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
) -> None:
    """Draw one impression from its first image to its last, made again from the set's settings.

    Args:
        teacher: Checkpoint folder.
        transfer_set: Folder of the set.
        out: PNG, SVG or PDF file.
        index: Row of the image in the set.
        model: Factory to run, for a network of your own code.
    """
    from zskd.checkpoint import load_checkpoint
    from zskd.figures import save_figure
    from zskd.run_page import film_figure
    from zskd.synthesis import read_spec
    from zskd.transfer_set import read_manifest

    classifier, _ = load_checkpoint(teacher, model=model)
    manifest = read_manifest(transfer_set)
    if manifest["teacher_sha256"] != classifier.freeze().fingerprint():
        raise ZskdError(f"{transfer_set} was made with another teacher")
    if not 0 <= index < manifest["count"]:
        raise ZskdError(f"--index is {index}: the set holds rows 0 to {manifest['count'] - 1}")
    figure = film_figure(classifier, read_spec(manifest["spec"]), index)
    _print(f"picture in {save_figure(figure, out)}")


@app.command(
    help_epilogue=examples(
        "zskd export set/ --to mat --out DI-40.mat",
        "zskd export set/ --to png --teacher teacher/ --out pictures/",
    )
)
def export(
    transfer_set: Path,
    /,
    *,
    to: Literal["mat", "png"],
    out: Path,
    teacher: Path | None = None,
    model: str | None = None,
) -> None:
    """Write a transfer set for other programs: the reproduction's MATLAB layout, or a tree of PNG files.

    Args:
        transfer_set: Folder of the set.
        to: Kind of export.
        out: File, or empty folder.
        teacher: Checkpoint folder, asked again about the 8-bit pictures.
        model: Factory to run, for a network of your own code.
    """
    from zskd.checkpoint import load_checkpoint
    from zskd.export import export_mat, export_png
    from zskd.transfer_set import TransferSet

    loaded = TransferSet(transfer_set)
    if to == "mat":
        _print(f"exported to {export_mat(loaded, out)}")
        return
    if teacher is None:
        raise ZskdError("8-bit pictures carry the teacher's answers to themselves: add --teacher FOLDER")
    classifier, _ = load_checkpoint(teacher, model=model)
    _print(f"exported to {export_png(loaded, classifier.freeze(), out)}")


@app.command(
    help_epilogue=examples(
        "zskd verify runs/digits",
    )
)
def verify(*folders: Path) -> None:
    """Hash transfer sets, checkpoints and whole runs again and compare with what was recorded.

    Args:
        folders: Of transfer sets, checkpoints or runs.
    """
    from zskd.verification import verify_folder

    if not folders:
        raise ZskdError("name at least one folder")
    for folder in folders:
        for line in verify_folder(folder):
            _print(line)


def _must_be_new(folder: Path, mark: str) -> None:
    if (folder / mark).exists():
        raise ZskdError(f"{folder} is finished already: choose another folder, or delete it")


def _print_matrix(title: str, values: object, names: tuple[str, ...]) -> None:
    import numpy as np

    rows = np.asarray(values)
    width = max(6, *(len(name) + 1 for name in names))
    _print(f"{title}:")
    _print(" " * width + "".join(name.rjust(width) for name in names))
    for name, row in zip(names, rows, strict=True):
        _print(name.rjust(width) + "".join(f"{value:.2f}".rjust(width) for value in row))


def _print(text: str) -> None:
    print(text, file=sys.stdout, flush=True)
