"""Recipes, presets, their layers and the settings that are refused."""

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import nn

from zskd.config.distillation import DistillConfig
from zskd.config.identity import identity, plain
from zskd.config.loading import load_recipe, recipe_names, to_yaml
from zskd.config.presets import neutral_values, preset_changes, preset_names, read_preset
from zskd.config.recipe import Recipe
from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.config.transforms import AugmentConfig, WarpConfig
from zskd.core.errors import ZskdError
from zskd.models.classifier import Classifier
from zskd.run.choice import recipe_for

PUBLISHED = ["paper", "release", "reproduction"]
GAMES = ["dfad", "zskt", "dafl", "dfq", "conditional"]
CHOSEN = ["batch_norm", "batch_norm_chain"]
"""Presets that the rule chooses for teachers with batch-norm; they have a training of their own."""
STATISTICS = ["adi", *CHOSEN, "deepinversion", "zskd_bn"]
"""Presets of the methods that read batch-norm statistics; each chooses its method."""
SETS = ["boundary", "first", *PUBLISHED, *STATISTICS]
"""Presets that say how a transfer set is made."""


def keys(kind: type) -> set[str]:
    return {one.name for one in fields(kind)}


def file(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def nested(name: str, value: Any) -> dict[str, Any]:
    """{"a.b": v} as nested values."""
    for part in reversed(name.split(".")):
        value = {part: value}
    return value  # type: ignore[no-any-return]


def setting(recipe: Recipe, name: str) -> Any:
    value: Any = recipe
    for part in name.split("."):
        value = getattr(value, part)
    return value


def test_the_shipped_names_are_those_that_the_documents_tell() -> None:
    assert recipe_names() == ["digits", "fashion-mnist", "mnist", "my-teacher"]
    assert preset_names() == ["default", *sorted([*SETS, *GAMES])]


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_loads_and_says_how_large_its_set_is(name: str) -> None:
    recipe = recipe_for(Classifier(nn.Sequential(nn.Flatten(), nn.Linear(1024, 3))), name)
    assert recipe.name == name
    assert recipe.size(60_000) >= 2000
    assert recipe.preset == "default"


def test_without_a_recipe_there_are_the_defaults() -> None:
    assert load_recipe() == Recipe()


def leaves(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Every value by its dotted name."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{path}.{key}".removeprefix(".")
        found |= leaves(value, name) if isinstance(value, Mapping) else {name: value}
    return found


def test_the_neutral_base_has_every_setting_of_the_method() -> None:
    """So that a new setting gets its neutral value there, and no preset needs to be edited."""
    groups = {"targets": TargetsConfig(), "synthesis": SynthesisConfig(), "distill": DistillConfig()}
    assert leaves(neutral_values()).keys() == leaves(plain(groups)).keys()


@pytest.mark.parametrize("name", [*SETS, *GAMES])
def test_a_preset_holds_hardly_more_than_what_it_changes(name: str) -> None:
    """What is neutral may be repeated where the source names it: a few lines at most."""
    changes, neutral = preset_changes(name), leaves(neutral_values())
    own = leaves({group: changes[group] for group in changes if group in neutral_values()})
    assert own.keys() <= neutral.keys()
    repeated = [key for key, value in own.items() if neutral[key] == value]
    assert len(repeated) <= 4
    loaded = leaves(
        plain(
            {
                group: getattr(load_recipe(None, {"preset": name}), group)
                for group in changes
                if group in neutral_values()
            }
        )
    )
    assert loaded == {key: own.get(key, neutral[key]) for key in loaded}


@pytest.mark.parametrize("name", GAMES)
def test_a_preset_of_a_generator_says_nothing_of_a_set(name: str) -> None:
    assert set(preset_changes(name)) == {"distill"}
    recipe = load_recipe(None, {"preset": name})
    assert not recipe.distill.needs_set
    assert recipe.distill.generator.method == name
    assert (recipe.targets, recipe.synthesis) == (TargetsConfig(), SynthesisConfig())


@pytest.mark.parametrize("name", SETS)
def test_a_preset_sets_nothing_of_the_data_or_the_teacher(name: str) -> None:
    assert set(read_preset(name)) <= {
        "method",
        "method_settings",
        "targets",
        "synthesis",
        "distill",
        "nominal_rates",
        "rates",
    }
    loaded = load_recipe(None, {"preset": name})
    assert (loaded.data, loaded.teacher) == (Recipe().data, Recipe().teacher)


@pytest.mark.parametrize("name", STATISTICS)
def test_a_preset_with_statistics_chooses_its_method_and_takes_all_steps(name: str) -> None:
    recipe = load_recipe(None, {"preset": name})
    method = "zskd_bn" if name in CHOSEN else name
    assert (recipe.method, recipe.synthesis.tolerance, recipe.synthesis.noise_share) == (method, 0, 0)
    assert (recipe.distill == DistillConfig()) == (name not in CHOSEN)


def test_published_presets_use_the_published_method() -> None:
    for name in PUBLISHED:
        recipe = load_recipe(None, {"preset": name})
        assert (recipe.synthesis.steps, recipe.synthesis.tau, recipe.distill.tau) == (1500, 20, 20)
        assert set(recipe.targets.betas) == {0.1, 1.0}
        assert (recipe.synthesis.noise_share, recipe.targets.redraws) == (0, 0)
        assert not recipe.synthesis.warp.moves


def test_each_layer_wins_over_the_one_below(tmp_path: Path) -> None:
    """default < preset < recipe < overrides, for settings that all of them or only the lower ones set."""
    mine = file(tmp_path, "preset: paper\nsynthesis: {learning_rate: 0.5, l2: 0.25}\n")
    recipe = load_recipe(mine, {"synthesis": {"l2": 0.75}})
    assert recipe.synthesis.l2 == 0.75  # the overrides'
    assert recipe.synthesis.learning_rate == 0.5  # the recipe's
    assert recipe.synthesis.start == "uniform"  # the preset's
    assert recipe.held_out == Recipe().held_out  # the default
    again = load_recipe(mine, {"preset": "reproduction"})
    assert (again.synthesis.start, again.synthesis.learning_rate, again.preset) == (
        "gaussian",
        0.5,
        "reproduction",
    )


def test_the_settings_of_a_presets_method_hold_for_no_other_method() -> None:
    preset = {"preset": "batch_norm"}
    own = load_recipe(None, preset).method_settings
    assert own["scale"] == "mean"
    same = load_recipe(None, preset | {"method": "zskd_bn", "method_settings": {"statistics": 3.0}})
    assert same.method_settings == {**own, "statistics": 3.0}
    assert load_recipe(None, preset | {"method": "zskd"}).method_settings == {}
    named = load_recipe(None, preset | {"method": "deepinversion", "method_settings": {"variation": 1.0}})
    assert named.method_settings == {"variation": 1.0}


def test_a_preset_that_is_like_another_changes_only_what_it_names() -> None:
    one, other = (load_recipe(None, {"preset": name}) for name in ("batch_norm", "batch_norm_chain"))
    maps = {"rotation": 17.5, "scale": (0.81, 1.23), "shift": 0.07, "shear": 0.21, "outside": "reflection"}
    assert other.distill.augment == replace(one.distill.augment, **maps)  # type: ignore[arg-type]
    assert replace(other, preset=one.preset, distill=one.distill) == one
    assert (other.distill.fresh.share, other.distill.fresh.start) == (0.25, "shapes")
    same = replace(other.distill, augment=one.distill.augment, fresh=one.distill.fresh)
    assert same == one.distill


@pytest.mark.parametrize("name", preset_names())
def test_flips_and_maps_of_a_preset_happen(name: str) -> None:
    """A share of 0 would leave them out without a word."""
    augment = load_recipe(None, {"preset": name}).distill.augment
    assert augment.share > 0
    mirrored = load_recipe(None, {"preset": name, "distill": {"augment": {"flip": 0.5}}}).distill.augment
    assert mirrored.moves
    assert mirrored.changes


def test_a_share_without_maps_is_no_part_of_a_results_identity() -> None:
    found = identity(load_recipe(None, {"preset": "dafl"}))["distill"]["augment"]
    assert found["share"] == 0.0  # as in the first records
    flipped = {"preset": "dafl", "distill": {"augment": {"flip": 0.5}}}
    assert identity(load_recipe(None, flipped))["distill"]["augment"]["share"] == 1.0


def test_groups_are_merged_and_lists_replaced(tmp_path: Path) -> None:
    mine = file(tmp_path, "synthesis: {warp: {rotation: 3}}\ntargets: {betas: [2, 3, 4]}\n")
    recipe = load_recipe(mine, {"targets": {"betas": [5]}})
    assert recipe.synthesis.warp.rotation == 3
    assert recipe.targets.betas == (5,)
    preset = load_recipe(mine, {"preset": "paper", "synthesis": {"warp": {"shift": 0.5}}})
    assert preset.synthesis.warp == WarpConfig(rotation=3, shift=0.5)


def test_a_warp_given_in_part_keeps_the_rest_of_the_default_one() -> None:
    whole = SynthesisConfig().warp
    changed = load_recipe(None, {"synthesis": {"warp": {"rotation": 3}}}).synthesis.warp
    assert changed == WarpConfig(
        rotation=3, scale=whole.scale, shift=whole.shift, shear=whole.shear, flip=whole.flip
    )
    augment = load_recipe(None, {"distill": {"augment": {"rotation": 3}}}).distill.augment
    assert (augment.rotation, augment.mixup) == (3, DistillConfig().augment.mixup)


def test_of_count_and_rate_the_one_set_last_counts(tmp_path: Path) -> None:
    by_rate, by_count = file(tmp_path, "rate: 40\n"), tmp_path / "count.yaml"
    by_count.write_text("count: 100\n")
    one = load_recipe(by_rate, {"count": 7})
    assert (one.count, one.rate, one.size(60_000)) == (7, None, 7)
    other = load_recipe(by_count, {"rate": 5})
    assert (other.count, other.rate, other.size(60_000)) == (None, 5, 3000)
    for given in ({"count": 7, "rate": 5}, {"rate": 5, "count": 7}):
        with pytest.raises(ZskdError, match="--count and --rate both set the size"):
            load_recipe(by_rate, given)


@pytest.mark.parametrize("preset", preset_names())
def test_of_steps_and_epochs_the_one_set_last_counts(tmp_path: Path, preset: str) -> None:
    mine = file(tmp_path, f"preset: {preset}\ndistill: {{steps: 11}}\nteacher: {{steps: 12}}\n")
    recipe = load_recipe(mine)
    assert (recipe.distill.steps, recipe.distill.epochs) == (11, None)
    assert (recipe.teacher.steps, recipe.teacher.epochs) == (12, None)
    over = load_recipe(mine, {"distill": {"epochs": 2.5}, "teacher": {"epochs": 3}})
    assert (over.distill.steps, over.distill.epochs) == (None, 2.5)
    assert over.distill.total_steps(100 * over.distill.batch_size) == 250
    assert (over.teacher.steps, over.teacher.epochs) == (None, 3)


@pytest.mark.parametrize(("rate", "count"), [(1, 600), (5, 3_000), (10, 6_000), (25, 12_000), (40, 24_000)])
def test_the_reproductions_sets_have_their_published_sizes(rate: float, count: int) -> None:
    assert load_recipe(None, {"preset": "reproduction", "rate": rate}).size(60_000) == count


@pytest.mark.parametrize(
    ("rate", "batch", "learning_rate"),
    [(1, 10, 0.1), (5, 10, 0.1), (10, 100, 1.0), (25, 100, 2.0), (40, 100, 3.0)],
)
def test_the_reproduction_chooses_batch_and_learning_rate_by_its_rate(
    tmp_path: Path, rate: float, batch: int, learning_rate: float
) -> None:
    shown = load_recipe(file(tmp_path, f"preset: reproduction\nrate: {rate}\n"))
    for recipe in (shown, load_recipe("mnist", {"preset": "reproduction", "rate": float(rate)})):
        assert (recipe.synthesis.batch_size, recipe.synthesis.learning_rate) == (batch, learning_rate)
        assert recipe.synthesis.steps == 1500
    mine = load_recipe(None, {"preset": "reproduction", "rate": rate, "synthesis": {"learning_rate": 9.0}})
    assert (mine.synthesis.batch_size, mine.synthesis.learning_rate) == (batch, 9.0)


@pytest.mark.parametrize("spelling", ["1", "1.0", "'1'", "1e0", "0.1e1"])
def test_a_rate_means_the_same_however_it_is_spelled(tmp_path: Path, spelling: str) -> None:
    """YAML reads 1e0 as text; the value is a number all the same."""
    recipe = load_recipe(file(tmp_path, f"preset: reproduction\nrate: {spelling}\n"))
    assert recipe.rate == 1
    assert (recipe.synthesis.batch_size, recipe.synthesis.learning_rate) == (10, 0.1)


def test_only_the_reproductions_25_percent_are_20() -> None:
    for preset in ("default", "paper", "release"):
        assert load_recipe(None, {"preset": preset, "rate": 25}).size(60_000) == 15_000
    assert load_recipe(None, {"preset": "reproduction", "rate": 20}).size(60_000) == 12_000


def test_a_size_is_needed_and_a_rate_needs_a_training_set() -> None:
    with pytest.raises(ZskdError, match="give --count N, or --rate PERCENT"):
        load_recipe().size(60_000)
    with pytest.raises(ZskdError, match="there is no data: give --count N"):
        load_recipe(None, {"rate": 5}).size(None)
    assert load_recipe(None, {"rate": 0.0001}).size(100) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sede": 1}, r"unknown key sede: did you mean seed\?"),
        ({"synthesis": {"step": 1}}, r"unknown key synthesis\.step: did you mean synthesis\.steps\?"),
        ({"distill": {"augment": {"mixupp": 1}}}, r"did you mean distill\.augment\.mixup\?"),
        ({"synthesis": {"learning-rate": 1}}, r"did you mean synthesis\.learning_rate\?"),
        ({"qqq": 1}, "unknown key qqq: choose one of name, preset"),
        ({"preset": "reprodction"}, r"unknown preset 'reprodction': did you mean reproduction\?"),
        (
            {"preset": "xyz"},
            "unknown preset 'xyz': choose one of default, .*, zskt",
        ),
        ({"rates": {1: {}}}, "unknown key rates"),
    ],
)
def test_unknown_names_suggest_the_nearest(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ZskdError, match=message):
        load_recipe(None, values)
    mine = file(tmp_path, yaml.safe_dump(values))
    with pytest.raises(ZskdError, match=message) as caught:
        load_recipe(mine)
    assert "preset" in values or "mine.yaml" in str(caught.value)


