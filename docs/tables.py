"""Write the tables of README.md and docs/ from committed records and presets: `python docs/tables.py`.

Every block between `<!-- table NAME -->` and `<!-- end -->` is replaced. A record is the metrics.json of a
run; records of the same name but for the seed (`digits-0.json`, `digits-1.json`) are rows of one mean.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

from zskd.recipes import load_recipe, preset_names, to_values

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "methods" / "zskd.md")
_BLOCK = re.compile(r"(<!-- table ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_DATA = {"digits": "digits", "mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}


def records(name: str) -> list[dict[str, Any]]:
    """Return the records of one run over its seeds."""
    files = sorted((ROOT / "results").glob(f"{name}-[0-9].json"))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def results() -> str:
    """One line per data set and arm: mean ± standard deviation over seeds where there is more than one."""
    lines = ["| data | arm | images | student steps | seeds | test accuracy | of the teacher's |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name in ("digits", "mnist", "mnist-reproduction", "fashion-mnist"):
        runs = records(name)
        teacher = statistics.mean(run["teacher"]["test_accuracy"]["percent"] for run in runs)
        for i, arm in enumerate(runs[0]["arms"]):
            values = [run["arms"][i]["test_accuracy"]["percent"] for run in runs]
            title = f"**{arm['title']}**" if i == 0 else arm["title"]
            cells = (
                _DATA[runs[0]["data"]],
                title,
                f"{arm['count']:,}",
                f"{runs[0]['student_steps']:,}",
                str(len(runs)),
                _mean(values),
                f"{teacher:.2f}",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def provenance() -> str:
    """Where each line of the results comes from."""
    lines = ["| record | command | commit | torch | processor | seconds |", "|---|---|---|---|---|---|"]
    for file in sorted((ROOT / "results").glob("*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        cells = (
            f"[{file.stem}](../../results/{file.name})",
            f"`{record['command']}`",
            str(record["commit"])[:8],
            record["versions"]["torch"],
            f"{record['processor']['name']}, {record['threads']} threads",
            f"{sum(record['seconds'].values()):,.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def presets() -> str:
    """Every setting of targets, synthesis and distillation in every preset."""
    names = sorted(preset_names(), key=["paper", "release", "reproduction", "default"].index)
    columns = [_flat(to_values(load_recipe(None, {"preset": name}))) for name in names]
    lines = [f"| setting | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for key in columns[0]:
        if key.split(".")[0] in ("targets", "synthesis", "distill"):
            lines.append(f"| `{key}` | {' | '.join(_cell(column[key]) for column in columns)} |")
    return "\n".join(lines)


def rewritten(page: Path) -> str:
    """Return a page with its tables made anew."""
    makers = {"results": results, "provenance": provenance, "presets": presets}
    text = page.read_text(encoding="utf-8")
    return _BLOCK.sub(lambda found: f"{found[1]}{makers[found[2]]()}\n{found[3]}", text)


def _mean(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_cell(one) for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def main() -> int:
    """Rewrite the pages; with `--check` only tell whether they are stale."""
    stale = [page for page in PAGES if rewritten(page) != page.read_text(encoding="utf-8")]
    if "--check" in sys.argv:
        for page in stale:
            print(f"{page.relative_to(ROOT)} is stale: run python docs/tables.py")
        return int(bool(stale))
    for page in stale:
        page.write_text(rewritten(page), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
