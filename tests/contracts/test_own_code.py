"""Code from outside the package: found by its name, held to the contracts, never run because of a file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import run_zskd
from zskd.config.loading import load_recipe
from zskd.config.registry import REGISTRIES
from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.core.errors import ZskdError
from zskd.models.classifier import Classifier
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.inversion.invert import invert
from zskd.synthesis.inversion.lanes import InversionBatch
from zskd.synthesis.inversion.objective import CrossEntropy, ForwardPass, Objective, SquaredPixels, Term
from zskd.synthesis.methods.base import make_method
from zskd.synthesis.settling import settle
from zskd.synthesis.shard import make_shard
from zskd.synthesis.spec import SetSpec, read_spec
from zskd.synthesis.trace import trace_impression
from zskd.transfer_set.manifest import read_manifest

METHOD = '''
from dataclasses import dataclass
import numpy as np
import torch
import zskd


class Spread(zskd.Term):
    """Couples: each image is to be far from the mean of those that are there."""

    couples = True

    def __call__(self, forward):
        images = forward.images[forward.active]
        far = torch.zeros(len(forward.images))
        far[forward.active] = (images - images.mean(0)).square().mean((1, 2, 3))
        return far


class Statistics(zskd.Term):
    """Couples, and reads the teacher's batch-norm layers."""

    couples = True
    teacher_layers = (torch.nn.BatchNorm2d,)

    def __call__(self, forward):
        found = sum(
            (seen.value[forward.active].mean((0, 2, 3)) - seen.layer.running_mean).square().mean()
            for seen in forward.layers
        )
        return found.expand(len(forward.images)) / len(forward.images)


@dataclass(frozen=True, kw_only=True)
class Plain(zskd.Method):
    """One-hot targets."""

    weight: float = 0.5
    """Of nothing."""

    def targets(self, teacher, entries, config, *, seed):
        return zskd.one_hot([entry.anchor for entry in entries], teacher.classes)

    def objective(self, config):
        return zskd.match_targets(config)


@dataclass(frozen=True, kw_only=True)
class Coupled(Plain):
    def objective(self, config):
        return zskd.CrossEntropy() + (-self.weight) * Spread()


@dataclass(frozen=True, kw_only=True)
class OfStatistics(Plain):
    def objective(self, config):
        return zskd.CrossEntropy() + self.weight * Statistics()


class Far(zskd.Term):
    """The same everywhere."""

    def __call__(self, forward):
        return torch.ones(len(forward.images))


class Low(Plain):
    def objective(self, config):
        return zskd.match_targets(config) + (-1000) * Far()


@dataclass(frozen=True, kw_only=True)
class Maker(Plain):
    what: str = "images"

    def make(self, teacher, entries, batch, config, *, on_progress=None):
        images, steps = batch.starts, torch.full((len(batch.starts),), 3)
        return {
            "images": images,
            "bytes": ((255 * images).byte(), steps),
            "fewer": (images[1:], steps),
            "seconds": (images, steps / 2),
            "both": (images, steps),
        }[self.what]


def wrong(streams, shape, box):
    return torch.zeros(1)
