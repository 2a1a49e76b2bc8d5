"""What is chosen for a teacher where nothing is named: preset, student and number of images."""

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from zskd.cli.main import main
from zskd.config.loading import load_recipe
from zskd.core.progress import Progress
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import build, describe, fresh_weights
from zskd.run.choice import facts_of, recipe_for
from zskd.synthesis.methods.zskd_bn import ZSKDWithStatistics


class Log(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, text: str) -> None:
        self.lines.append(text)


def network(name: str) -> Classifier:
    architecture = describe(name, shape=(1, 16, 16), classes=4)
    module = fresh_weights(lambda: build(architecture, run_code=False), 0)
    return Classifier(module, spec=InputSpec(shape=(1, 16, 16)), copy=False)


@pytest.mark.parametrize(
    ("name", "batch_norm", "chain"),
    [
        ("lenet5", False, True),
        ("lenet5_bn", True, True),
        ("resnet8", True, False),
        ("mlp(widths=(8,))", False, True),
        ("vgg8(norm=none)", False, True),
    ],
)
def test_the_rule_reads_the_network(name: str, batch_norm: bool, chain: bool) -> None:
    teacher = network(name)
    found = facts_of(teacher)
    layers = sum(isinstance(layer, nn.BatchNorm2d) for layer in teacher.module.modules())
    assert (found.batch_norms, found.chain) == (layers, chain)
    assert (layers > 0) == batch_norm
    recipe = recipe_for(teacher)
    presets = {(True, True): "batch_norm_chain", (True, False): "batch_norm"}
    assert recipe.preset == presets.get((batch_norm, chain), "default")
    assert recipe.method == ("zskd_bn" if batch_norm else "zskd")
    assert recipe.student == ("half" if chain else "narrow:0.5")
    assert recipe.count == (6_000 if batch_norm else 20_000)
    # the method accepts the teacher that it is chosen for
    if batch_norm:
        ZSKDWithStatistics().check_teacher(teacher)


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({}, {"preset": "batch_norm", "student": "narrow:0.5", "count": 6_000}),
        ({"preset": "default"}, {"preset": "default", "method": "zskd", "count": None}),
        ({"preset": "dafl"}, {"preset": "dafl", "student": "narrow:0.5"}),
        ({"student": "resnet8(width=0.5)"}, {"student": "resnet8(width=0.5)", "count": 6_000}),
        ({"students": ("resnet8", "narrow:0.3")}, {"student": "resnet8"}),
        ({"count": 7}, {"count": 7, "preset": "batch_norm"}),
        ({"budget": 5.0}, {"count": 60_000, "preset": "batch_norm"}),
        ({"passes": 200_000}, {"count": 60_000, "preset": "batch_norm"}),
        ({"passes": 200_000, "preset": "zskd_bn"}, {"count": 60_000, "method": "zskd_bn"}),
        ({"passes": 200_000, "preset": "dafl"}, {"count": None}),
        ({"budget": 5.0, "count": 9}, {"count": 9}),
        ({"rate": 10.0}, {"count": None, "rate": 10.0, "preset": "batch_norm"}),
        ({"method": "deepinversion"}, {"method": "deepinversion", "preset": "batch_norm"}),
        ({"synthesis": {"steps": 50}}, {"preset": "batch_norm"}),
    ],
)
def test_what_is_named_comes_first(named: dict[str, Any], expected: dict[str, Any]) -> None:
    recipe = recipe_for(network("resnet8"), None, named)
    assert {key: getattr(recipe, key) for key in expected} == expected
    if "synthesis" in named:  # the value of the other preset's default is a choice, too
        assert recipe.synthesis.steps == 50
        with_statistics = load_recipe(None, {"preset": "zskd_bn"}).synthesis
        assert recipe.synthesis.learning_rate == with_statistics.learning_rate


def test_only_what_is_unusual_is_told() -> None:
    log = Log()
    recipe_for(network("lenet5"), "digits", progress=log)
    assert log.lines == []
    recipe_for(network("resnet8"), "digits", progress=log)
    assert log.lines == [
        "preset batch_norm, because the teacher has batch-norm",
        "student narrow:0.5, because the teacher is no chain of layers",
    ]
    recipe_for(network("lenet5"), "my-teacher", progress=log)
    assert log.lines[2:] == ["count 20000, because the teacher has no batch-norm"]


def test_the_printed_recipe_is_the_one_that_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = ["run", "digits", "--teacher.model", "resnet8", "--print-config"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    file = tmp_path / "mine.yaml"
    file.write_text(printed, encoding="utf-8")
    recipe = load_recipe(file)
    assert (recipe.preset, recipe.student) == ("batch_norm", "narrow:0.5")
    assert recipe == recipe_for(network("resnet8"), "digits", {"teacher": {"model": "resnet8"}})
    assert main(["run", "my-teacher", "--print-config"]) == 0
    found = capsys.readouterr()
    assert "preset: default" in found.out
    assert found.out.startswith("# No teacher could be opened")
    assert "are chosen when the teacher can be opened" in found.err
