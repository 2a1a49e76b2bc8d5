"""Options that would change nothing are refused in one line, before any work."""

from pathlib import Path

import pytest

from zskd.cli.main import main as run
from zskd.config.loading import load_recipe, to_yaml
from zskd.core.errors import ZskdError
from zskd.teacher.sources import open_sources
from zskd.transfer_set.dataset import TransferSet

Capture = pytest.CaptureFixture[str]


def refusal(capsys: Capture, *arguments: object) -> str:
    """Return the one line that a refused command prints."""
    capsys.readouterr()
    assert run([str(one) for one in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = [one for one in err.splitlines() if one.startswith("zskd: error: ")]
    return line.removeprefix("zskd: error: ")


@pytest.fixture
def there(
    teacher_folder: Path, small_set: TransferSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Path:
    """A folder with a teacher and a set, in which nothing is made."""
    monkeypatch.chdir(tmp_path)
    Path("teacher").symlink_to(teacher_folder)
    Path("set").symlink_to(small_set.folder)
    return tmp_path


MY_TEACHER = "run my-teacher --teacher.path teacher"
DISTILL = "distill teacher set --out student"


@pytest.mark.parametrize(
    ("typed", "needed"),
    [
        ("--distill.generator.method zskt", "--distill.generator.share"),
        ("--distill.generator.method-settings.entropy 5", "--distill.generator.share"),
        ("--distill.image-bank.steps 5", "--distill.image-bank.share"),
        ("--distill.fresh.start shapes", "--distill.fresh.share"),
        ("--distill.replay.keep 100", "--distill.replay.share"),
        ("--distill.features.weight 0 --distill.features.loss fitnets", "--distill.features.weight"),
        ("--distill.augment.cutout-side 0.3", "--distill.augment.cutout"),
        ("--distill.augment.jpeg-quality 30 60", "--distill.augment.jpeg"),
        ("--distill.window-mb 9", "--distill.order by_shard"),
        ("--distill.pictures.share 0.3", "--images"),
        ("--distill.pictures.count 9", "--images"),
        ("--distill.pictures.few-share 0.3", "--few"),
    ],
)
@pytest.mark.parametrize("command", [MY_TEACHER, f"{MY_TEACHER} --print-config", DISTILL])
def test_an_option_of_what_is_off_names_the_one_that_is_missing(
    command: str, typed: str, needed: str, there: Path, capsys: Capture
) -> None:
    option, _, why = refusal(capsys, *command.split(), *typed.split()).partition(" ")
    assert [word for word in typed.split() if word.startswith(option)], option
    assert option != needed
    assert why == f"has no effect without {needed}: give it, too"
    assert {path.name for path in there.iterdir()} == {"teacher", "set"}


@pytest.mark.parametrize(
    "typed",
    [
        "--preset dfad --distill.generator.width 8",
        "--distill.generator.share 0.5 --distill.generator.method zskt",
        "--distill.fresh.share 0.2 --distill.fresh.start shapes",
        "--distill.order by_shard --distill.window-mb 9",
    ],
)
def test_an_option_of_what_a_preset_or_another_option_turns_on_is_taken(typed: str, there: Path) -> None:
    assert run([*MY_TEACHER.split(), "--print-config", *typed.split()]) == 0


def test_a_preset_beside_a_file_that_names_all_settings_is_refused(there: Path, capsys: Capture) -> None:
    Path("all.yaml").write_text(to_yaml(load_recipe("digits", {"preset": "paper"})))
    told = refusal(capsys, "run", "all.yaml", "--preset", "deepinversion", "--print-config")
    assert told.startswith("--preset deepinversion changes nothing: all.yaml names all settings itself")
    assert load_recipe("all.yaml", {"preset": "paper"}) == load_recipe("all.yaml")
    assert load_recipe("digits", {"preset": "deepinversion"}).method == "deepinversion"
    # this setting needs the preset
    Path("few.yaml").write_text("distill: {steps: 9}\n")
    replay = {"distill": {"generator": {"replay": 0.3}}}
    assert load_recipe("few.yaml", {"preset": "conditional"} | replay).preset == "conditional"


def test_a_search_takes_options_of_what_it_may_turn_on(there: Path, capsys: Capture) -> None:
    words = ["tune", "digits", "--trials", "0", "--distill.fresh.start", "shapes"]
    assert "--trials is 0" in refusal(capsys, *words, "--over", "distill.fresh.share=0,0.5")
    assert "--trials is 0" in refusal(capsys, *words, "--over", "preset=default,dfad")
    assert "has no effect without --distill.fresh.share" in refusal(
        capsys, *words, "--over", "distill.tau=1..9"
    )


@pytest.mark.parametrize("command", [MY_TEACHER, DISTILL])
def test_a_number_of_steps_stands_beside_no_budget(command: str, there: Path, capsys: Capture) -> None:
    for steps in ("--distill.steps", "--distill.epochs"):
        for limit in (("--budget", "3"), ("--passes", "9k")):
            line = refusal(capsys, *command.split(), steps, "100", *limit)
            assert line == f"{steps} has no effect beside {limit[0]}: leave one of them out"
    Path("mine.yaml").write_text("distill: {steps: 100}\n")
    assert run(["run", "mine.yaml", "--teacher.path", "teacher", "--budget", "3", "--print-config"]) == 0


def test_the_training_of_a_teacher_that_is_given_is_not_set(there: Path, capsys: Capture) -> None:
    for option, value in (
        *(("steps", 9), ("epochs", 9), ("batch-size", 9), ("optimiser", "sgd"), ("learning-rate", 1)),
        *(("schedule", "constant"), ("l2", 0.1), ("precision", "bfloat16"), ("seed", 3)),
    ):
        line = refusal(capsys, *MY_TEACHER.split(), f"--teacher.{option}", value)
        assert line == f"--teacher.{option} has no effect beside --teacher.path: leave one of them out"


@pytest.mark.parametrize(
    "command",
    [
        "run my-teacher --teacher.path teacher --data.name digits --print-config --data-dir x",
        "evaluate teacher --data.name digits --data.dir x",
        "reproduce digits --status --data-dir x",
    ],
)
def test_a_folder_of_data_that_are_in_none_is_told(command: str, there: Path, capsys: Capture) -> None:
    """Scripts name one folder for all data sets, so it is not refused."""
    assert run(command.split()) == 0
    note = "zskd: note: --data-dir has no effect: digits needs no files"
    assert capsys.readouterr().err.splitlines().count(note) == 1
    assert run(command.replace("digits", "mnist").split()) in (0, 2)
    assert "--data-dir has no effect" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("--method noise --synthesis.steps 9 --synthesis.warp.flip 0.5", ["steps 9", "warp.flip"]),
        ("--method boundary --synthesis.steps 9 --synthesis.learning-rate 1", ["learning-rate"]),
        ("--method deepinversion --preset deepinversion --targets.redraws 9", ["redraws"]),
        ("--method soft_targeted --targets.redraws 9 --targets.normalise matrix", ["normalise"]),
        ("--method zskd --targets.redraws 9 --synthesis.learning-rate 1", []),
        ("--preset dfad --synthesis.learning-rate 1", []),
    ],
)
def test_options_that_the_method_does_not_read_are_told(
    typed: str, told: list[str], there: Path, capsys: Capture
) -> None:
    """Scripts give the same settings to all methods, so they are not refused."""
    run([*MY_TEACHER.split(), "--print-config", *typed.split()])
    notes = [line for line in capsys.readouterr().err.splitlines() if "changes no images" in line]
    assert len(notes) == len(told)
    for note, name in zip(notes, told, strict=True):
        assert f".{name.split()[0]} changes no images of --method {typed.split()[1]}" in note


def test_a_search_of_what_the_method_does_not_read_is_refused(there: Path, capsys: Capture) -> None:
    words, boundary = ["tune", "digits", "--trials", "0", "--over"], ["--method", "boundary"]
    told = refusal(capsys, *words, "synthesis.l2=0,1", *boundary)
    assert told.startswith("synthesis.l2 changes no images of --method boundary")
    assert "--trials is 0" in refusal(capsys, *words, "synthesis.l2=0,1", "--over", "method=boundary,zskd")
    assert "--trials is 0" in refusal(capsys, *words, "synthesis.steps=1..9", *boundary)


@pytest.mark.parametrize(
    "command",
    [
        f"{MY_TEACHER} --print-config --data.validation 0 --data.twin none",
        "evaluate teacher --data.name digits --data.validation 0",
        "synthesize teacher --count 9 --method noise --data.name none --out new",
    ],
)
def test_what_holds_anyway_may_be_said(command: str, there: Path) -> None:
    assert run(command.split()) == 0


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("synthesize teacher --count 9 --data.name digits --out new", "--data.name is for --rate"),
        ("synthesize teacher --data.validation 0 --out new", "--data.validation is for --rate"),
        ("evaluate teacher --data.name digits --data.validation 0.2", "--data.validation divides training"),
        ("evaluate teacher --data.name none --data.twin inverted", "--data.twin is for a data set"),
        (f"{MY_TEACHER} --data.validation 0.2", "--data.validation is for a data set"),
        ("evaluate teacher --teacher-model a.py:b", "--teacher-model is the code of a teacher"),
        ("audit teacher --members a --others b --teacher-model a.py:b", "--teacher-model is the code"),
        ("export set --to mat --out new --teacher teacher", "--teacher and --model compute the logits"),
        ("export set --to mat --out new --model lenet5", "--teacher and --model compute the logits"),
        ("golden net.py:A@w.pt --model net.py:B --shape 1 8 8", "leave out --model net.py:B"),
        ("report digits --teacher-model a.py:b", "--teacher-model is for the page of a run"),
        ("report digits --model a.py:b", "--teacher-model is for the page of a run"),
        ("run digits --print-config --json", "--print-config prints YAML"),
        ("reproduce digits --again --status", "--again runs cells"),
        ("reproduce digits --again --dry-run", "--again runs cells"),
        (
            "tune digits --trials 2 --distill.learning-rate 0.1 --over distill.learning_rate=0.1..1",
            "--distill.learning-rate is given, and distill.learning_rate is searched: leave one",
        ),
    ],
)
def test_an_option_that_a_verb_does_not_read_is_refused(
    command: str, expected: str, there: Path, capsys: Capture
) -> None:
    assert expected in refusal(capsys, *command.split())
    assert not Path("new").exists()