def test_unknown_recipes_suggest_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        ZskdError, match=r"no recipe 'fashion_mnist': did you mean fashion-mnist\?; or name a"
    ):
        load_recipe("fashion_mnist")
    with pytest.raises(ZskdError, match="there is no recipe"):
        load_recipe(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a: [1", "is no YAML file"),
        (b"just words", "must hold settings as"),
        (b"- a\n- b", "must hold settings as"),
        (b"", "must hold settings as"),
        (b"name: \xff\xfe", "no YAML file"),
    ],
)
def test_files_that_are_no_recipes_are_named(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "mine.yaml").write_bytes(text)
    with pytest.raises(ZskdError, match=rf"mine\.yaml.*{message}|{message} .*mine\.yaml") as caught:
        load_recipe(tmp_path / "mine.yaml")
    assert "\n" not in str(caught.value)


def test_a_recipe_cannot_run_code(tmp_path: Path) -> None:
    mine = file(tmp_path, f"name: !!python/object/apply:os.system ['touch {tmp_path}/ran']\n")
    with pytest.raises(ZskdError, match="is no YAML file"):
        load_recipe(mine)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("synthesis.steps", "many", r"synthesis\.steps is 'many': .*valid integer"),
        ("synthesis.steps", 1.5, r"synthesis\.steps is 1\.5: .*valid integer"),
        ("synthesis.steps", None, r"synthesis\.steps is None: .*valid integer"),
        ("distill.augment.mixup", [1], r"distill\.augment\.mixup is \[1\]: .*valid number"),
        ("targets.betas", [1, "x"], r"targets\.betas\.1 is 'x': .*valid number"),
        ("targets.order", "columns", r"targets\.order is 'columns': .*'interleaved' or 'rows'"),
        ("controls", ["noise"], r"controls\.0 is 'noise'"),
        ("method", "dafl", r"method is 'dafl'"),
        ("count", "ten", r"count is 'ten': .*valid integer"),
        ("rate", [1], r"rate is \[1\]"),
        ("synthesis", 3, "synthesis is a group of settings, not 3"),
        ("distill.augment", None, r"distill\.augment is a group of settings, not None"),
        ("data.name", "cifar", r"data\.name is 'cifar'"),
    ],
)
def test_wrong_types_name_the_setting_and_the_value(
    tmp_path: Path, name: str, value: Any, message: str
) -> None:
    for recipe, given in (
        (None, nested(name, value)),
        (file(tmp_path, yaml.safe_dump(nested(name, value))), {}),
    ):
        with pytest.raises(ZskdError, match=message):
            load_recipe(recipe, given)


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path: Path) -> None:
    assert load_recipe(file(tmp_path, "distill: {learning_rate: 1e-3}\n")).distill.learning_rate == 0.001


