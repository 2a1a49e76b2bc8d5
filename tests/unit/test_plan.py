"""The plan of an experiment: valid YAML files, the cells of a plan, and what a cell's key depends on."""

import copy
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from zskd.cli.main import main as run
from zskd.config.identity import to_values
from zskd.config.loading import load_recipe
from zskd.config.yaml import merge
from zskd.core.errors import ZskdError
from zskd.experiment.definition import TEACHER, Experiment, experiment_names, load_experiment, on_twin
from zskd.experiment.plan import Cell, plan_cells

BASE: dict[str, Any] = {
    "name": "tiny",
    "recipe": "digits",
    "settings": {"threads": 1, "distill": {"steps": 4}},
    "arms": {
        "labels_all": {"title": "labels", "images": "all real"},
        "real_kd": {"title": "KD, real images", "images": "real"},
        "default": {"title": "ZSKD"},
        "longer": {"title": "its own", "own_schedule": True, "settings": {"preset": "reproduction"}},
        "shared": {"title": "shared schedule", "settings": {"preset": "reproduction"}},
    },
    "plan": [
        {"arms": ["labels_all"], "seeds": 2},
        {"arms": ["real_kd", "default"], "rates": [2, 5], "seeds": 3},
        {"arms": ["longer", "shared"], "rates": [40]},
    ],
    "contrasts": [{"first": "default", "second": "real_kd", "rate": 5}],
    "reported": [
        {"arm": "default", "at": {"5": 70.5}, "source": "somebody 2019"},
        {"arm": "teacher", "at": {"all": 99.5}, "source": "somebody 2019"},
    ],
}
ALONE: dict[str, Any] = {"contrasts": []}
SOURCES = {"data_sha256": "d" * 64}


def changed(*path: Any, to: Any) -> dict[str, Any]:
    """The plan above with one value set."""
    values = copy.deepcopy(BASE)
    level = values
    for key in path[:-1]:
        level = level.setdefault(key, {}) if isinstance(level, dict) else level[key]
    level[path[-1]] = to
    return values


def load(folder: Path, values: dict[str, Any], settings: dict[str, Any] | None = None) -> Experiment:
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    return load_experiment(str(file), settings)


