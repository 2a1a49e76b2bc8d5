"""Pages of help: the most used settings in groups, all of them on request; and lists that may be empty."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from conftest import run_zskd
from zskd.cli.app import app
from zskd.cli.help import default_in_help
from zskd.cli.main import main as run
from zskd.config.checks import from_values
from zskd.config.groups import DETAILS
from zskd.config.loading import load_recipe, recipe_names
from zskd.config.training import FitConfig, NetworkConfig, TeacherConfig

MOST_USED = (
    *(
        "--preset",
        "--seed",
        "--method",
        "--count",
        "--rate",
        "--budget",
        "--passes",
        "--controls",
        "--student",
    ),
    *("--teacher.path", "--model", "--weights", "--shape", "--mean", "--std", "--box", "--golden"),
    *("--data.name", "--data-dir", "--out", "--quiet", "--verbose", "--workers", "--threads", "--device"),
)
VERBS = [
    *([name] for name in app if not name.startswith("-") and name not in ("teacher", "show")),
    *(["teacher", name] for name in ("train", "import")),
    *(["show", name] for name in ("similarity", "samples", "filmstrip")),
]


def options(text: str) -> list[str]:
    """Options that have a line of their own."""
    return [
        one for line in re.findall(r"^  (-.*)$", text, re.MULTILINE) for one in re.findall(r"--[\w.-]+", line)
    ]


def titles(text: str) -> list[str]:
    return re.findall(r"^(\w.*):$", text, re.MULTILINE)


@pytest.fixture(scope="module")
def page() -> str:
    return run_zskd("run", "--help", COLUMNS="80").stdout


def test_the_page_of_run_fits_and_has_what_people_need(page: str) -> None:
    lines = page.splitlines()
    assert len(lines) <= 60
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert not set(MOST_USED) - set(options(page))
    assert titles(page) == [
        "Arguments",
        "What to make",
        "Teacher",
        "Data",
        "Output",
        "This machine",
    ]
    assert not DETAILS & set(titles(page))
    assert lines[-1] == "--help-all lists all settings, and says more about these."
    assert f"RECIPE                  {', '.join(recipe_names())}, or FILE.yaml" in lines[5]


def test_help_all_of_run_has_every_group_and_all_words(page: str) -> None:
    text = run_zskd("run", "--help-all", COLUMNS="80").stdout
    assert set(options(page)) < set(options(text))
    assert set(titles(page)) | DETAILS == set(titles(text))
    assert "An impression is finished when the Kullback–Leibler divergence" in " ".join(text.split())
    assert "--help-all" not in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_has_both_pages_without_negatives_of_lists(
    verb: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*verb, "--help"]) == 0
    short = capsys.readouterr().out
    assert run([*verb, "--help-all"]) == 0
    full = capsys.readouterr().out
    assert not set(options(short)) - set(options(full))
    for text in (short, full):
        assert "empty" not in text
        switches = [one for one in options(text) if re.search(r"--(.*\.)?no-", one)]
        assert all(one.replace("no-", "", 1) in options(text) for one in switches)


def test_import_shows_the_settings_of_import_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["teacher", "import", "--help-all"]) == 0
    shown = {
        one.removeprefix("--teacher.") for one in options(capsys.readouterr().out) if "--teacher." in one
    }
    assert shown == {one.name.replace("_", "-") for one in fields(NetworkConfig)}
    training = {one.name for one in fields(FitConfig)}
    assert not shown & training
    assert {one.name for one in fields(TeacherConfig)} == training | {
        *("path", "seed", "model", "weights", "shape", "mean", "std", "box", "class_names", "head", "golden"),
    }
    assert run(["teacher", "import", "x.pt", "--teacher.epochs", "3", "--out", "t"]) == 2
    assert "--teacher.epochs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "controls"),
    [
        (["--controls", "none"], "[]"),
        (["--controls=none"], "[]"),
        (["--empty-controls"], "[]"),  # in commands that are recorded with results
        (["--controls", "noise_white", "noise_smooth"], "[noise_white, noise_smooth]"),
        (["--controls", "noise_white", "--controls", "noise_smooth"], "[noise_white, noise_smooth]"),
        ([], "null"),  # what is usual with data, and without
    ],
)
def test_controls_may_be_none(typed: list[str], controls: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "my-teacher", "--print-config", *typed]) == 0
    assert f"\ncontrols: {controls}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "typed",
    [
        ["--students", "mlp(widths=(8, 4)),budget:2k,half"],
        ["--students=mlp(widths=(8, 4)), budget:2k,half"],
        ["--students", "mlp(widths=(8, 4))", "budget:2k", "half"],
    ],
)
def test_students_are_told_apart_by_commas_or_blanks(
    typed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["run", "my-teacher", "--print-config", *typed]) == 0
    shown = capsys.readouterr().out
    assert "\nstudents: ['mlp(widths=(8, 4))', 'budget:2k', half]\n" in shown
    assert "\nstudent: mlp(widths=(8, 4))\n" in shown


def test_none_is_no_control_beside_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "my-teacher", "--print-config", "--controls", "none", "noise_white"]) == 2
    assert "--controls is 'none', which is no control" in capsys.readouterr().err


def test_short_names_are_the_same_settings(capsys: pytest.CaptureFixture[str]) -> None:
    typed = ["--box", "0.1", "0.9", "--class-names", "cat", "dog", "--shape", "3", "8", "8"]
    assert run(["run", "my-teacher", "--print-config", *typed]) == 0
    short = capsys.readouterr().out
    assert run(["run", "my-teacher", "--print-config", *(t.replace("--", "--teacher.") for t in typed)]) == 0
    assert capsys.readouterr().out == short
    assert "box: [0.1, 0.9]" in short


def test_the_teacher_of_a_recipe_is_a_network() -> None:
    teacher = load_recipe("my-teacher", {"teacher": {"model": "mlp", "mean": [0.5]}}).teacher
    assert isinstance(teacher, NetworkConfig)
    network = from_values(NetworkConfig, {"model": "mlp", "mean": [0.5]}, "test")
    assert all(getattr(teacher, one.name) == getattr(network, one.name) for one in fields(NetworkConfig))


def test_defaults_are_shown_as_they_are_typed() -> None:
    assert default_in_help((1, 32, 32)) == "1 32 32"
    assert default_in_help(0.0) == "0.0"
    assert default_in_help(0) == "0"
    assert default_in_help(Path("results")) == "results"
    assert [default_in_help(one) for one in (None, False, {}, ())] == [None] * 4