@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize("name", recipe_names())
def test_a_resolved_recipe_survives_the_way_through_a_file(tmp_path: Path, name: str, preset: str) -> None:
    recipe = load_recipe(name, {"preset": preset})
    assert load_recipe(file(tmp_path, to_yaml(recipe))) == recipe


@pytest.mark.parametrize(
    "values",
    [
        {"rate": 5, "preset": "reproduction"},
        {"rate": 12.5, "preset": "reproduction", "synthesis": {"batch_size": 7}},
        {"count": 9, "distill": {"learning_rate": 1e-7, "epochs": 0.3}},
        {"data": {"name": "folder", "dir": "a b/ü: {x}"}, "name": "yes", "teacher": {"head": "null"}},
        {"teacher": {"class_names": ["no", "1", "'"], "mean": [0.1, 0.2, 0.3], "shape": [3, 8, 8]}},
        {"targets": {"priors": [0.1, 0.2, 0.7]}, "controls": [], "seed": 2**63 - 1},
    ],
)
def test_unusual_settings_survive_it_too(tmp_path: Path, values: dict[str, Any]) -> None:
    recipe = load_recipe(None, values)
    text = to_yaml(recipe)
    assert load_recipe(file(tmp_path, text)) == recipe
    assert to_yaml(load_recipe(tmp_path / "mine.yaml")) == text