def cell(folder: Path, name: str, values: dict[str, Any] | None = None) -> Cell:
    """One cell of a plan of which all others are struck off, for speed."""
    arm, *rate, seed = name.split("-")
    block = {"arms": [arm], "rates": [float(one) for one in rate], "seeds": int(seed) + 1}
    plan = [block if arm != TEACHER else block | {"arms": []}]
    only = (values or BASE) | {"plan": plan, "contrasts": []}
    if arm == TEACHER:
        only["plan"].append({"arms": ["labels_all"], "seeds": int(seed) + 1})
    return next(one for one in plan_cells(load(folder, only)) if one.name == name)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown arm": (
        changed("plan", 1, "arms", to=["defautl"]),
        "there is no arm 'defautl': give it under arms",
    ),
    "unknown arm compared": (changed("contrasts", 0, "second", to="nois"), "there is no arm 'nois'"),
    "unknown arm printed": (changed("reported", 0, "arm", to="nois"), "there is no arm 'nois'"),
    "unknown key": (changed("contrast", to=[]), "unknown key contrast: did you mean contrasts?"),
    "unknown key of an arm": (
        changed("arms", "default", "titel", to="x"),
        "unknown key arms.default.titel: did you mean arms.default.title?",
    ),
    "unknown key of a block": (changed("plan", 0, "seed", to=3), "plan.0.seed: did you mean plan.0.seeds?"),
    "unknown key of a contrast": (changed("contrasts", 0, "at", to=5), "unknown key contrasts.0.at"),
    "unknown key of a publication": (changed("reported", 1, "by", to="x"), "unknown key reported.1.by"),
    "unknown setting": (changed("settings", "distil", to={}), "unknown key distil: did you mean distill?"),
    "unknown setting of an arm": (
        changed("arms", "default", "settings", to={"synthesis": {"stepz": 3}}),
        "arm default: the settings: unknown key synthesis.stepz: did you mean synthesis.steps?",
    ),
    "arm with data of its own": (
        changed("arms", "default", "settings", to={"data": {"name": "mnist"}}),
        "arm default cannot have a data of its own: give it for all, under settings",
    ),
    "arm with a rate of its own": (
        changed("arms", "default", "settings", to={"rate": 3}),
        "arm default cannot have a rate of its own",
    ),
    "rates for an arm without": (
        changed("plan", 0, "rates", to=[5]),
        "the plan must give labels_all no rates",
    ),
    "no rates for an arm with": (changed("plan", 1, "rates", to=[]), "the plan must give real_kd its rates"),
    "no seeds": (changed("plan", 0, "seeds", to=0), "seeds is 0: it must be at least 1"),
    "more seeds than teachers": (
        changed("teachers", to=[0, 0]),
        "the plan has 3 seeds and teachers lists 2: give each seed its teacher",
    ),
    "a teacher of an impossible seed": (
        changed("teachers", to=[0, -1, 0]),
        "arm teacher: --teacher.seed is -1: it must be at least 0",
    ),
    "teachers that are no seeds": (changed("teachers", to=["a"]), "teachers.0: Input should be"),
    "a teacher's seed for all": (
        changed("settings", "teacher", to={"seed": 7}),
        "settings cannot have a teacher.seed: give teachers, one for each seed",
    ),
    "no plan": (changed("plan", to=[]), "the plan names no arm"),
    "no arms in the plan": (changed("plan", to=[{"arms": []}]), "the plan names no arm"),
    "an arm called teacher": (
        changed("arms", "teacher", to={"title": "mine"}),
        "an arm cannot be called teacher: that is the teachers themselves",
    ),
    "arms as a list": (changed("arms", to=["default"]), "arms: Input should be a valid dictionary"),
    "an arm without title": (changed("arms", "default", to={}), "arms.default.title: Field required"),
    "unknown images": (
        changed("arms", "default", "images", to="fake"),
        "arms.default.images: Input",
    ),
    "rate as one number": (changed("plan", 1, "rates", to=10), "plan.1.rates: Input should be"),
    "rate of nothing": (changed("plan", 1, "rates", to=[0]) | ALONE, "arm real_kd: --rate is 0.0"),
    "rate of too much": (changed("plan", 1, "rates", to=[101]) | ALONE, "arm real_kd: --rate is 101.0"),
    "unknown recipe": (changed("recipe", to="digitz"), "there is no recipe 'digitz': did you mean digits?"),
    "unknown preset": (changed("arms", "shared", "settings", to={"preset": "papr"}), "did you mean paper?"),
    "a name that is a path": (changed("name", to="../tiny"), "'../tiny' names files and folders"),
    "no name": (changed("name", to=""), "'' names files and folders"),
    "an arm's name that is a path": (changed("arms", "a/b", to={"title": "x"}), "'a/b' names files"),
    "a seed for all": (changed("settings", "seed", to=7), "settings cannot have a seed"),
    "several students": (
        changed("arms", "default", "settings", to={"students": ["resnet8", "resnet14"]}),
        "several students are for one run: give each an arm with student",
    ),
    "a count for all": (changed("settings", "count", to=7), "settings cannot have a count"),
    "classes left out of made images": (
        changed("arms", "default", "leave_out", to=[0]),
        "arm default cannot leave_out anything: that is for arms with images: real",
    ),
    "classes left out of all images": (
        changed("arms", "labels_all", "leave_out", to=[0]),
        "arm labels_all cannot leave_out anything",
    ),
    "two rates that read the same": (
        changed("plan", 1, "rates", to=[5, 5.0000001]),
        "two cells are called real_kd-5-0: give real_kd another name, or rates that differ more",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_plan_that_cannot_be_meant_is_refused_in_one_line(what: str, tmp_path: Path) -> None:
    values, message = WRONG[what]
    with pytest.raises(ZskdError) as error:
        plan_cells(load(tmp_path, values))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_command_line_tells_it_and_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values, message = WRONG["unknown key of a block"]
    load(tmp_path, BASE)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))
    assert run(["reproduce", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_two_arms_whose_cells_would_have_one_name(tmp_path: Path) -> None:
    values = changed("arms", "default-5", to={"title": "other", "images": "all real"})
    values["plan"].append({"arms": ["default-5"]})
    with pytest.raises(ZskdError, match="two cells are called default-5-0"):
        plan_cells(load(tmp_path, values))


def test_an_unknown_experiment_and_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ZskdError, match="there is no experiment 'mnits': did you mean mnist"):
        load_experiment("mnits")
    for text, message in (("- a\n", "must hold settings"), ("a: [", "is no YAML file"), ("", "must hold")):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ZskdError, match=message):
            load_experiment(str(tmp_path / "bad.yaml"))
    (tmp_path / "bad.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(ZskdError, match="is no YAML file"):
        load_experiment(str(tmp_path / "bad.yaml"))


def test_an_experiment_that_is_like_another_one(tmp_path: Path) -> None:
    whole = load(tmp_path, changed("plan", to=[{"arms": ["real_kd", "default"], "rates": [5], "seeds": 2}]))
    other = tmp_path / "other.yaml"
    own = {"name": "other", "like": str(tmp_path / "tiny.yaml"), "settings": {"distill": {"steps": 7}}}
    other.write_text(yaml.safe_dump(own))
    found = load_experiment(str(other))
    assert found.settings == merge(whole.settings, {"distill": {"steps": 7, "epochs": None}})
    assert (found.name, found.arms, found.plan) == ("other", whole.arms, whole.plan)
    # a plan of its own leaves arms out
    alone = {"plan": [{"arms": ["default"], "rates": [5]}], "contrasts": [], "reported": []}
    other.write_text(yaml.safe_dump(own | alone))
    assert set(load_experiment(str(other)).arms) == {"default"}
    third = tmp_path / "third.yaml"
    third.write_text(yaml.safe_dump({"name": "third", "like": str(other)}))
    with pytest.raises(ZskdError, match="is like .*tiny.yaml itself: name that"):
        load_experiment(str(third))


FEW = changed("plan", to=[{"arms": ["real_kd", "default"], "rates": [2, 5], "seeds": 2}])


def test_patterns_choose_cells_and_one_that_fits_none_is_refused(tmp_path: Path) -> None:
    experiment = load(tmp_path, FEW)

    def chosen(*only: str) -> list[str]:
        return [one.name for one in plan_cells(experiment, only)]

    assert chosen("default-2-0") == ["default-2-0"]
    assert chosen("real_kd-?-1") == ["real_kd-2-1", "real_kd-5-1"]
    assert chosen("default-*", "teacher-0", "default-2-*") == [
        *("teacher-0", "default-2-0", "default-5-0"),
        *("default-2-1", "default-5-1"),
    ]
    for pattern in ("DEFAULT-*", ""):
        with pytest.raises(ZskdError, match="is called '.*': --dry-run shows them all"):
            chosen("default-*", pattern)


def test_fewer_seeds(tmp_path: Path) -> None:
    experiment = load(tmp_path, FEW)
    assert {one.recipe.seed for one in plan_cells(experiment, (), 9)} == {0, 1}
    assert {one.recipe.seed for one in plan_cells(experiment, (), 1)} == {0}
    with pytest.raises(ZskdError, match=r"none of the cells called \*-1 has a seed below 1: raise --seeds"):
        plan_cells(experiment, ("*-1",), 1)
    assert run(["reproduce", "digits", "--seeds", "0", "--dry-run"]) == 2


def test_the_cells_of_a_plan_seeds_before_arms(tmp_path: Path) -> None:
    cells = plan_cells(load(tmp_path, BASE))
    assert [one.name for one in cells] == [
        *("teacher-0", "labels_all-0", "real_kd-2-0", "real_kd-5-0", "default-2-0", "default-5-0"),
        *("longer-40-0", "shared-40-0"),
        *("teacher-1", "labels_all-1", "real_kd-2-1", "real_kd-5-1", "default-2-1", "default-5-1"),
        *("teacher-2", "real_kd-2-2", "real_kd-5-2", "default-2-2", "default-5-2"),
    ]
    assert all(one.recipe.seed == int(one.name.rpartition("-")[2]) for one in cells)
    assert {one.name: one.rate for one in cells if one.arm_name == "real_kd"}["real_kd-5-2"] == 5


def test_a_block_that_is_given_twice_gives_each_cell_once(tmp_path: Path) -> None:
    values = changed("plan", to=[{"arms": ["default"], "rates": [5], "seeds": n} for n in (1, 3, 2)]) | ALONE
    names = [one.name for one in plan_cells(load(tmp_path, values))]
    assert names == ["teacher-0", "default-5-0", "teacher-1", "default-5-1", "teacher-2", "default-5-2"]


def test_several_seeds_share_a_teacher_which_is_measured_once(tmp_path: Path) -> None:
    cells = plan_cells(load(tmp_path, changed("teachers", to=[4, 4, 1, 7])))
    taught = {one.name: one.recipe.teacher_seed for one in cells}
    assert {name: seed for name, seed in taught.items() if name.startswith("teacher")} == {
        "teacher-0": 4,
        "teacher-2": 1,
    }
    assert [taught[f"default-5-{seed}"] for seed in range(3)] == [4, 4, 1]
    assert taught["labels_all-1"] == 4
    for one in cells:
        assert one.recipe.teacher.seed == one.recipe.teacher_seed
        assert one.recipe.seed == int(one.name.rpartition("-")[2])
        assert one.recipe.teacher.epochs == load_recipe("digits").teacher.epochs  # the rest of it stays


def test_without_a_list_every_seed_has_a_teacher_of_its_own(tmp_path: Path) -> None:
    for one in plan_cells(load(tmp_path, BASE)):
        assert one.recipe.teacher.seed is None
        assert one.recipe.teacher_seed == one.recipe.seed


def test_the_teacher_belongs_to_the_key_and_a_teacher_of_the_own_seed_changes_nothing(tmp_path: Path) -> None:
    def found(teachers: list[int]) -> dict[str, str]:
        return {one.name: key(one) for one in plan_cells(load(tmp_path, changed("teachers", to=teachers)))}

    own = found([])
    assert found([0, 1, 2]) == own
    shared = found([0, 0, 2])
    assert {name for name in shared if shared[name] != own[name]} == {
        one for one in own if one.endswith("-1") and one != "teacher-1"
    }
    assert own.keys() - shared.keys() == {"teacher-1"}


def test_a_twin_is_an_experiment_of_its_own(tmp_path: Path) -> None:
    experiment = load(tmp_path, BASE, {"data": {"dir": "/some/where"}})
    twin = on_twin(experiment, "inverted")
    assert (twin.name, twin.recipe, twin.contrasts) == ("tiny-inverted", "digits", experiment.contrasts)
    before, after = plan_cells(experiment), plan_cells(twin)
    assert [one.name for one in after] == [one.name for one in before]
    for one, other in zip(before, after, strict=True):
        assert other.recipe.data == replace(one.recipe.data, twin="inverted")
        assert replace(other.recipe, data=one.recipe.data) == one.recipe
        assert key(one) != key(other)
        assert other.reported is None  # nobody published anything for it
    with pytest.raises(ZskdError, match="experiment tiny-inverted is on digits-inverted already"):
        on_twin(twin, "permuted")


def test_arms_share_one_schedule_unless_they_keep_their_own(tmp_path: Path) -> None:
    default, longer, shared = (
        cell(tmp_path, f"{name}-0") for name in ("default-5", "longer-40", "shared-40")
    )
    preset = load_recipe("digits", {"preset": "reproduction", "rate": 40})
    for one in (longer, shared):
        assert one.recipe.synthesis == preset.synthesis != default.recipe.synthesis
        assert one.recipe.targets == preset.targets != default.recipe.targets
        assert one.recipe.preset == "reproduction"
    assert shared.recipe.distill == default.recipe.distill
    own = longer.recipe.distill
    assert (own.batch_size, own.learning_rate, own.tau) == (512, 0.01, 20)
    assert own.steps == 4  # settings of all arms override a preset


def test_an_arm_changes_its_own_part_of_the_shared_schedule(tmp_path: Path) -> None:
    values = changed("arms", "shared", "settings", to={"preset": "reproduction", "distill": {"tau": 9}})
    shared = cell(tmp_path, "shared-40-0", values).recipe.distill
    default = cell(tmp_path, "default-5-0", values).recipe.distill
    assert (shared.tau, shared.steps, shared.learning_rate) == (9, 4, default.learning_rate)
    assert default.tau != 9


def test_a_preset_for_all_gives_the_schedule_of_all(tmp_path: Path) -> None:
    values = changed("settings", "preset", to="paper")
    assert cell(tmp_path, "default-5-0", values).recipe.distill.tau == 20
    assert cell(tmp_path, "real_kd-5-0", values).recipe.distill.tau == 20


def test_settings_of_the_command_line_reach_every_arm(tmp_path: Path) -> None:
    given: dict[str, Any] = {"data": {"dir": "/some/where"}, "distill": {"batch_size": 7}}
    for one in plan_cells(load(tmp_path, BASE, given)):
        assert one.recipe.data.dir == Path("/some/where")
        assert one.recipe.distill.batch_size == 7
        assert one.recipe.distill.steps == 4  # those of the file stay


def test_rates_are_counts_of_the_full_training_set(tmp_path: Path) -> None:
    assert cell(tmp_path, "default-5-0").count(60_000, 54_000) == 3000
    assert cell(tmp_path, "real_kd-2-0").count(60_000, 54_000) == 1200
    assert cell(tmp_path, "labels_all-0").count(60_000, 54_000) == 54_000
    assert cell(tmp_path, "teacher-0").count(60_000, 54_000) == 54_000
    assert cell(tmp_path, "default-5-0").spec(60_000).count == 3000
    few = changed("plan", 1, "rates", to=[0.001])
    assert cell(tmp_path, "default-0.001-0", few).count(1_297, 1_167) == 1


def test_nominal_rates_keep_their_name_and_get_their_size(tmp_path: Path) -> None:
    values = changed("settings", "nominal_rates", to={"5": 4})
    values["plan"][1]["rates"] = [2, 4, 5]
    nominal, plain = (cell(tmp_path, f"default-{rate}-0", values) for rate in (5, 4))
    assert (nominal.rate, nominal.count(60_000, 54_000)) == (5, 2400)
    # a rate is known by its count: the same cell under two names
    assert nominal.key(2400, SOURCES) == plain.key(2400, SOURCES)
    assert nominal.spec(60_000) == plain.spec(60_000)


def test_reported_values_stand_beside_their_own_arm_and_rate(tmp_path: Path) -> None:
    reported = {
        one.name: one.reported for one in plan_cells(load(tmp_path, BASE)) if one.reported is not None
    }
    assert sorted(reported) == [
        *(f"default-5-{seed}" for seed in range(3)),
        *(f"teacher-{k}" for k in range(3)),
    ]
    assert (reported["default-5-1"].value, reported["default-5-1"].source) == (70.5, "somebody 2019")
    assert reported["teacher-0"].value == 99.5


def key(one: Cell, count: int = 100, **sources: str) -> str:
    return one.key(count, SOURCES | sources)


def arm(name: str, **settings: Any) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        values["arms"][name].setdefault("settings", {}).update(settings)

    return change


def of_all(**settings: Any) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        for name, value in settings.items():
            both = isinstance(value, dict) and isinstance(values["settings"].get(name), dict)
            values["settings"][name] = values["settings"][name] | value if both else value

    return change


MADE, REAL, ALL, SELF = "default-5-0", "real_kd-5-0", "labels_all-0", "teacher-0"
MATTERS: dict[str, tuple[Callable[[dict[str, Any]], None], set[str]]] = {
    "distill": (of_all(distill={"steps": 5}), {MADE, REAL, ALL}),
    "loss of one arm": (arm("real_kd", distill={"tau": 9}), {REAL}),
    "augmentation": (of_all(distill={"augment": {"mixup": 0.1}}), {MADE, REAL, ALL}),
    "labels": (
        arm("real_kd", distill={"label_weight": 1, "augment": {"mixup": 0, "cutmix": 0}}),
        {REAL},
    ),
    "synthesis": (of_all(synthesis={"steps": 49}), {MADE}),
    "warp": (of_all(synthesis={"warp": {"rotation": 1.0}}), {MADE}),
    "targets": (of_all(targets={"redraws": 3}), {MADE}),
    "method": (of_all(method="noise"), {MADE}),
    "student": (of_all(student="lenet5_small"), {MADE, REAL, ALL}),
    "teacher": (of_all(teacher={"epochs": 61}), {MADE, REAL, ALL, SELF}),
    "seed of the teacher": (lambda values: values.update(teachers=[5] * 9), {MADE, REAL, ALL, SELF}),
    "validation": (of_all(data={"validation": 0.2}), {MADE, REAL, ALL, SELF}),
    "twin": (of_all(data={"twin": "inverted"}), {MADE, REAL, ALL, SELF}),
    "loss of features": (of_all(distill={"features": {"loss": "fitnets", "weight": 1.0}}), {MADE, REAL, ALL}),
    "batch-norm": (of_all(distill={"batch_norm": "fixed"}), {MADE, REAL, ALL}),
    "threads": (of_all(threads=2), {MADE, REAL, ALL, SELF}),
    "device": (of_all(device="cpu"), {MADE, REAL, ALL, SELF}),
    "rewrite": (of_all(rewrite=False), {MADE, REAL, ALL, SELF}),
    "classes left out": (lambda values: values["arms"]["real_kd"].update(leave_out=[3]), {REAL}),
    # and these do not
    "neutral values": (of_all(distill={"features": {"loss": "fitnets"}, "batch_norm": "running"}), set()),
    "the teacher of the same seed": (lambda values: values.update(teachers=[0] * 9), set()),
    "folder of the data": (of_all(data={"dir": "/elsewhere"}), set()),
    "folder for TensorBoard": (of_all(tensorboard="/elsewhere"), set()),
    "where images are read from": (of_all(distill={"images": "mapped"}), set()),
    "title": (lambda values: values["arms"]["default"].update(title="another"), set()),
    "name": (lambda values: values.update(name="another"), set()),
    "name of a run": (of_all(name="another"), set()),
    "more seeds": (lambda values: values["plan"][1].update(seeds=9), set()),
    "reported value": (lambda values: values["reported"][0].update(at={"5": 1.0}), set()),
}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("keys")
    return {name: key(cell(folder, name)) for name in (MADE, REAL, ALL, SELF)}


@pytest.mark.parametrize("what", MATTERS)
def test_a_key_changes_with_what_matters_to_its_cell_and_with_nothing_else(
    what: str, keys: dict[str, str], tmp_path: Path
) -> None:
    values = copy.deepcopy(BASE)
    MATTERS[what][0](values)
    assert {name for name in keys if key(cell(tmp_path, name, values)) != keys[name]} == MATTERS[what][1]


def test_what_a_recipe_tells_of_whole_runs_changes_no_key(keys: dict[str, str], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    of_runs = {"workers": 3, "controls": [], "held_out": 7, "engine": "ray"}
    recipe.write_text(yaml.safe_dump(to_values(load_recipe("digits", of_runs))))
    assert {name: key(cell(tmp_path, name, BASE | {"recipe": str(recipe)})) for name in keys} == keys


def test_a_key_changes_with_seed_count_and_sources(tmp_path: Path) -> None:
    for name in ("default-5", "real_kd-5", "labels_all", "teacher"):
        first, second = (cell(tmp_path, f"{name}-{seed}") for seed in (0, 1))
        keys = {
            key(first),
            key(second),
            key(first, 101),
            key(first, data_sha256="e" * 64),
            key(first, teacher_sha256="f" * 64),
        }
        assert len(keys) == 5
        assert key(first) == key(cell(tmp_path, f"{name}-0"))


def test_images_that_are_all_or_made_or_drawn_are_told_apart(tmp_path: Path, keys: dict[str, str]) -> None:
    values = changed("arms", "default", "images", to="real")
    assert key(cell(tmp_path, MADE, values)) == keys[REAL]  # whatever it is called
    assert len(set(keys.values())) == 4


def test_keys_do_not_hang_on_the_order_of_the_file(tmp_path: Path) -> None:
    def shuffled(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        items = list(value.items())
        random.Random(1).shuffle(items)
        return {name: shuffled(inner) for name, inner in items}

    values = changed("settings", "synthesis", to={"steps": 9, "tau": 3})
    assert shuffled(values) == values
    assert list(shuffled(values)) != list(values)
    assert key(cell(tmp_path, MADE, shuffled(values))) == key(cell(tmp_path, MADE, values))


@pytest.fixture(scope="module", params=experiment_names())
def shipped(request: pytest.FixtureRequest) -> tuple[Experiment, list[Cell]]:
    experiment = load_experiment(request.param)
    assert experiment.name == request.param
    return experiment, plan_cells(experiment)


def test_a_shipped_experiment_is_whole(shipped: tuple[Experiment, list[Cell]]) -> None:
    experiment, cells = shipped
    planned = {(one.arm_name, one.rate) for one in cells}
    assert {one for one, _ in planned} == {TEACHER, *experiment.arms}  # every arm is run
    for contrast in experiment.contrasts:  # what is to be compared is run as well, with common seeds
        second = (contrast.second, contrast.second_rate or contrast.rate)
        assert {(contrast.first, contrast.rate), second} <= planned
    for one in experiment.reported:  # and so is every published arm
        for rate in one.at:
            assert (one.arm, None if rate == "all" else float(rate)) in planned
    titles = [arm.title for arm in experiment.arms.values()]
    assert len(set(titles)) == len(titles)


def test_arms_of_a_shipped_experiment_are_compared_fairly(shipped: tuple[Experiment, list[Cell]]) -> None:
    """The students of all arms train equally long with one rule, unless an arm has its own schedule."""
    cells = [one for one in shipped[1] if one.arm_name != TEACHER]
    taught = {replace(one.recipe.teacher, seed=None) for one in cells}
    students = {one.recipe.student for one in cells if "student" not in one.arm.settings}
    assert (len(taught), len(students), len({one.recipe.threads for one in cells})) == (1, 1, 1)
    same = [one for one in cells if not one.arm.own_schedule]
    for one in cells:
        assert one.arm.own_schedule == bool(re.search(r"_long$", one.arm_name))
        assert one.arm.own_schedule == bool(re.search(r"epochs|steps", one.arm.title))
    length = {(one.recipe.distill.steps, one.recipe.distill.batch_size) for one in same}
    rule = {(one.recipe.distill.learning_rate, one.recipe.distill.schedule) for one in same}
    assert (len(length), len(rule)) == (1, 1)
    untold = {one.recipe.distill for one in same if "distill" not in one.arm.settings}
    assert len(untold) == 1
    sizes = {(one.rate, one.count(60_000, 54_000)) for one in cells if one.rate is not None}
    assert len(sizes) == len({rate for rate, _ in sizes})  # a rate means one size
