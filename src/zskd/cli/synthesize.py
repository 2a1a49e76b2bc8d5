"""`zskd synthesize`: make a transfer set."""

from __future__ import annotations

from pathlib import Path

from zskd.cli.app import app, examples
from zskd.cli.options import Flag, Verbose, print_line, ready_teacher, resolve
from zskd.config.data import DataConfig
from zskd.config.names import MethodName, PresetName
from zskd.config.recipe import MethodSettings
from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.core.progress import default_progress


@app.command(
    help_epilogue=examples(
        "zskd synthesize teacher/ --count 24000 --out set/",
        "zskd synthesize teacher/ --count 24000 --method noise --out noise/",
        "zskd synthesize teacher/ --count 2000 --method my_file.py:MyMethod --out mine/",
    )
)
def synthesize(
    teacher: Path,
    /,
    *,
    out: Path,
    recipe: str | None = None,
    preset: PresetName = "default",
    method: MethodName = "zskd",
    method_settings: MethodSettings = {},  # noqa: B006
    count: int | None = None,
    rate: float | None = None,
    seed: int = 0,
    targets: TargetsConfig = TargetsConfig(),  # noqa: B008
    synthesis: SynthesisConfig = SynthesisConfig(),  # noqa: B008
    data: DataConfig = DataConfig(),  # noqa: B008
    model: str | None = None,
    workers: int = 0,
    device: str = "auto",
    rewrite: bool = True,
    quiet: Flag = False,
    verbose: Verbose = False,
) -> None:
    """Make a transfer set, or resume an interrupted synthesis.

    Args:
        teacher: Checkpoint folder.
        out: Folder of the set.
        recipe: Recipe with the settings.
        preset: Base of the settings.
        method: Synthesis method: a name, or file.py:Name for your own.
        method_settings: Settings of this method only.
        count: Number of images in the set.
        rate: The same in percent of the training set of --data.name.
        seed: Seed of all random numbers.
        targets: Soft targets.
        synthesis: Synthesis of the images.
        data: Training set for --rate.
        model: Factory to run, for a network in your own code.
        workers: Number of parallel processes for shards; 0 for one per core.
        device: auto (a GPU if there is one), cpu, cuda, cuda:1.
        rewrite: Run a faster, equivalent network.
        quiet: Print only the result.
        verbose: Also print the choices for this machine.
    """
    from zskd.core.files import folder_lock
    from zskd.run.arms import main_set
    from zskd.synthesis.build import build_transfer_set

    full = resolve(
        recipe,
        preset=preset,
        method=method,
        method_settings=method_settings,
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
    spec = main_set(full, None)
    with folder_lock(out):
        made = build_transfer_set(
            classifier, spec, out, workers=full.workers, progress=default_progress(quiet, verbose)
        )
    facts = made.manifest
    print_line(
        f"{len(made):,} images in {out}: mean KL {facts.mean_kl:.4f}, "
        f"{100 * facts.anchor_match:.1f} % predicted as their class; "
        f"{facts.missed or 0:,} missed their target, {facts.dropped or 0:,} of them were dropped"
    )