@pytest.mark.parametrize("limit", ["budget: 3", "passes: 9k"])
def test_one_set_takes_no_share_of_a_budget(limit: str, there: Path, capsys: Capture) -> None:
    Path("mine.yaml").write_text(f"{limit}\nmethod: noise\n")
    words = ("synthesize", "teacher", "--recipe", "mine.yaml", "--workers", "1", "--out", "new")
    assert "mine.yaml has a budget, which zskd run divides" in refusal(capsys, *words)
    assert run([*words, "--count", "9", "--quiet"]) == 0
    assert len(TransferSet(Path("new"))) == 9


def test_two_classes_of_a_teacher_to_be_trained_are_not_named_alike() -> None:
    recipe = load_recipe("digits", {"teacher": {"class_names": [*"abcdefghia"]}})
    with pytest.raises(ZskdError, match="--class-names has 'a' twice: give each class a name of its own"):
        open_sources(recipe)


def test_a_search_of_what_is_off_names_what_is_missing(there: Path, capsys: Capture) -> None:
    words = ["tune", "digits", "--trials", "4", "--over", "distill.fresh.start=shapes,waves"]
    assert refusal(capsys, *words) == (
        "--distill.fresh.start has no effect without --distill.fresh.share: give it, too"
    )
    assert {path.name for path in there.iterdir()} == {"teacher", "set"}