def test_every_setting_stands_in_the_printed_recipe() -> None:
    values = yaml.safe_load(to_yaml(load_recipe("digits")))
    assert set(values) == keys(Recipe)
    assert set(values["distill"]["augment"]) == keys(AugmentConfig)


NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("count", 0),
        ("count", -1),
        ("rate", 0),
        ("rate", -5),
        ("rate", 101),
        ("rate", NAN),
        ("seed", -1),
        ("held_out", 0),
        ("threads", -1),
        ("data.validation", -0.1),
        ("data.validation", 1),
        ("targets.betas", [1.0, 0.0]),
        ("targets.betas", []),
        ("targets.concentration_floor", -0.1),
        ("targets.redraws", -1),
        ("targets.priors", [0.5, 0.6]),
        ("targets.priors", [1.5, -0.5]),
        ("synthesis.noise_share", 2),
        ("synthesis.noise_share", -0.1),
        ("synthesis.steps", -1),
        ("synthesis.learning_rate", 0),
        ("synthesis.learning_rate", NAN),
        ("synthesis.tau", 0),
        ("synthesis.l2", -1),
        ("synthesis.batch_size", 0),
        ("synthesis.shard_size", 0),
        ("distill.tau", 0),
        ("distill.augment.share", 1.1),
        ("distill.augment.salt_pepper", -0.1),
        ("distill.augment.mixup", 1.5),
        ("distill.augment.cutmix", -1),
        ("distill.augment.gaussian", -1),
    ],
)
def test_settings_out_of_range_are_refused_with_their_flag(name: str, value: Any) -> None:
    with pytest.raises(ZskdError, match=f"--{name.replace('_', '-')} "):
        load_recipe(None, nested(name, value))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("distill.steps", 0),
        ("distill.epochs", 0),
        ("distill.batch_size", 0),
        ("distill.learning_rate", 0),
        ("distill.l2", -1),
        ("teacher.steps", 0),
        ("teacher.epochs", -1),
        ("teacher.batch_size", 0),
        ("synthesis.warp.rotation", -1),
        ("synthesis.warp.shift", -1),
        ("synthesis.warp.shear", -1),
        ("synthesis.warp.flip", 1.5),
        ("synthesis.warp.scale", [0, 1]),
        ("synthesis.warp.scale", [1.2, 0.8]),
        ("distill.augment.rotation", -1),
    ],
)
def test_settings_that_several_groups_share_are_refused_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(ZskdError, match=f"--(.*\\.)?{name.split('.')[-1].replace('_', '-')} is .*must be"):
        load_recipe(None, nested(name, value))


