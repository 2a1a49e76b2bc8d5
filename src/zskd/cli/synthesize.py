"""`zskd synthesize`: make a transfer set."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from zskd.cli.app import app
from zskd.cli.help import examples
from zskd.cli.options import Detail, Machine, Settings, Trust, ready_teacher
from zskd.cli.places import Place, local, output
from zskd.cli.telling import Json, Teller
from zskd.cli.typed import given, option
from zskd.config.checks import MethodSettings
from zskd.config.data import DataConfig
from zskd.config.groups import MACHINE, OUTPUT, RUN, RUN_DETAILS, TEACHER
from zskd.config.names import EngineName, MethodName, PresetName
from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.core.errors import ZskdError


@app.command(
    group_parameters=RUN,
    help_epilogue=examples(
        "zskd synthesize teacher/ --count 24000 --out set/",
        "zskd synthesize teacher/ --count 24000 --method noise --out noise/",
        "zskd synthesize teacher/ --count 2000 --method my_file.py:MyMethod --out mine/",
    ),
)
def synthesize(
    teacher: Place,
    /,
    *,
    out: Annotated[Place, Parameter(group=OUTPUT)],
    recipe: str | None = None,
    preset: Annotated[PresetName, Parameter(show_default=False)] = "default",
    method: Annotated[MethodName, Parameter(show_default=False)] = "zskd",
    method_settings: Annotated[MethodSettings, Parameter(group=RUN_DETAILS)] = {},  # noqa: B006
    count: int | None = None,
    rate: float | None = None,
    seed: int = 0,
    targets: TargetsConfig = TargetsConfig(),  # noqa: B008
    synthesis: SynthesisConfig = SynthesisConfig(),  # noqa: B008
    data: DataConfig = DataConfig(),  # noqa: B008
    model: Annotated[str | None, Parameter(group=TEACHER)] = None,
    machine: Machine = Machine(),  # noqa: B008
    trust: Trust = Trust(),  # noqa: B008
    engine: Annotated[EngineName, Parameter(group=MACHINE)] = "local",
    detail: Detail = Detail(),  # noqa: B008
    json: Annotated[Json, Parameter(group=OUTPUT)] = False,
) -> None:
    """Make a transfer set, or resume an interrupted synthesis.

    Args:
        teacher: Checkpoint folder, or another source that tells its network.
        out: Folder of the set, or an address (s3://bucket/set).
        recipe: Recipe with the settings.
        preset: Base of the settings; absent: chosen for the teacher.
        method: Synthesis method: a name, or file.py:Name for your own. Absent: that of the preset.
        method_settings: Settings of this method only.
        count: Number of images in the set. Absent: from rate, or chosen for the teacher.
        rate: The same in percent of the training set of --data.name.
        seed: Seed of all random numbers.
        targets: Soft targets.
        synthesis: Synthesis of the images.
        data: Training set for --rate.
        model: Factory to run, for a network in your own code.
        machine: This machine.
        trust: Code that the recipe file may run.
        engine: Where shards are made: local, ray, ray:HOST:PORT; the last two are a Ray cluster.
        detail: What is printed.
        json: Print the result as JSON.
    """
    from zskd.config.engines import open_engine
    from zskd.core.files import folder_lock
    from zskd.data.datasets import load_data
    from zskd.evaluation.sanity import log_findings
    from zskd.run.arms import main_set
    from zskd.synthesis.build import build_transfer_set
    from zskd.synthesis.outcome import outcome_of

    settings = Settings(
        recipe,
        machine,
        trust=trust,
        preset=preset,
        method=method,
        method_settings=method_settings,
        count=count,
        rate=rate,
        seed=seed,
        targets=targets,
        synthesis=synthesis,
        data=data,
        engine=engine,
    )
    if rate is not None and not settings.names("data", "name"):
        raise ZskdError(
            "--rate is a percentage of a training set: name it with --data.name, or give --count N"
        )
    alone = settings.alone()
    if (alone.budget or alone.passes) and not (alone.count or alone.rate):
        raise ZskdError(
            f"{recipe} has a budget, which zskd run divides among sets and students: give --count N, or "
            "--rate PERCENT, for one set"
        )
    progress = detail.progress()
    classifier = ready_teacher(local(teacher, progress), model, alone)
    full = settings.of(classifier, progress)
    by_rate = full.count is None and full.data.name != "none"
    for path in given():
        if path[0] == "data" and not by_rate and (path != ("data", "name") or full.data.name != "none"):
            raise ZskdError(
                f"{option('.'.join(path))} is for --rate, a percentage of that training set: give --rate, or "
                "leave it out"
            )
    spec = main_set(full, load_data(full.data, classifier.spec.shape) if by_rate else None)
    with output(out, "set", folder_lock, progress) as folder:
        log_findings(classifier, progress)
        made = build_transfer_set(
            classifier,
            spec,
            folder,
            workers=full.workers,
            engine=open_engine(full.engine),
            progress=progress,
        )
        found = outcome_of(made)
    tell = Teller(json)
    tell.line(f"{len(made):,} images in {out}: {found.words}")
    predicted, entropy = made.manifest.predicted, made.manifest.predicted_entropy
    if predicted is not None and entropy is not None:
        seen = sum(count > 0 for count in predicted)
        tell.line(
            f"the teacher predicts {seen:,} of {len(predicted):,} classes, entropy {entropy:.2f} of at most 1"
        )
    if found.mean_kl is not None and found.anchor_match is not None:
        tell.line(
            f"of the optimised: mean KL {abs(found.mean_kl):.4f}, {100 * found.anchor_match:.1f} % predicted "
            f"as their class; {found.missed:,} missed their target, {found.dropped:,} of them were dropped"
        )
    counts = {key: value for key, value in asdict(found).items() if value is not None}
    classes = {"predicted": predicted and list(predicted), "predicted_entropy": entropy}
    tell.document({"folder": out, "images": len(made), **counts, **classes})
