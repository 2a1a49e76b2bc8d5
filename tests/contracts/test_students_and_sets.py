"""Settings, sizes and networks of unusual kinds: students, sets and generators do what is said of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from conftest import Lines
from zskd.config.distillation import DistillConfig, FeaturesConfig, GeneratorConfig, ImageBankConfig
from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.config.transforms import AugmentConfig
from zskd.core.engines.local import LocalEngine
from zskd.core.errors import ZskdError
from zskd.core.types import Images
from zskd.distillation.adversarial.base import make_generator_method
from zskd.distillation.adversarial.generator_steps import AdversarialGenerator
from zskd.distillation.adversarial.image_bank import ImageBank
from zskd.distillation.architecture import copy_student, student
from zskd.distillation.batch_norm import take_statistics
from zskd.distillation.build import build_student
from zskd.distillation.distill import distill
from zskd.distillation.initialisation.importance import Importance
from zskd.distillation.initialisation.repair import find_places, repair
from zskd.distillation.invariance import read_changes, settle_changes
from zskd.distillation.spec import StudentSpec
from zskd.evaluation import sanity
from zskd.models.batch_statistics import batch_norms, reading_statistics
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import fresh_weights
from zskd.models.narrow.matching import match_copy
from zskd.models.observation import observe
from zskd.run.passes import set_passes
from zskd.run.plan.sets import sample_set
from zskd.run.shares import counts_to_choose, least_count
from zskd.synthesis import sizes
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.methods.base import make_method
from zskd.synthesis.outcome import outcome_of
from zskd.synthesis.shard import plan_shard
from zskd.synthesis.sizes import fit_spec
from zskd.synthesis.spec import SetSpec
from zskd.transfer_set.dataset import TransferSet

SHAPE, LARGE = (1, 8, 8), (1, 96, 96)
PLAIN = DistillConfig(start="random", steps=2, batch_size=8, optimiser="adam", augment=AugmentConfig())


def linear(shape: tuple[int, int, int] = SHAPE, classes: int = 4) -> Classifier:
    module = fresh_weights(lambda: nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), classes)), seed=0)
    return Classifier(module, spec=InputSpec(shape=shape)).freeze()


@pytest.fixture(scope="module")
def plain() -> Classifier:
    return linear()


@pytest.fixture(scope="module")
def noise(plain: Classifier, tmp_path_factory: pytest.TempPathFactory) -> TransferSet:
    spec = SetSpec(method="noise", count=40, synthesis=SynthesisConfig(shard_size=20))
    return build_transfer_set(plain, spec, tmp_path_factory.mktemp("read") / "set")


# students


def against(**settings: Any) -> DistillConfig:
    generator = GeneratorConfig(share=1.0, method="dafl", width=4, latent=5, method_settings=settings)
    return replace(PLAIN, generator=generator)


@pytest.mark.parametrize(
    ("made", "asked"),
    [
        (PLAIN, replace(PLAIN, features=FeaturesConfig(loss="aligned", weight=100, layers="same"))),
        (replace(PLAIN, features=FeaturesConfig(loss="aligned", weight=100, layers="same")), PLAIN),
        (against(), against(entropy=0.5)),
        (against(entropy=0.5), against(one_hot=2.0)),
    ],
    ids=["features", "no features", "a setting of the method", "another setting of the method"],
)
def test_a_student_of_other_settings_is_not_returned_where_one_of_them_lacks_a_key(
    made: DistillConfig, asked: DistillConfig, plain: Classifier, noise: TransferSet, tmp_path: Path
) -> None:
    folder = tmp_path / "student"

    def ask(config: DistillConfig) -> Classifier:
        images = noise if config.needs_set else None
        return build_student(plain, StudentSpec(student="mlp(widths=(6,))", distill=config), images, folder)

    ask(made)
    with pytest.raises(ZskdError, match="holds a student of another training"):
        ask(asked)
    ask(made)


def test_a_card_from_before_the_loss_of_features_is_one_without_it(
    plain: Classifier, noise: TransferSet, tmp_path: Path
) -> None:
    spec = StudentSpec(student="mlp(widths=(6,))", distill=PLAIN)
    build_student(plain, spec, noise, tmp_path)
    card = json.loads((tmp_path / "card.json").read_text("utf-8"))
    del card["origin"]["distill"]["attention"]
    (tmp_path / "card.json").write_text(json.dumps(card))
    build_student(plain, spec, noise, tmp_path)
    asked = replace(PLAIN, features=FeaturesConfig(weight=5.0, layers="convolutions"))
    with pytest.raises(ZskdError, match="another training"):
        build_student(plain, replace(spec, distill=asked), noise, tmp_path)


def test_a_teacher_with_a_named_head_has_students_that_are_sequences_of_other_layers() -> None:
    layers = nn.Flatten(), nn.Linear(1024, 6), nn.ReLU(), nn.Linear(6, 3), nn.Softmax(1)
    teacher = Classifier(nn.Sequential(*layers), spec=InputSpec(shape=(1, 32, 32)), head="3").freeze()
    for name in ("resnet8", "lenet5", "mlp(widths=(5,))"):
        assert student(name, like=teacher).classes == 3
    other = nn.Sequential(nn.Flatten(), nn.Linear(1024, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU())
    assert copy_student(teacher, other).head_name is None
    smaller = nn.Sequential(nn.Flatten(), nn.Linear(1024, 4), nn.ReLU(), nn.Linear(4, 3), nn.Softmax(1))
    assert copy_student(teacher, smaller).head_name == "3"


# large images


def test_a_generator_makes_the_large_images_of_statistics_in_parts() -> None:
    for shape, most in ((SHAPE, 30), (LARGE, 30 * 64 * 64 // 96**2)):
        teacher = linear(shape)
        config = GeneratorConfig(width=4, latent=5)
        method = make_generator_method("dfad", {})
        made = AdversarialGenerator(teacher, linear(shape), method, config, seed=0, steps=1)
        sizes: list[int] = []
        made._generator.register_forward_hook(lambda _, __, images, sizes=sizes: sizes.append(len(images)))
        assert len(made.images_for_statistics(30)) == 30 == sum(sizes)
        assert max(sizes) == most
    # of small images, too, not all 2,000 are made at once
    sizes.clear()
    made.images_for_statistics(1200)
    assert max(sizes) <= 500


def test_a_bank_draws_as_many_pixels_at_once_whatever_the_size_of_an_image() -> None:
    for shape, most in ((SHAPE, 12), (LARGE, 12 * 64 * 64 // 96**2)):
        drawn: list[int] = []

        def draw(count: int, rng: Generator, shape: Any = shape, drawn: list[int] = drawn) -> Images:
            drawn.append(count)
            return torch.rand(count, *shape, generator=rng)

        config = replace(PLAIN, image_bank=ImageBankConfig(share=0.5, count=2, images=12, steps=1))
        bank = ImageBank(linear(shape), linear(shape), config, draw, seed=0, steps=2)
        for _ in range(2):
            bank.images(1, Generator())
        assert sum(drawn) == 12 == int(bank._bank.made)
        assert max(drawn) == most


def test_the_teacher_is_asked_about_changes_of_fewer_large_images(
    plain: Classifier, noise: TransferSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zskd.distillation.invariance._VALUES", 10 * 64 + 5)
    seen: list[int] = []
    images = TransferSet.images
    monkeypatch.setattr(
        TransferSet, "images", lambda made, rows: (seen.append(len(rows)), images(made, rows))[1]
    )
    config = replace(PLAIN, changes="by_teacher", augment=AugmentConfig(flip=0.5))
    settle_changes(plain, noise, config, None, progress=Lines())
    assert seen == [10]


def test_what_was_measured_with_another_seed_is_measured_again(
    plain: Classifier, noise: TransferSet, tmp_path: Path
) -> None:
    config = replace(PLAIN, changes="by_teacher", augment=AugmentConfig(brightness=0.4, rotation=20.0))
    found = {}
    for seed in (0, 1):
        settle_changes(plain, noise, config, tmp_path / "together.json", seed=seed, progress=Lines())
        settle_changes(plain, noise, config, tmp_path / f"{seed}.json", seed=seed, progress=Lines())
        found[seed] = read_changes(tmp_path / f"{seed}.json")
        assert read_changes(tmp_path / "together.json") == found[seed]
    assert found[0] != found[1]


# sets


def test_a_set_that_no_disk_holds_is_refused_before_its_shards_are_listed(
    plain: Classifier, tmp_path: Path
) -> None:
    spec = SetSpec(method="noise", count=10**12)
    with pytest.raises(ZskdError, match=r"1,000,000,000,000 images need .* make room, or lower --count"):
        build_transfer_set(plain, spec, tmp_path / "set")
    few = "more than 1,000,000 files: lower --count"
    for ask in (
        lambda: set_passes(plain, spec),
        lambda: counts_to_choose(spec, 4, 300),
        lambda: sample_set(plain, spec, tmp_path, seconds=0.0, workers=1, engine=LocalEngine()),
    ):
        with pytest.raises(ZskdError, match=few):
            ask()


DROPPING = SetSpec(
    method="class_impressions",
    count=13,
    synthesis=SynthesisConfig(
        noise_share=0.0, steps=2, tau=1.0, batch_size=4, shard_size=4, missed="drop", tolerance=5.0
    ),
)


def without_class_0() -> Classifier:
    """A teacher that no image of class 0 can be made for."""
    teacher = linear()
    with torch.no_grad():
        teacher.head.weight[0], teacher.head.bias[0] = 0.0, -100.0
    return teacher


@pytest.mark.parametrize(("size", "kept"), [(4, [3, 3, 3, 0]), (1, [0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 0])])
def test_a_set_may_have_a_shard_of_which_all_images_were_dropped(
    size: int, kept: list[int], tmp_path: Path
) -> None:
    teacher = without_class_0()
    spec = replace(DROPPING, synthesis=replace(DROPPING.synthesis, shard_size=size))
    made = build_transfer_set(teacher, spec, tmp_path / "set")
    manifest = made.manifest
    assert [one.count for one in manifest.shards] == kept
    assert (len(made), manifest.count, manifest.missed, manifest.dropped) == (9, 9, 4, 4)
    assert manifest.passes is not None
    assert manifest.passes["synthesis"].teacher_forward >= 13
    assert (outcome_of(made).optimised, outcome_of(made).missed) == (13, 4)
    assert made.shard_sizes == tuple(count for count in kept if count)
    assert torch.equal(made.images(torch.arange(9)), torch.cat([shard.images for shard in made]))
    assert len(TransferSet(made.folder, first=1).images(torch.tensor([0]))) == 1
    for order in ("shuffled", "by_shard", "hard_first"):
        config = replace(PLAIN, order=order)  # type: ignore[arg-type]
        distill(teacher, nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), made, config)
    # a set that was interrupted is continued, its empty shard as well
    path = made.folder / manifest.shards[-1].file
    stored = path.read_bytes()
    path.unlink()
    assert build_transfer_set(teacher, spec, made.folder).manifest == manifest
    assert path.read_bytes() == stored


def test_a_set_of_which_nothing_is_left_is_refused_at_once_when_it_is_asked_for_again(
    plain: Classifier, tmp_path: Path
) -> None:
    spec = replace(DROPPING, synthesis=replace(DROPPING.synthesis, tolerance=1e-9))
    for _ in range(2):
        with pytest.raises(
            ZskdError, match=r"none of the 13 images met its target: raise --synthesis\.steps"
        ):
            build_transfer_set(plain, spec, tmp_path)
    assert json.loads((tmp_path / "manifest.json").read_text("utf-8"))["complete"] is False


def test_pairs_that_differ_by_less_than_a_grey_level_are_stored_as_they_are(tmp_path: Path) -> None:
    teacher = linear(LARGE)
    synthesis = SynthesisConfig(start="uniform", noise_share=0.0, steps=3, tolerance=0.0)
    spec = SetSpec(method="boundary", count=8, synthesis=synthesis)
    assert replace(spec, method="noise").storage(LARGE) == "uint8"
    assert replace(spec, synthesis=replace(synthesis, storage="uint8")).storage(LARGE) == "uint8"
    made = build_transfer_set(teacher, spec, tmp_path)
    before, beyond = made.images(torch.arange(0, 8, 2)), made.images(torch.arange(1, 8, 2))
    assert float((before - beyond).abs().max()) < 1 / 255
    assert bool((teacher(before).argmax(1) != teacher(beyond).argmax(1)).all())
    # one that was begun in 8 bits is continued so
    manifest = json.loads((tmp_path / "manifest.json").read_text("utf-8"))
    manifest["resolved"]["storage"] = "uint8"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert fit_spec(teacher, spec, tmp_path).synthesis.storage == "uint8"


def test_a_momentum_of_one_is_told_to_be_below_it() -> None:
    for method in ("deepinversion", "zskd_bn"):
        with pytest.raises(ZskdError, match=r"momentum is 1\.0: it must be below 1$"):
            make_method(method, {"momentum": 1.0})
    with pytest.raises(ZskdError, match=r"momentum is -0\.1: it must be at least 0"):
        make_method("deepinversion", {"momentum": -0.1})


def test_pairs_with_candidates_are_not_torn_apart_between_rows() -> None:
    synthesis = SynthesisConfig(candidates=2, noise_share=0.0, tolerance=0.0)
    rows = TargetsConfig(order="rows")
    spec = SetSpec(method="boundary", count=60, targets=rows, synthesis=synthesis)
    unit = 10 * len(rows.betas)
    message = f"in whole groups of 2: give --count a multiple of {2 * unit}, not 60"
    with pytest.raises(ZskdError, match=message):
        spec.shards(10)
    assert replace(spec, count=4 * unit).shard_size(10) == 4
    assert replace(spec, synthesis=replace(synthesis, candidates=1)).shard_size(10) == 60 // unit
    many = replace(spec, count=100 * unit)
    sizes = {*counts_to_choose(many, 10, least_count(many, 10))}
    assert {replace(many, count=size).shard_size(10) % 2 for size in sizes} == {0}


def test_pairs_in_rows_start_from_images_of_all_classes() -> None:
    """Each row is of one class, and so are the start images that are chosen for it among candidates."""
    synthesis = SynthesisConfig(candidates=50, noise_share=0.0, tolerance=0.0)
    rows = TargetsConfig(order="rows", betas=(1.0,))
    spec = SetSpec(method="boundary", count=4 * 6, targets=rows, synthesis=synthesis)
    quarters = Classifier(
        nn.Sequential(nn.AvgPool2d(4), nn.Flatten()), spec=InputSpec(shape=SHAPE)
    ).freeze()  # the class is the brightest quarter of the image
    for row in range(4):
        starts = plan_shard(quarters, spec, spec.indices(row, 4)).starts
        assert set(quarters(starts).argmax(1).tolist()) == {row}


def test_what_to_lower_is_the_count_where_a_file_is_a_row(
    plain: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "available_memory", lambda _: 10**6)
    for order, lower in (("rows", "--count"), ("interleaved", "--synthesis.shard-size")):
        targets = TargetsConfig(order=order, betas=(1.0,))  # type: ignore[arg-type]
        synthesis = SynthesisConfig(batch_size=1, shard_size=20_000)
        with pytest.raises(ZskdError, match=f"make room, or lower {lower}$"):
            fit_spec(plain, SetSpec(count=80_000, targets=targets, synthesis=synthesis))


# networks


class WithUnused(nn.Module):
    """The batch-norm of an auxiliary head does not run."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.auxiliary = nn.Linear(64, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1))