@pytest.mark.parametrize("name", ["synthesis.learning_rate", "synthesis.tau", "distill.learning_rate"])
def test_rates_that_are_not_finite_are_refused(name: str) -> None:
    with pytest.raises(ZskdError, match="learning-rate|tau"):
        load_recipe(None, nested(name, float("inf")))


def test_mixup_and_cutmix_share_the_images_of_a_batch() -> None:
    with pytest.raises(ZskdError, match="mixup and cutmix together"):
        load_recipe(None, {"distill": {"augment": {"mixup": 0.6, "cutmix": 0.6}}})


def test_priors_and_rows_exclude_each_other() -> None:
    with pytest.raises(ZskdError, match=r"--targets\.priors needs --targets\.order interleaved"):
        load_recipe(None, {"targets": {"priors": [0.5, 0.5], "order": "rows"}})


def test_training_needs_a_length() -> None:
    with pytest.raises(ZskdError, match="training needs a number of steps"):
        load_recipe(None, {"distill": {"steps": None}})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rate", 100),
        ("rate", 0.01),
        ("synthesis.steps", 0),
        ("synthesis.noise_share", 1),
        ("synthesis.noise_share", 0),
        ("data.validation", 0),
        ("targets.priors", [1 / 3, 1 / 3, 1 / 3]),
        ("distill.augment.share", 0),
        ("seed", 0),
        ("threads", 0),
    ],
)
def test_the_ends_of_the_ranges_are_allowed(name: str, value: Any) -> None:
    found = setting(load_recipe(None, nested(name, value)), name)
    assert found == (tuple(value) if isinstance(value, list) else value)


