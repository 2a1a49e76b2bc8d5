"""The tables about the search for the default: frozen settings, trials, ablation, runs with a budget."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from statistics import mean
from typing import Any

import yaml

from records import RESULTS, ROOT, read_appended, read_lines
from tables.common import TITLES, in_words
from zskd.config.loading import load_recipe
from zskd.config.yaml import merge
from zskd.core.tables import markdown_table
from zskd.evaluation.statistics import compare_paired, summarise
from zskd.tuning.journal import read_journal

_UNSEEN = "better-fashion-mnist"
_DATA = {"mnist": "MNIST", "filled": "MNIST, filled", "permuted": "MNIST, permuted"}
_ONLINE = ("dfad", "zskt")
"""Presets without a transfer set."""


def search() -> str:
    """All trials of the search."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for line in read_appended(RESULTS / "tuning" / "better.jsonl"):
        if "agreement" in line:
            seen = line.get("images_seen") or _seen(line["settings"]["distill"])
            groups.setdefault((line["data"], line["name"], f"{seen / 1e6:.2f}"), []).append(line)
    rows = []
    for (data, name, seen), lines in sorted(groups.items(), key=lambda item: (item[0][0], item[0][2])):
        agreement, accuracy = (mean(one[what] for one in lines) for what in ("agreement", "accuracy"))
        facts = (f"{lines[0]['teacher']:.2f}", f"{agreement:.2f}", f"{accuracy:.2f}", f"{len(lines)}")
        rows.append((_DATA[data], name, seen, *facts))
    head = ("data", "trial", "10⁶ images seen", "teacher", "agreement", "accuracy", "n")
    return markdown_table(head, rows)


