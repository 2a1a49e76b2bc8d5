"""The tables of docs/plan.md, from results/plan.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

from records import RESULTS
from zskd.core.progress import readable_seconds
from zskd.core.tables import markdown_table
from zskd.run.plan.tables import core_hours

_WORKERS = (1, 2)
Round = dict[str, Any]


def _record() -> dict[str, Any]:
    record: dict[str, Any] = json.loads((RESULTS / "plan.json").read_text(encoding="utf-8"))
    return record


def plan_and_run() -> str:
    """Seconds by stage that were planned, and that the runs took."""
    record = _record()
    rounds: list[Round] = record["rounds"]
    stages = list(rounds[0]["runs"][0]["seconds_by_stage"])

    def row(name: str, of_plan: Callable[[Round, int], float], of_run: Callable[[Round, int], float]) -> Any:
        cells = [name]
        for number in range(len(_WORKERS)):
            for values in (of_plan, of_run):
                cells.append(_range(values(one, number) for one in rounds))
        return cells

    rows = [
        row(
            stage,
            lambda one, number, stage=stage: _planned(one["plan"], number)[stage],  # type: ignore[misc]
            lambda one, number, stage=stage: one["runs"][number]["seconds_by_stage"][stage],  # type: ignore[misc]
        )
        for stage in stages
    ]
    rows.append(
        row(
            "all",
            lambda one, number: one["plan"]["workers"][number]["seconds"],
            lambda one, number: sum(one["runs"][number]["seconds_by_stage"].values()),
        )
    )
    head = [
        "stage",
        *(f"{one} worker{'s' * (one > 1)}, {what}" for one in _WORKERS for what in ("plan", "run")),
    ]
    return f"{markdown_table(head, rows)}\n\n{_facts(record)}"


def _planned(plan: dict[str, Any], number: int) -> dict[str, float]:
    """Return the planned seconds by the stages of a run, whose first set also starts the first workers."""
    at = plan["workers"][number]
    found: dict[str, float] = dict(at["seconds_by_stage"])
    found["evaluation"] += found.pop("held-out images")
    first = next(stage for stage in found if stage.startswith("set "))
    found[first] += at["seconds"] - sum(found.values())
    return found


def _range(values: Iterable[float]) -> str:
    found = sorted(values)
    spread = f" ({found[0]:.0f} to {found[-1]:.0f})" if len(found) > 1 else ""
    return f"{median(found):.0f} s{spread}"


def _facts(record: dict[str, Any]) -> str:
    rounds = record["rounds"]
    plan, runs = rounds[0]["plan"], [run for one in rounds for run in one["runs"]]
    run = runs[0]
    loads = sorted([one["plan"]["load"] for one in rounds] + [run["load"] for run in runs])
    spent = _range(one["plan"]["planning_seconds"] for one in rounds)
    beside = _range(run["seconds"] - sum(run["seconds_by_stage"].values()) for run in runs)
    planned = {
        kind: sum(stage[f"{kind}_passes"] for stage in plan["stages"].values())
        for kind in ("teacher", "student")
    }
    planned["teacher"] -= plan["stages"]["teacher"]["teacher_passes"]  # its training, not counted in a run
    needs = {
        "Passes of the teacher": (f"{planned['teacher']:,}", f"{run['teacher_passes']:,}"),
        "of students": (f"{planned['student']:,}", f"{run['student_passes']:,}"),
        "files": (_megabytes(plan["disk_bytes"]), _megabytes(run["bytes"])),
        "largest worker": (
            _megabytes(plan["memory_bytes_per_worker"]),
            _megabytes(max(run["largest_worker_bytes"] for run in runs)),
        ),
    }
    told = ", ".join(f"{name} {of_plan} ({of_run})" for name, (of_plan, of_run) in needs.items())
    return (
        f"Median (least to most) of n = {len(rounds)} rounds of `zskd plan {record['recipe']}` and two runs. "
        f"A plan took {spent}; a run took {beside} beside its stages. {told}, planned (and measured).\n\n"
        f"{_origin(record)} Load of the machine: {loads[0]:g} to {loads[-1]:g}."
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


def _origin(record: dict[str, Any]) -> str:
    machine = record["processor"]
    return (
        f"`{record['command']}`, commit {str(record['commit'])[:8]}, torch {record['versions']['torch']}, "
        f"{machine['name']} with {machine['cores']} cores."
    )


def plan_sleepers() -> str:
    """Seconds of tasks that sleep, simulated and measured."""
    found = _record()["sleeping"]
    rows = [
        (
            str(one["workers"]),
            f"{one['tasks'] * one['seconds_of_a_task'] / one['workers']:.1f} s",
            f"{one['simulated']:.1f} s",
            f"{one['measured']:.1f} s",
            f"{1000 * one['seconds_per_task']:.1f} ms",
            f"{one['start_seconds']:.1f} s",
        )
        for one in found
    ]
    head = ("workers", "tasks alone", "simulated", "measured", "for a task", "start and end")
    return markdown_table(head, rows)


def plan_far() -> str:
    """A larger set, planned for up to 1,000 workers."""
    record = _record()
    plan = record["large"]
    rows = [
        (
            f"{one['workers']:,}",
            readable_seconds(one["seconds"]),
            core_hours(one["core_hours"]),
            f"{100 * one['at_work']:.0f} %",
        )
        for one in plan["workers"]
    ]
    words = (
        f"`zskd plan {record['large_recipe']}`, in {plan['planning_seconds']:.0f} s: more than "
        f"{plan['workers_that_help']:,} workers save less than 5 %. Load of the machine: {plan['load']:g}."
    )
    return f"{markdown_table(('workers', 'time', 'core-hours', 'at work'), rows)}\n\n{words}"


PLAN_TABLES = {"plan-and-run": plan_and_run, "plan-sleepers": plan_sleepers, "plan-far": plan_far}
