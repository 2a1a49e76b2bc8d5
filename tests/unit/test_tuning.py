"""Searches: which settings are tried, and what is refused before any work."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import optuna
import pytest

from zskd.cli.main import main as run
from zskd.config.loading import load_recipe
from zskd.core.artefact import JsonObject
from zskd.core.errors import ZskdError
from zskd.tuning.journal import read_journal
from zskd.tuning.proposals import Proposer, Sampler
from zskd.tuning.space import Choices, Range, Space, check_space, nested, read_space

SPACE = """
distill.learning_rate: {low: 1e-4, high: 0.1, log: true}
distill.tau: {low: 1, high: 3.9, step: 0.5}
distill.steps: {low: 100, high: 400}
synthesis.start: {choices: [shapes, procedural]}
targets.betas: {choices: [[0.1, 1.0], [1.0]]}
"""


def test_a_file_and_options_give_the_same_space(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    space = read_space(tmp_path / "space.yaml", ["distill.batch_size=16..64:16"])
    assert space == {
        "distill.learning_rate": Range(1e-4, 0.1, log=True),
        "distill.tau": Range(1.0, 3.5, step=0.5),  # the last value that the steps reach
        "distill.steps": Range(100, 400, step=1, whole=True),
        "synthesis.start": Choices(("shapes", "procedural")),
        "targets.betas": Choices(([0.1, 1.0], [1.0])),
        "distill.batch_size": Range(16, 64, step=16, whole=True),
    }
    typed = ["distill.learning_rate=1e-4..0.1:log", "distill.tau=1..3.9:0.5", "distill.steps=100..400"]
    again = read_space(None, [*typed, "synthesis.start=shapes,procedural"])
    students = read_space(None, ["student=mlp(widths=(8,4)),../net.py:build,narrow:0.5"])["student"]
    assert students == Choices(("mlp(widths=(8,4))", "../net.py:build", "narrow:0.5"))
    assert again == {key: space[key] for key in again}
    assert nested({"distill.tau": 2, "distill.steps": 9, "count": 7}) == {
        "distill": {"tau": 2, "steps": 9},
        "count": 7,
    }


WRONG = {
    "distill.tua=1..2": "--over: unknown key distill.tua: did you mean distill.tau?",
    "distill=1..2": "distill is a group of settings",
    "distill.tau.x=1..2": "there is no x in it",
    "data.validation=0.1..0.5": "cannot be searched, because all trials have the same teacher, data and seed",
    "seed=0..3": "cannot be searched",
    "distill.tau": "has no values: write distill.tau=LOW..HIGH",
    "distill.tau=2..1": "low is 2 and high is 1: low must be below high",
    "distill.tau=0..1:log": "with log it must be above 0",
    "distill.tau=1..2:5": "step is 5: it must be above 0 and at most 1",
    "distill.tau=1..many": "high is 'many': it must be a number",
    "distill.tau=1..nan": "high is 'nan': it must be a number",
    f"distill.steps=1..{10**400}": "it must be a number",
    "distill.steps=1..2.5": "high is 2.5: it must be an integer",
    "distill.loss=1..2": "is no number: give choices",
    "distill.tau=1,1": "give each choice once",
    "distill.tau=-1..2": "distill.tau cannot be -1.0: --distill.tau is -1",
    "method_settings.sprad=0.5,2": "method_settings.sprad cannot be 0.5: --method-settings of zskd: unknown",
    "distill.loss=kl,klx": "distill.loss cannot be 'klx': --distill.loss is 'klx'",
}


@pytest.mark.parametrize("over", WRONG)
def test_a_wrong_range_is_one_line(over: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run(["tune", "digits", "--over", over, "--trials", "3", "--out", str(out), "--quiet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert WRONG[over] in line
    assert not out.exists()


def test_settings_of_a_method_are_searched_with_methods_that_have_them() -> None:
    def check(*over: str) -> None:
        check_space(read_space(None, over), lambda more: load_recipe("digits", more))

    check("method=soft_targeted", "method_settings.spread=0.5..2")
    check("preset=boundary", "method_settings.halvings=2,3")
    # a method that needs a setting which is searched, too
    check("method=adi", "method_settings.student=one,other", "distill.tau=1..9")
    for name, other in (("method=soft_targeted,zskd", "method zskd"), ("preset=paper", "preset paper")):
        with pytest.raises(ZskdError, match=f"spread cannot be 0.5 with {other}: .* unknown key spread"):
            check(name, "method_settings.spread=0.5..2")


def test_a_setting_of_a_method_that_is_an_integer_is_searched_as_one() -> None:
    def range_of(over: str, **more: Any) -> Range:
        recipe = {"preset": "boundary", **more}
        (found,) = check_space(
            read_space(None, [over]), lambda own: load_recipe("digits", recipe | own)
        ).values()
        assert isinstance(found, Range)
        return found

    assert range_of("method_settings.halvings=2..6") == Range(2, 6, step=1, whole=True)
    assert not range_of("method_settings.overshoot=0.1..0.5").whole
    with pytest.raises(ZskdError, match=r"step is 1.5: it must be an integer"):
        range_of("method_settings.halvings=2..6:1.5")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--over", "distill.generator.method_settings.wrong=1..2"], "unknown key wrong"),
        (
            ["--over", "distill.tau=1..9", "--distill.generator.method-settings.wrong", "1"],
            "unknown key wrong",
        ),
        (["--over", "distill.tau=1..9", "--method-settings.wrong", "1"], "there is nothing to choose"),
        (
            [
                "--over",
                "method_settings.spread=1..2",
                "--method",
                "soft_targeted",
                "--method-settings.spread",
                "1",
            ],
            "--method-settings.spread is given, and method_settings.spread is searched",
        ),
    ],
)
def test_settings_of_methods_are_checked_before_any_work(
    options: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tuning"
    share = ("--distill.generator.share", "0.5", "--distill.generator.method", "dfq")
    assert run(["tune", "digits", "--trials", "3", *share, *options, "--out", str(out), "--quiet"]) == 2
    assert line in capsys.readouterr().err
    assert not out.exists()


FILES = {
    "distill.tau: 3": "write {low: 1, high: 20} or {choices: [a, b]}",
    "distill.tau: {low: 1}": "the key high is missing",
    "distill.tau: {low: 1, hihg: 2}": "unknown key hihg: did you mean high?",
    "distill.tau: {low: 1, high: 2, log: 3}": "log is 3: it must be true or false",
    "distill.tau: {low: 1, high: 4, log: true, step: 1}": "give log or step, not both",
    "distill.tau: {choices: [1, 2], low: 1}": "choices is a list, and stands alone",
    "distill.tau: {choices: [1, .nan]}": "choices must be finite numbers",
    "distill.tau: !!python/name:os.system": "it names a type",
    "student: {choices: [half, 'evil.py:build']}": "names the code evil.py:build, which would run",
    "{}": "there is nothing to search",
}


@pytest.mark.parametrize("text", FILES)
def test_a_wrong_file_is_one_line(text: str, tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(text)
    with pytest.raises(ZskdError) as told:
        read_space(file, [])
    assert FILES[text] in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--trials", "0"], "--trials is 0: it must be at least 1"),
        (["--trials", "3", "--together", "0"], "--together is 0"),
        (["--trials", "3", "--budget", "1"], "a search has no --budget"),
        (["--trials", "3", "--data.validation", "0"], "a search needs validation images"),
        (["--trials", "3", "--sampler", "grid"], "distill.tau: a grid needs a step or choices"),
        (["--trials", "3", "--over", "distill.tau=1,2"], "--over 'distill.tau' is given 2 times"),
    ],
)
def test_what_cannot_be_searched_is_one_line(
    options: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["tune", "digits", "--over", "distill.tau=1..9", *options, "--out", str(tmp_path), "--quiet"]
    assert run(given) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert line in told


def test_a_grid_has_its_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["tune", "digits", "--over", "distill.tau=1..9:1e-6", "--trials", "3", "--sampler", "grid"]
    assert run([*given, "--out", str(tmp_path), "--quiet"]) == 2
    assert "the grid has more than 10,000 points" in capsys.readouterr().err


def searched(sampler: Sampler, rounds: Sequence[Sequence[float | None]], seed: int = 5) -> list[JsonObject]:
    """The proposals of all rounds; the last of them has no values yet."""
    space: Space = {
        "distill.learning_rate": Range(1e-4, 0.1, log=sampler != "grid", step=None),
        "distill.tau": Range(1.0, 3.5, step=0.5),
        "distill.steps": Range(100, 104, step=1, whole=True),
        "synthesis.start": Choices(("shapes", "procedural")),
    }
    if sampler == "grid":
        del space["distill.learning_rate"]
    proposer, found = Proposer(space, sampler, seed), list[JsonObject]()
    for values in rounds:
        found += proposer.ask(len(values))
        proposer.tell(values)
    return found


@pytest.mark.parametrize("sampler", get_args(Sampler))
def test_proposals_are_a_function_of_seed_and_values(sampler: Sampler) -> None:
    rounds = [[50.0 + 7 * number % 13 for number in range(start, start + 4)] for start in range(0, 20, 4)]
    rounds[1] = [None, 60.0, 55.0, None]
    found = searched(sampler, rounds)
    assert found == searched(sampler, rounds)
    assert found[:12] == searched(sampler, rounds[:3])
    # values of the last round come too late for it
    assert found == searched(sampler, [*rounds[:-1], [1.0, 2.0, 3.0, 4.0]])
    assert found[:18] == searched(sampler, [*rounds[:-1], [0.0, 0.0]])
    assert found != searched(sampler, rounds, seed=6)
    other = searched(sampler, [*rounds[:2], [90.0, 1.0, 1.0, 1.0], *rounds[3:]])
    assert found[:12] == other[:12]
    assert (found == other) == (sampler != "tpe")  # which alone looks at them
    for settings in found:
        assert settings["distill.tau"] in (1.0, 1.5, 2.0, 2.5, 3.0, 3.5)
        assert settings["distill.steps"] in range(100, 105)
        assert settings["synthesis.start"] in ("shapes", "procedural")
        rate = settings.get("distill.learning_rate", 0.1)
        assert isinstance(rate, float)
        assert 1e-4 <= rate <= 0.1
        assert rate == float(f"{rate:.4g}")


def test_a_grid_is_tried_once_each() -> None:
    points = searched("grid", [[None] * 60])
    assert len({tuple(one.values()) for one in points}) == 6 * 5 * 2


def test_optuna_alone_proposes_the_same() -> None:
    """Asked in the usual way, one trial after the other, each told at once."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    values = [3.0, 1.0, 4.0, 1.5, 9.0, 2.0, 6.0, 5.0, 3.5, 8.0, 9.5, 7.0, 9.2, 3.0]
    sampler = optuna.samplers.TPESampler(seed=5, constant_liar=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for value in values:
        trial = study.ask()
        trial.suggest_float("distill.learning_rate", 1e-4, 0.1, log=True)
        trial.suggest_int("distill.steps", 100, 104)
        trial.suggest_float("distill.tau", 1, 3.5, step=0.5)
        trial.suggest_categorical("synthesis.start", [0, 1])
        study.tell(trial, value)
    ours: list[Any] = searched("tpe", [[value] for value in values])
    for one, other in zip(ours, study.trials, strict=True):
        assert one["distill.learning_rate"] == pytest.approx(other.params["distill.learning_rate"], rel=1e-3)
        assert (one["distill.tau"], one["distill.steps"]) == (
            other.params["distill.tau"],
            other.params["distill.steps"],
        )


@pytest.mark.parametrize("text", ["{", "[]", '{"number": -1}', '{"number": 0, "number": 1}', "\0"])
def test_a_damaged_journal_is_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "tuning.jsonl"
    assert read_journal(path) == []
    path.write_text(text)
    with pytest.raises(ZskdError, match=r"line 1\b.*: choose another folder with --out") as told:
        read_journal(path)
    assert "\n" not in str(told.value)