'''


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("own") / "own_method.py"
    path.write_text(METHOD, encoding="utf-8")
    return str(path)


def spec_of(name: str, **synthesis: Any) -> SetSpec:
    config = SynthesisConfig(
        steps=4, tolerance=0.0, noise_share=0.0, batch_size=8, shard_size=20, **synthesis
    )
    return SetSpec(method=name, count=30, targets=TargetsConfig(), synthesis=config)


def test_a_method_from_outside_makes_what_the_one_inside_makes(
    teacher: Classifier, code: str, tmp_path: Path
) -> None:
    spec = spec_of(f"{code}:Plain")
    own = build_transfer_set(teacher, spec, tmp_path / "own", workers=2)
    ours = build_transfer_set(teacher, replace(spec, method="class_impressions"), tmp_path / "ours")
    assert torch.equal(own.all_images(), ours.all_images())
    assert own.manifest.code is not None
    assert ours.manifest.code is None
    assert not spec.couples
    assert spec.nests


@pytest.mark.parametrize("name", ["Coupled", "OfStatistics"])
def test_coupled_images_take_the_same_steps_and_are_made_again_by_the_shard(code: str, name: str) -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 30 * 30, 10)
    )
    teacher = Classifier(network).freeze()
    spec = spec_of(f"{code}:{name}")
    assert spec.couples
    assert not spec.nests
    with pytest.raises(ZskdError, match=r"--synthesis\.tolerance must be 0 .* couples the images"):
        replace(spec, synthesis=replace(spec.synthesis, tolerance=0.1))
    shard = make_shard(teacher, spec, 0)
    assert shard.steps.tolist() == [4] * 20
    assert torch.equal(trace_impression(teacher, spec, 3)[-1].image, shard.images[3])
    plain = make_shard(teacher, replace(spec, method="class_impressions", method_settings={}), 0)
    assert not torch.equal(shard.images, plain.images)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in teacher.modules())


class Counted(Term):
    """Notes which lanes hold an image."""

    couples = True
    seen: list[list[bool]] = []  # noqa: RUF012  shared on purpose

    def __call__(self, forward: ForwardPass) -> Tensor:
        self.seen.append(forward.active.tolist())
        return forward.cross_entropy * 0


def test_a_lane_without_an_image_is_not_active(teacher: Classifier) -> None:
    Counted.seen.clear()
    config = SynthesisConfig(steps=2, tolerance=0.0, batch_size=4)
    batch = InversionBatch(torch.rand(6, 1, 32, 32), torch.eye(10)[:6])
    invert(teacher, batch, config, CrossEntropy() + Counted())
    assert Counted.seen == [[True] * 4] * 2 + [[True, True, False, False]] * 2


def test_an_objective_is_a_weighted_sum_of_named_terms() -> None:
    images = torch.rand(3, 1, 4, 4, requires_grad=True)
    logits, targets = torch.randn(3, 5), torch.softmax(torch.randn(3, 5), 1)
    forward = ForwardPass(images, images, logits, targets, 2.0, (), torch.ones(3, dtype=torch.bool))
    objective = 2 * (CrossEntropy() + 0.5 * SquaredPixels()) + SquaredPixels()
    values = objective.values(forward)
    entropy = -(targets * torch.log_softmax(logits / 2, 1)).sum(1)
    torch.testing.assert_close(values["CrossEntropy"], 2 * entropy)
    torch.testing.assert_close(values["SquaredPixels"], 2 * images.square().sum((1, 2, 3)))
    assert Objective().values(forward) == {}
    assert not objective.couples


def test_a_manifest_runs_no_code(teacher: Classifier, code: str, tmp_path: Path) -> None:
    name = f"{code}:Plain"
    made = build_transfer_set(teacher, spec_of(name), tmp_path / "set")
    with pytest.raises(ZskdError, match="a manifest may not run: give --trust"):
        read_spec(made.manifest.spec)
    assert read_spec(made.manifest.spec, trusted=[name]) == spec_of(name)


def test_another_version_of_the_code_makes_another_set(teacher: Classifier, tmp_path: Path) -> None:
    path = tmp_path / "changing_method.py"
    path.write_text(METHOD, encoding="utf-8")
    spec = spec_of(f"{path}:Plain")
    build_transfer_set(teacher, spec, tmp_path / "set")
    path.write_text(METHOD + "# changed\n", encoding="utf-8")
    with pytest.raises(ZskdError, match="made with another code"):
        build_transfer_set(teacher, spec, tmp_path / "set")


@pytest.mark.parametrize("what", ["images", "bytes", "fewer", "seconds", "both"])
def test_what_a_method_makes_is_checked(teacher: Classifier, code: str, what: str) -> None:
    spec = replace(spec_of(f"{code}:Maker"), method_settings={"what": what})
    if what == "both":
        assert make_shard(teacher, spec, 0).steps.tolist() == [3] * 20
        return
    with pytest.raises(ZskdError, match=r"`make` must return a float32 tensor \(20, 1, 32, 32\)"):
        make_shard(teacher, spec, 0)


def test_a_negative_objective_does_not_choose_the_largest_learning_rate(
    teacher: Classifier, code: str
) -> None:
    """Of −1,000, nothing that another rate changes is 3 %."""
    spec = spec_of(f"{code}:Low", learning_rate=0.03, learning_rate_search=3)
    assert settle(teacher, spec).spec.synthesis.learning_rate == 0.03


WRONG = {
    "no file": ("nowhere.py:Plain", {}, "there is no file nowhere.py"),
    "no such name": ("{code}:Nothing", {}, "has no attribute 'Nothing'"),
    "no method": ("{code}:Statistics", {}, "is no subclass of zskd.Method"),
    "no such setting": ("{code}:Plain", {"wieght": 1}, "unknown key wieght: did you mean weight"),
    "a setting of another type": ("{code}:Plain", {"weight": "much"}, "--method-settings.weight is 'much'"),
    "a built-in's unknown setting": ("zskd", {"spread": 1}, "unknown key spread"),
    "a module of the standard library": ("copy.py:Plain", {}, "copy"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_used_is_told_in_one_line(
    code: str, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "copy.py").write_text(METHOD, encoding="utf-8")
    name, settings, message = WRONG[case]
    with pytest.raises(ZskdError, match=message) as caught:
        make_method(name.format(code=code), settings)
    assert "\n" not in str(caught.value)


def test_a_start_that_returns_something_else_is_refused(teacher: Classifier, code: str) -> None:
    with pytest.raises(ZskdError, match=r"returned torch\.float32 \(1,\): it must return float32 images"):
        make_shard(teacher, spec_of("zskd", start=f"{code}:wrong"), 0)


def test_the_command_takes_it_and_tells_mistakes_in_one_line(
    teacher_folder: Path, code: str, tmp_path: Path
) -> None:
    common = ["synthesize", teacher_folder, "--count", 30, "--synthesis.steps", 2, "--quiet"]
    made = run_zskd(
        *common, "--method", f"{code}:Plain", "--method-settings.weight", 2, "--out", tmp_path / "a"
    )
    assert made.returncode == 0, made.stderr
    assert read_manifest(tmp_path / "a").spec["method_settings"] == {"weight": 2}
    wrong = run_zskd(
        *common, "--method", f"{code}:Plain", "--method-settings.wieght", 2, "--out", tmp_path / "b"
    )
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1
    film = ["show", "filmstrip", teacher_folder, tmp_path / "a", "--out", tmp_path / "film.png"]
    assert "--trust" in run_zskd(*film).stderr
    assert run_zskd(*film, "--trust", f"{code}:Plain").returncode == 0


@pytest.mark.parametrize("option", REGISTRIES)
def test_every_name_of_the_registry_stands_for_something(option: str) -> None:
    registry = REGISTRIES[option]
    for name, entry in zip(registry.examples, registry.values(), strict=True):
        assert entry.summary
        if option != "--controls":
            assert callable(registry.load(name))


@pytest.mark.parametrize("option", REGISTRIES)
def test_help_lists_every_name_of_the_registry(option: str, help_of_run: str) -> None:
    registry = REGISTRIES[option]
    assert f"{option} NAME" in help_of_run
    assert f"[{', '.join(registry)}]" in help_of_run


@pytest.fixture(scope="module")
def help_of_run() -> str:
    return " ".join(run_zskd("run", "--help-all", COLUMNS="400").stdout.split())


def test_code_in_a_recipe_is_not_imported_by_reading_it(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('run')", encoding="utf-8")
    recipe = load_recipe(None, {"method": f"{tmp_path / 'evil.py'}:X", "distill": {"loss": "evil.py:f"}})
    assert recipe.method.endswith(":X")