def ablation() -> str:
    """Change of agreement for each change of the default, paired over seeds, and the verdict by the rule of
    studies/ablation.yaml."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for line in read_appended(RESULTS / "tuning" / "ablation.jsonl"):
        found.setdefault((line["name"], line["data"]), {})[line["seed"]] = line["agreement"]
    plan = yaml.safe_load((ROOT / "studies" / "ablation.yaml").read_text(encoding="utf-8"))
    base = {data: found["default", data] for data in plan["data"]}
    rows = [["default", *(str(summarise(base[data].values())) for data in plan["data"]), ""]]
    for name in plan["trials"]:
        if name == "default":
            continue
        changes = {
            data: compare_paired(found[name, data], base[data], names=(name, "default"))
            for data in plan["data"]
        }
        moved = [one.mean / plan["worth"][data] for data, one in changes.items()]
        better, worse = max(moved) >= 1, min(moved) <= -1
        verdict = ("both" if worse else "better") if better else ("worse" if worse else "alike")
        cells = (f"{one.mean:+.2f} ± {one.deviation:.2f} (n = {one.n})" for one in changes.values())
        rows.append([name, *cells, verdict])
    return markdown_table(("trial", *(_DATA[data] for data in plan["data"]), "the student is"), rows)


def _seen(distill: dict[str, Any]) -> int:
    """Return the number of images seen, which older lines lack; without a batch size it was 256."""
    return int(distill["steps"] * distill.get("batch_size", 256))


def frozen() -> str:
    """Frozen settings with time and reason, and the first result of each on Fashion-MNIST."""
    lines = read_appended(RESULTS / "frozen.jsonl")
    evaluations = [one for one in read_appended(RESULTS / "ledger.jsonl") if one["experiment"] == _UNSEEN]
    ends = [line["frozen"] for line in lines[1:]] + ["later"]
    rows = []
    for number, (line, end) in enumerate(zip(lines, ends, strict=True), 1):
        since = [one for one in evaluations if line["frozen"] <= one["time"] < end]
        first = [
            next((f"{one['test_accuracy']:.2f}" for one in since if one["cell"] == cell), "–")
            for cell in ("noise_shapes-40-0", "default-40-0")
        ]
        commit = (line["commit"] or "–")[:8]
        rows.append((f"{number}", line["frozen"], f"`{line['sha256'][:12]}`", commit, line["why"], *first))
    head = (
        "",
        "frozen",
        "settings",
        "commit",
        "why",
        "random shapes, Fashion-MNIST",
        "default, Fashion-MNIST",
    )
    return markdown_table(head, rows)


def minutes() -> str:
    """Test accuracy in a given time, by preset."""
    rows = []
    for line in read_lines(RESULTS / "minutes.json"):
        if line["data"] not in TITLES:  # of the bench
            continue
        images = "generated" if line["preset"] in _ONLINE else f"{line['images']:,}"
        facts = (f"{line['seconds']:.0f}", images, f"{line['steps']:,}", f"{line['accuracy']:.2f}")
        data = TITLES[line["data"]]
        rows.append((data, f"{line['minutes']:g}", line["preset"], *facts))
    rows.sort(key=lambda row: (row[0] != "MNIST", float(row[1]), row[2]))
    head = ("data", "minutes given", "preset", "seconds taken", "images", "steps", "test accuracy")
    return markdown_table(head, rows)


def chains() -> str:
    """Agreement of students of a chain with batch-norm, for each trial of studies/grey-batch-norm.yaml."""
    plan = yaml.safe_load((ROOT / "studies" / "grey-batch-norm.yaml").read_text(encoding="utf-8"))
    lines = read_appended(RESULTS / "tuning" / "grey-batch-norm.jsonl")
    rows = []
    for name, changes in plan["trials"].items():
        found = _with_settings(lines, merge(plan["base"], changes))
        shown = (in_words(summarise([one[what] for one in found])) for what in ("agreement", "accuracy"))
        rows.append((name, f"{found[0]['images_seen'] / 1e6:.2f}", *shown))
    head = ("preset and change", "10⁶ images seen", "agreement", "accuracy")
    words = f"Teacher {lines[0]['teacher']:.1f} %; 6,000 held-out images; {_made(lines)}"
    return f"{markdown_table(head, rows)}\n\n{words}"


def fresh_pictures() -> str:
    """Agreement for each trial and task of studies/fresh-pictures.yaml; – where it was not run."""
    plan = yaml.safe_load((ROOT / "studies" / "fresh-pictures.yaml").read_text(encoding="utf-8"))
    lines = read_appended(RESULTS / "tuning" / "fresh-pictures.jsonl")
    bases, rows = [merge(plan["base"], task) for task in plan["tasks"].values()], []
    for name, changes in plan["trials"].items():
        each = [_with_settings(lines, merge(base, changes)) for base in bases]
        shown = (in_words(summarise([one["agreement"] for one in found])) if found else "–" for found in each)
        rows.append((name, *shown))
    return f"{markdown_table(('trial', *plan['tasks']), rows)}\n\n{_made(lines)}"


def _with_settings(lines: list[dict[str, Any]], settings: dict[str, Any]) -> list[dict[str, Any]]:
    return [line for line in lines if line["settings"] == settings]


def _made(lines: list[dict[str, Any]]) -> str:
    commits = ", ".join(sorted({str(line["commit"])[:8] for line in lines}))
    return f"± is the standard deviation over seeds, a number without it is of one seed; commits {commits}."


def tuned() -> str:
    """All trials of the search of docs/tuning.md, the best first, and the recipe's own settings."""
    trials = read_journal(RESULTS / "tuning" / "colour.jsonl")
    trials.sort(key=lambda one: (-(one.value or 0), one.number))
    own = read_journal(RESULTS / "tuning" / "colour-recipe.jsonl")
    recipe, rows = load_recipe(ROOT / "studies" / "tuning.yaml"), []
    for trial in (*trials, *own):
        of, settings = trial.measured, trial.settings
        assert of is not None
        of_recipe = {key: reduce(getattr, key.split("."), recipe) for key in trials[0].settings}
        shown = [str(value) for value in (of_recipe | settings).values()]
        name = "recipe" if trial in own else str(trial.number)
        rows.append((name, *shown, f"{of.agreement:.2f}", f"{of.accuracy:.2f}", f"{of.seconds:.0f}"))
    head = ("trial", *trials[0].settings, "agreement, %", "accuracy, %", "seconds")
    last = trials[0]
    assert last.measured is not None
    words = (
        f"{last.measured.images:,} validation images, 0 test images. Commit {str(last.commit)[:8]}, Optuna "
        f"{last.versions['optuna']}, torch {last.versions['torch']}, {last.processor['name']} with "
        f"{last.processor['cores']} cores, busy with other work."
    )
    return f"{markdown_table(head, rows)}\n\n{words}"


SEARCH_TABLES: dict[str, Callable[[], str]] = {
    "better-frozen": frozen,
    "better-search": search,
    "better-ablation": ablation,
    "better-minutes": minutes,
    "chains": chains,
    "fresh-pictures": fresh_pictures,
    "tuning": tuned,
}