@pytest.mark.parametrize("method", ["dfq", "conditional"])
def test_a_teacher_whose_batch_norm_does_not_run_is_refused_in_a_line(
    method: str, noise: TransferSet
) -> None:
    teacher = Classifier(WithUnused().eval(), spec=InputSpec(shape=SHAPE)).freeze()
    made = make_generator_method(method, {})
    made.check_teacher(teacher)
    with pytest.raises(ZskdError, match="running statistics of batch-norm layers, and the teacher has none"):
        made.loss_on(teacher, teacher, noise.images(torch.arange(4)))


class Small(nn.Module):
    """Two convolutions with batch-norm and a linear layer, called by place or by name."""

    def __init__(self, width: int = 8, *, by_name: bool) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, width, 3), nn.BatchNorm2d(width)
        self.second, self.fc = nn.Conv2d(width, 6, 3), nn.Linear(6, 4)
        self.by_name = by_name

    def forward(self, x: Tensor) -> Tensor:
        def run(layer: nn.Module, value: Tensor) -> Tensor:
            given: Mapping[str, Tensor] = {"input": value} if self.by_name else {}
            return layer(**given) if given else layer(value)

        x = run(self.second, run(self.norm, run(self.first, x)).relu()).relu()
        return run(self.fc, x.mean((2, 3)))