FORMER = """
method: soft_targeted
targets: {spread: 0.5}
distill: {game: {share: 0.25, rule: zskt, width: 16}, rounds: {share: 0.5}}
"""


def test_names_that_settings_had_in_older_recipes_are_read(tmp_path: Path) -> None:
    recipe = load_recipe(file(tmp_path, FORMER))
    assert recipe.method_settings == {"spread": 0.5}
    assert (recipe.distill.generator.share, recipe.distill.generator.method) == (0.25, "zskt")
    assert recipe.distill.image_bank.share == 0.5
    values = identity(recipe)
    assert values["targets"]["spread"] == 0.5
    assert values["distill"]["game"]["rule"] == "zskt"
    assert not {"method_settings", "generator"} & (values.keys() | values["distill"].keys())


WRONG = {
    "SynthesisConfig(start='smoth')": "--synthesis.start is 'smoth'.*did you mean smooth?",
    "DistillConfig(schedule='linear')": "--distill.schedule is 'linear'.*'cosine' or 'constant'",
    "DistillConfig(batch_size=2.5)": "--distill.batch-size is 2.5.*valid integer",
    "DistillConfig(loss='huber')": "--distill.loss is 'huber'.*choose one of kl, l1, mse, ce",
    "DistillConfig(steps=True)": "--distill.steps is True",
    "DistillConfig(tau=float('nan'))": "--distill.tau is nan",
    "SynthesisConfig(warp=3)": "--synthesis.warp is a group of settings, not 3",
    "SynthesisConfig(warp={'rotatoin': 3})": "unknown key rotatoin: did you mean rotation",
    "TargetsConfig(betas=('a',))": "--targets.betas.0 is 'a'",
    "Recipe(method='dafl')": "--method is 'dafl'",
    "Recipe(student='haf')": "--student is 'haf'.*did you mean half?",
    "Recipe(controls=('noise',))": "--controls.0 is 'noise'",
    "SetSpec(count=1, method='zskt_')": "the method is 'zskt_'",
    "SetSpec(count=2.5)": "--count is 2.5.*valid integer",
    "SetSpec(count=0)": "--count is 0: it must be at least 1",
    "StudentSpec(student='haf')": "--student is 'haf'.*did you mean half?",
    "StudentSpec(seed=-1)": "--seed is -1: it must be at least 0",
}


