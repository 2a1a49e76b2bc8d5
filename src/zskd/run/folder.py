"""The folder of a run: which recipe it belongs to, and whether its files are undamaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from zskd.config.identity import identity, to_values
from zskd.config.loading import load_recipe, to_yaml
from zskd.config.presets import RECIPES
from zskd.config.recipe import Recipe
from zskd.config.trust import code_in, not_trusted
from zskd.config.yaml import read_yaml
from zskd.core.artefact import read_artefact, write_artefact
from zskd.core.errors import ZskdError
from zskd.core.files import check_free, first_difference, remove_file, write_text
from zskd.core.progress import Progress
from zskd.distillation.invariance import ASKED
from zskd.models.checkpoint import CARD
from zskd.run.budget import BUDGET, TIMED
from zskd.run.metrics import METRICS, SOURCES
from zskd.run.similarity import SIMILARITY
from zskd.run.verify import verify_folder
from zskd.teacher.sources import SourceHashes

_WRITTEN = (
    *("recipe.yaml", "README.md", METRICS, SOURCES, SIMILARITY, ASKED, BUDGET),
    *("timings.json", "teacher", "figures", TIMED),
)
"""What a run writes over, deletes or takes for its own, where it is there."""


def claim_folder(recipe: Recipe, folder: Path, hashes: SourceHashes) -> None:
    """Write recipe and hashes of the sources into a new folder; refuse the folder of another run.

    A run that has made nothing counts as new, so that a mistake in the command can be corrected.

    Args:
        recipe: of the run.
        folder: of the run.
        hashes: of data, given teacher and code.

    Raises:
        ZskdError: the folder was made with other settings, sources or code, holds files of the user's that
            would be lost, or is damaged.
    """
    path, made_from = folder / "recipe.yaml", _made_from(folder)
    if made_from is None:
        check_free(folder, _WRITTEN, "run")
    if made_from is None or not ((folder / "teacher").exists() or _is_budget_spent(folder)):
        write_artefact(folder / SOURCES, hashes)  # first: with it, the folder is that of a run
        write_text(path, to_yaml(recipe))
        return
    advice = "choose another folder, or delete this one"
    try:
        other = not_trusted(read_yaml(str(path), RECIPES, "recipe"), code_in(to_values(recipe)))
        begun = None if other else load_recipe(path)
    except ZskdError as error:
        raise ZskdError(f"{path} is damaged ({error}): {advice}") from error
    if begun is None:
        raise ZskdError(
            f"{folder} was made with the code {other}, which this command does not name: name it, or choose "
            "another folder with --out"
        )
    budgets = {(one.budget, one.passes) for one in (begun, recipe)}
    other_budget = len(budgets) > 1 and not _is_budget_spent(folder)
    if other_budget:
        begun = replace(begun, budget=recipe.budget, passes=recipe.passes)
    for name, sha256 in (made_from.code or {}).items():
        if (hashes.code or {}).get(name, sha256) != sha256:
            raise ZskdError(f"{folder} was made with another version of {name}: {advice}")
    there, now = (
        identity(of) | made.to_json() | {"code": None} for of, made in ((begun, made_from), (recipe, hashes))
    )
    if there != now:
        what = first_difference(there, now, "")
        raise ZskdError(
            f"{folder} was made with another {what}: choose another folder with --out, or delete this one"
        )
    if other_budget:
        write_text(path, to_yaml(begun))


def _made_from(folder: Path) -> SourceHashes | None:
    """Return the hashes that a run has left in a folder; None where it has none.

    Raises:
        ZskdError: the file is damaged, or is somebody's own.
    """
    what, advice = "the hashes of a run's sources", "choose another folder with --out"
    there = (folder / SOURCES).is_file()
    return read_artefact(folder / SOURCES, SourceHashes, what, advice) if there else None


def _is_budget_spent(folder: Path) -> bool:
    """Whether a run has made anything that depends on its budget; a refused budget leaves nothing."""
    made = (BUDGET, "students", METRICS)
    return any([*((folder / one).exists() for one in made), *folder.glob("sets/*/manifest.json")])


def is_whole(folder: Path, progress: Progress) -> bool:
    """Return whether a finished run has all its networks, and all its files are undamaged; log what is wrong.

    Damaged networks lose their cards, so that they are made again; damaged sets are repaired shard by shard.

    Raises:
        ZskdError: a file cannot be read, which may pass.
    """
    damage = _damage(folder)
    if damage is None:
        return True
    progress.log(f"{damage}; this stage is run again")
    for card in [folder / "teacher" / CARD, *folder.glob(f"students/*/{CARD}")]:
        if _damage(card.parent) is not None:
            remove_file(card)
    return False


def _damage(folder: Path) -> ZskdError | None:
    """Return what is wrong with the contents of a folder; None where nothing is.

    Raises:
        ZskdError: a file is there and cannot be read.
    """
    try:
        verify_folder(folder)
    except ZskdError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
            raise
        return error
    return None