def small(*, by_name: bool, width: int = 8) -> Classifier:
    module = fresh_weights(lambda: Small(width, by_name=by_name), seed=0)
    return Classifier(module, spec=InputSpec(shape=SHAPE), head="fc")


def test_networks_that_call_layers_by_keyword_are_read_like_others() -> None:
    images = torch.rand(40, *SHAPE, generator=Generator().manual_seed(0))
    found: list[list[Any]] = []
    for by_name in (False, True):
        network = small(by_name=by_name)
        take_statistics(network, images.split(20))
        norm = batch_norms(network.module)["norm"]
        teacher, narrow = network.freeze(), small(by_name=by_name, width=5).freeze()
        with reading_statistics(teacher) as statistics, torch.no_grad():
            teacher(images)
        seen = observe(teacher, images, inputs_of=(nn.Conv2d, nn.BatchNorm2d, nn.Linear))
        match = match_copy(
            small(by_name=False).freeze().module, small(by_name=False, width=5).module, images[:1]
        )
        assert match is not None
        with torch.no_grad():
            importance = Importance(teacher, match, images.split(20), Generator().manual_seed(1))
            places = find_places(teacher, narrow, images[:1])
            outputs = {one.name: torch.arange(one.outputs) for one in places}
            repair(teacher, narrow, [places], outputs, images.split(20), Generator().manual_seed(2))
        found.append(
            [
                norm.running_mean,
                norm.running_var,
                *(value for one in statistics for value in (one.mean, one.var)),
                *(one.value for one in seen.layers),
                seen.features,
                *(importance.of_groups(rule)["first"] for rule in ("fisher", "covariance")),
                *narrow.module.state_dict().values(),
                torch.tensor(sanity._contradiction(teacher, images, (0.0,), (1.0,)) or 0.0),
            ]
        )
    assert len(found[0]) == len(found[1]) > 18
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