def test_settings_made_in_python_are_checked_as_those_of_a_file() -> None:
    """In a process of its own, where nothing but the settings themselves checks them."""
    code = f"""
import zskd
from zskd import *
for text in {list(WRONG)!r}:
    try:
        print("made", eval(text))
    except ZskdError as error:
        print(error)
warp = SynthesisConfig(warp=dict(rotation=3)).warp
print(TargetsConfig(betas=[1, 0.5]).betas, DistillConfig(tau=4).tau, warp)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *lines, last = done.stdout.splitlines()
    for line, (text, message) in zip(lines, WRONG.items(), strict=True):
        assert re.search(message, line), f"{text}: {line}"
    assert last.startswith("(1.0, 0.5) 4.0 WarpConfig(rotation=3.0")


def test_several_students_take_the_place_of_one_and_one_that_of_several(tmp_path: Path) -> None:
    path = file(tmp_path, "students: [resnet8, half]\n")
    both = load_recipe(path)
    assert (both.student, both.students) == ("resnet8", ("resnet8", "half"))
    assert both.every_student == ("resnet8", "half")
    one = load_recipe(path, {"student": "mlp"})
    assert (one.student, one.students, one.every_student) == ("mlp", (), ("mlp",))
    path = file(tmp_path, "student: resnet8\n")
    assert load_recipe(path, {"students": ["mlp", "half"]}).student == "mlp"
    saved = file(tmp_path, to_yaml(both))
    assert load_recipe(saved) == both
    assert Recipe(students=("mlp", "half")).student == "mlp"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"students": ("mlp", "mlp")}, "--students names a student twice"),
        ({"students": ("mlp", "resnet9x")}, "--students is 'resnet9x', which is no student"),
        (
            {"students": ("mlp",), "student": "resnet8"},
            "--student is resnet8 and the first of --students is mlp: give one of these options",
        ),
    ],
)
def test_students_that_contradict_themselves_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ZskdError, match=message):
        Recipe(**settings)


def test_one_student_has_the_hash_that_it_had_before_there_could_be_several() -> None:
    assert "students" not in identity(Recipe(student="mlp"))
    assert identity(Recipe(students=("mlp", "half")))["students"] == ["mlp", "half"]
