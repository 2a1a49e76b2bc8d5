"""Tables in a terminal: they fit, nothing of a cell is lost, and a run shows the best and the controls."""

import re
from pathlib import Path

import pytest

from zskd.core.tables import WIDTH, Table
from zskd.evaluation.gain import gain_table
from zskd.evaluation.statistics import share_of
from zskd.run.metrics import ArmMetrics, RunMetrics, read_metrics
from zskd.run.summary import summary_lines
from zskd.run.tables import agreement_table, results_table, sizes_table

RESULTS = Path(__file__).resolve().parents[2] / "results"
ESCAPE = "\x1b"
LONG = "ZSKD_BN (by_teacher) + --images, --few"


def arm(of: ArmMetrics, name: str, title: str, correct: int) -> ArmMetrics:
    agreement = dict.fromkeys(of.agreement, share_of(500, 500))
    agreement["impressions"] = share_of(correct, 500)
    changes = {"arm": name, "title": title, "agreement": agreement, "test_accuracy": share_of(correct, 500)}
    return of.model_copy(update=changes)


@pytest.fixture(scope="module")
def metrics() -> RunMetrics:
    """A run with several students, a long name, and a control that is better than the method."""
    found = read_metrics(RESULTS / "students.json")
    main = found.arms[0]
    arms = (
        arm(main, "zskd", LONG, 450),
        arm(main, "zskd_alone", f"{LONG} alone", 440),
        arm(main, "noise_shapes", "random shapes", 460),
        arm(main, "noise_white", "white noise", 120),
    )
    long = found.sizes[0].model_copy(update={"network": "resnet14(width=1.07)"})
    return found.model_copy(update={"arms": arms, "sizes": (long, *found.sizes[1:])})


@pytest.fixture(scope="module")
def without_data(metrics: RunMetrics) -> RunMetrics:
    nothing = {"test_accuracy": None}
    return metrics.model_copy(
        update={
            "teacher": metrics.teacher.model_copy(update=nothing),
            "arms": tuple(one.model_copy(update=nothing) for one in metrics.arms),
            "sizes": tuple(one.model_copy(update=nothing) for one in metrics.sizes),
        }
    )


def tables_of(lines: list[str]) -> list[str]:
    """All lines but the sentences below the tables."""
    last = max(number for number, line in enumerate(lines) if line.startswith("──"))
    return lines[: lines.index("", last)]


@pytest.mark.parametrize("which", ["metrics", "without_data"])
def test_all_tables_of_a_run_fit_a_terminal(which: str, request: pytest.FixtureRequest) -> None:
    lines = tables_of(summary_lines(request.getfixturevalue(which)))
    assert sum(line.startswith("──") for line in lines) == 4
    assert max(map(len, lines)) <= WIDTH
    assert ESCAPE not in "".join(lines)


def test_a_table_is_the_same_for_every_pipe(metrics: RunMetrics, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = summary_lines(metrics)
    for name, value in {"COLUMNS": "40", "FORCE_COLOR": "1", "TERM": "dumb", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
        assert summary_lines(metrics) == plain


def test_bold_letters_are_the_only_difference_on_a_terminal(metrics: RunMetrics) -> None:
    table = results_table(metrics)
    styled = table.lines(styled=True)
    bold = [line for line in styled if ESCAPE in line]
    assert len(bold) == 2  # the heading, and the best
    assert "random shapes" in bold[1]
    without = [re.sub(r"\x1b\[\d*m", "", line).rstrip() for line in styled]
    assert without == table.lines()


def test_the_best_comes_first_below_the_teacher_and_controls_are_named(metrics: RunMetrics) -> None:
    table = results_table(metrics)
    assert [(row[0], row[3]) for row in table.rows] == [
        ("teacher", ""),
        ("random shapes", "control, best"),
        (LONG, ""),
        (f"{LONG} alone", ""),
        ("white noise", "control"),
    ]
    assert table.rows[1][2].startswith("92.00 [")
    assert [row[0] for row in agreement_table(metrics).rows] == [row[0] for row in table.rows[1:]]


def test_without_data_agreement_decides_and_the_teacher_has_no_row(without_data: RunMetrics) -> None:
    table = results_table(without_data)
    assert table.head[2] == "agreement on held-out impressions, %"
    assert [row[0] for row in table.rows][:2] == ["random shapes", LONG]
    sizes = sizes_table(without_data)
    assert sizes is not None
    assert "accuracy" not in " ".join(sizes.head)


def test_equal_students_are_all_the_best_and_one_alone_is_not(metrics: RunMetrics) -> None:
    sizes = sizes_table(metrics)
    assert sizes is not None
    assert [row[-1] for row in sizes.rows] == ["best", "best", "", ""]
    alone = metrics.model_copy(update={"arms": metrics.arms[:1], "sizes": ()})
    assert [row[-1] for row in results_table(alone).rows] == ["", ""]
    assert sizes_table(alone) is None


def test_what_all_arms_share_is_one_sentence(metrics: RunMetrics) -> None:
    (line,) = (one for one in summary_lines(metrics) if one.startswith("The student of each arm"))
    assert "takes 400 steps and has 20,042 parameters; the teacher has 61,706 parameters" in line
    assert not any("steps" in cell or "parameters" in cell for cell in results_table(metrics).head)


def test_nothing_of_a_cell_is_lost_where_it_is_wrapped(metrics: RunMetrics) -> None:
    assert metrics.gain is not None
    name = "narrow:0.5: resnet14(width=1.07) with_a_name_that_is_longer_than_its_column_can_ever_be[1]"
    cost = metrics.gain.teacher.model_copy(update={"multiply_adds": 3_671_262_208, "parameters": 21_797_672})
    table = gain_table([":smile: [bold]", name], [cost, cost])
    lines = table.lines()
    assert max(map(len, lines)) <= WIDTH
    first = lines[[line[:2] for line in lines].index("──") + 1 :]
    width = first[1].index("21,797,672")
    shown = "".join(line[:width].strip() for line in first)
    assert shown == f":smile: [bold]{name}".replace(") with", ")with").replace(": resnet", ":resnet")
    for cell in ("3,671,262,208", "(1.00×)"):
        assert any(cell in line for line in first)


def test_markdown_has_two_lines_of_a_cell_side_by_side() -> None:
    table = Table(["network", "bytes"], [["student", "10\n(0.50×)"]], "cost")
    assert table.markdown() == "| network | bytes |\n|---|---|\n| student | 10 (0.50×) |"
