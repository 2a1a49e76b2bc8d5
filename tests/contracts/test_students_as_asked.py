"""A student is the one that was asked for, or one line tells why there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from conftest import Lines, StopAt, Stopped
from zskd.cli.main import main as run
from zskd.config.distillation import DistillConfig, GeneratorConfig
from zskd.config.identity import identity
from zskd.config.loading import load_recipe
from zskd.config.recipe import Recipe
from zskd.config.synthesis import SynthesisConfig
from zskd.config.transforms import AugmentConfig
from zskd.core.errors import ZskdError
from zskd.core.rng import torch_stream
from zskd.distillation.adversarial.image_bank import _Bank
from zskd.distillation.batches import DistillationBatches, _parts
from zskd.distillation.build import build_student, generated_images
from zskd.distillation.distill import distill
from zskd.distillation.invariance import measure_changes, read_changes, settle_changes
from zskd.distillation.order import rank
from zskd.distillation.sources import check_generator
from zskd.distillation.spec import StudentSpec
from zskd.models.checkpoint import Card, save_checkpoint
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import build, describe, fresh_weights
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.spec import SetSpec
from zskd.training.batches import Batch, Batches, Order, prepared
from zskd.training.state import Done, load_state, save_state
from zskd.transfer_set.dataset import TransferSet

SHAPE = (1, 8, 8)
TEACHER = describe("mlp(widths=(12,))", shape=SHAPE, classes=4)
PLAIN = DistillConfig(
    start="random", steps=24, batch_size=8, optimiser="adam", learning_rate=0.01, augment=AugmentConfig()
)
AGAINST = replace(PLAIN, generator=GeneratorConfig(share=1.0, width=4, latent=5))
SPEC = StudentSpec(student="mlp(widths=(6,))", distill=replace(PLAIN, steps=2))
ANEW = "it begins anew"


@pytest.fixture(scope="module")
def teacher() -> Classifier:
    module = fresh_weights(lambda: build(TEACHER, run_code=False), seed=0)
    return Classifier(module, spec=InputSpec(shape=SHAPE)).freeze()


@pytest.fixture(scope="module")
def teacher_folder(teacher: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("asked") / "teacher"
    return save_checkpoint(teacher, Card(architecture=TEACHER), folder)


@pytest.fixture(scope="module")
def noise(teacher: Classifier, tmp_path_factory: pytest.TempPathFactory) -> TransferSet:
    spec = SetSpec(method="noise", count=60, synthesis=SynthesisConfig(shard_size=30))
    return build_transfer_set(teacher, spec, tmp_path_factory.mktemp("asked") / "set")


def student(seed: int = 1) -> nn.Module:
    return fresh_weights(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), seed)


def with_batch_norm() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.Linear(6, 4))


def weights(classifier: Classifier) -> Tensor:
    return torch.cat([one.detach().flatten() for one in classifier.module.parameters()])


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert run([*map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


# what there is to train on


def test_a_training_without_a_transfer_set_is_refused_in_a_line(
    teacher: Classifier, teacher_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "student"
    for options in ((), ("--distill.start", "random")):
        assert "--preset dfad" in told(capsys, "distill", teacher_folder, "--out", out, *options)
    for start in ("teacher", "random"):
        config = replace(PLAIN, start=start)  # type: ignore[arg-type]
        with pytest.raises(ZskdError, match="there is no transfer set to train on: name one"):
            build_student(teacher, replace(SPEC, distill=config), None, out)
        with pytest.raises(ZskdError, match="--preset dfad"):
            distill(teacher, student(), None, config)
    assert not out.exists()


def test_pictures_of_no_kind_are_refused(teacher: Classifier, noise: TransferSet, tmp_path: Path) -> None:
    for ask in (
        lambda: distill(teacher, student(), noise, PLAIN, pictures={"image": noise}),
        lambda: build_student(teacher, SPEC, noise, tmp_path / "student", pictures={"image": noise}),
    ):
        with pytest.raises(ZskdError, match="'image' is no kind: give images or few"):
            ask()
    with pytest.raises(ZskdError, match="leave the pictures out"):
        distill(teacher, student(), None, AGAINST, pictures={"images": noise})


def test_a_generator_method_that_does_not_fit_is_refused_before_the_work(
    teacher: Classifier, teacher_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "student"
    config = replace(AGAINST, generator=replace(AGAINST.generator, method="conditional"))
    with pytest.raises(ZskdError, match="running statistics of batch-norm"):
        check_generator(teacher, config)
    check_generator(teacher, replace(config, generator=replace(config.generator, share=0.0)))
    lines = Lines()
    with pytest.raises(ZskdError, match="choose another method"):
        build_student(teacher, replace(SPEC, distill=config), None, out, progress=lines)
    assert "choose another method" in told(
        capsys, "distill", teacher_folder, "--preset", "conditional", "--out", out
    )
    assert not out.exists()
    assert not lines.lines


# what a training resumes


def test_a_state_of_another_training_is_told_and_not_used(
    teacher: Classifier, noise: TransferSet, tmp_path: Path
) -> None:
    state, longer = tmp_path / "state.safetensors", replace(PLAIN, steps=25)
    with pytest.raises(Stopped):
        distill(teacher, student(), noise, PLAIN, state=state, progress=StopAt(21))
    for config, anew in ((PLAIN, False), (longer, True)):
        lines = Lines()
        made = distill(teacher, student(), noise, config, state=state, progress=lines)
        assert any(ANEW in line for line in lines.lines) == anew
        assert torch.equal(weights(made), weights(distill(teacher, student(), noise, config)))


def test_equal_settings_resume_in_whatever_order_they_were_named(
    teacher: Classifier, noise: TransferSet, tmp_path: Path
) -> None:
    def config(**settings: float) -> DistillConfig:
        return replace(PLAIN, generator=GeneratorConfig(method="dafl", method_settings=dict(settings)))

    state, lines = tmp_path / "state.safetensors", Lines()
    one, other = config(one_hot=1.0, entropy=2.0), config(entropy=2.0, one_hot=1.0)
    with pytest.raises(Stopped):
        distill(teacher, student(), noise, one, state=state, progress=StopAt(21))
    distill(teacher, student(), noise, other, state=state, progress=lines)
    assert not [line for line in lines.lines if ANEW in line]


def test_a_state_is_of_one_start(teacher: Classifier, noise: TransferSet, tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    first = distill(teacher, student(1), noise, PLAIN, state=state)
    second = distill(teacher, student(2), noise, PLAIN, state=state)
    assert torch.equal(weights(second), weights(distill(teacher, student(2), noise, PLAIN)))
    assert not torch.equal(weights(first), weights(second))


def test_a_start_that_is_named_may_round_otherwise(
    teacher: Classifier, noise: TransferSet, tmp_path: Path
) -> None:
    state, lines = tmp_path / "state.safetensors", Lines()
    with pytest.raises(Stopped):
        distill(teacher, student(1), noise, PLAIN, state=state, begins_as="half", progress=StopAt(21))
    resumed = distill(teacher, student(2), noise, PLAIN, state=state, begins_as="half", progress=lines)
    assert not [line for line in lines.lines if ANEW in line]
    assert torch.equal(weights(resumed), weights(distill(teacher, student(1), noise, PLAIN)))


# what a folder holds


def test_a_finished_student_is_returned_to_those_who_ask_for_it(
    teacher: Classifier, noise: TransferSet, tmp_path: Path
) -> None:
    folder = tmp_path / "student"
    made = build_student(teacher, SPEC, noise, folder)
    again = build_student(
        teacher, replace(SPEC, distill=replace(SPEC.distill, images="mapped")), noise, folder
    )
    assert torch.equal(weights(made), weights(again))
    other_teacher = Classifier(student(), spec=InputSpec(shape=SHAPE)).freeze()
    part = TransferSet(noise.folder, first=30)
    for what, ask in {
        "seed": lambda: build_student(teacher, replace(SPEC, seed=1), noise, folder),
        "training": lambda: build_student(teacher, replace(SPEC, distill=PLAIN), noise, folder),
        "architecture": lambda: build_student(
            teacher, replace(SPEC, student="mlp(widths=(7,))"), noise, folder
        ),
        "transfer set": lambda: build_student(teacher, SPEC, part, folder),
        "set of pictures": lambda: build_student(teacher, SPEC, noise, folder, pictures={"images": noise}),
        "teacher": lambda: build_student(other_teacher, SPEC, noise, folder),
    }.items():
        with pytest.raises(ZskdError, match=f"holds a student of another {what}: choose another folder"):
            ask()
    card = folder / "card.json"
    card.write_text(card.read_text("utf-8").replace('"seed"', '"sown"').replace('"tau"', '"temperature"'))
    build_student(teacher, SPEC, noise, folder)  # of a version that knew less


# lengths and counts


TWO_OUTPUTS = """
from torch import nn


class Both(nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.inner, self.head, self.embedding = nn.Linear(64, 8), nn.Linear(8, classes), nn.Linear(8, 5)

    def forward(self, x):
        features = self.inner(x.flatten(1)).relu()
        return self.head(features), self.embedding(features)


class Scores(Both):
    def forward(self, x):
        return super().forward(x)[0]
"""


def test_a_student_may_return_more_than_its_logits(
    teacher: Classifier, noise: TransferSet, tmp_path: Path
) -> None:
    (tmp_path / "two_outputs.py").write_text(TWO_OUTPUTS)
    code = str(tmp_path / "two_outputs.py")
    made = build_student(teacher, replace(SPEC, student=f"{code}:Both"), noise, tmp_path / "student")
    assert made.returned.classes == 4
    again = build_student(teacher, replace(SPEC, student=f"{code}:Both"), noise, tmp_path / "student")
    assert again.fingerprint() == made.fingerprint()
    with pytest.raises(ZskdError, match="has 3 classes and its teacher 4: choose another --student$"):
        build_student(teacher, replace(SPEC, student=f"{code}:Scores(classes=3)"), noise, tmp_path / "other")


def test_epochs_alone_are_the_length_of_a_training() -> None:
    config = DistillConfig(epochs=3)
    assert (config.steps, config.total_steps(2560)) == (None, 30)
    named = load_recipe(None, {"distill": {"epochs": 3}, "student": Recipe().student})
    assert identity(Recipe(distill=config)) == identity(named)
    assert DistillConfig(epochs=3, steps=7).total_steps(2560) == 7
    assert DistillConfig().steps == replace(config, steps=4000, epochs=None).steps == 4000


@pytest.mark.parametrize(
    "changes",
    [
        {"pool": 500, "replay": 0.5},
        {"pool": 500, "replay": 0.3, "student_steps": 3},
        {"pool": 500},
    ],
)
def test_images_that_are_shown_again_are_not_counted_again(
    teacher: Classifier, changes: dict[str, Any]
) -> None:
    config = replace(AGAINST, steps=7, generator=replace(AGAINST.generator, **changes))
    batches = DistillationBatches(teacher, None, config)
    companions = batches.attach_student(Classifier(student(), spec=teacher.spec), seed=0, steps=7)
    for step in range(7):
        batches(torch.arange(8), torch_stream(0, "step", step))
        batches.learn(torch.ones(8))
    assert int(companions["pool"][0].made) == generated_images(config)


def test_images_of_several_steps_are_counted_once(teacher: Classifier) -> None:
    same = replace(AGAINST.generator, same=True, student_steps=5, pool=4, replay=0.75)
    assert generated_images(replace(AGAINST, steps=11, generator=same)) == 8 + 2 * (8 - 4)


# what is shown and asked


def test_the_teacher_is_asked_about_images_from_all_parts_of_a_set(
    teacher: Classifier, noise: TransferSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zskd.distillation.invariance._IMAGES", 12)
    config = replace(PLAIN, changes="by_teacher", augment=AugmentConfig(flip=0.5, crop=0.2))
    settle_changes(teacher, noise, config, tmp_path / "changes.json", progress=Lines())
    asked = read_changes(tmp_path / "changes.json")
    assert asked == tuple(measure_changes(teacher, noise.images(torch.arange(0, 60, 5)), config.augment))


@pytest.mark.parametrize("how", ["again", "fixed"])
def test_statistics_are_not_taken_of_a_single_image(
    teacher: Classifier, noise: TransferSet, how: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zskd.distillation.batches._PART", 20)
    config = replace(PLAIN, steps=4, batch_norm=how)
    distill(teacher, with_batch_norm(), TransferSet(noise.folder, first=41), config)
    sizes = {count: [len(part) for part in _parts(torch.arange(count), 20)] for count in (1, 20, 40, 45, 41)}
    assert sizes == {1: [1], 20: [20], 40: [20, 20], 45: [20, 20, 5], 41: [14, 14, 13]}


@pytest.mark.parametrize("hard_first", [False, True])
def test_the_order_by_confidence_needs_one_part_of_the_logits_at_a_time(hard_first: bool) -> None:
    logits = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    confidence = logits.double().softmax(1).amax(1)
    expected = confidence.argsort(descending=not hard_first, stable=True)
    assert torch.equal(rank(iter(logits.split(7)), hard_first=hard_first), expected)


def test_a_bank_of_large_images_is_bounded() -> None:
    with torch.device("meta"):
        assert _Bank(30000, (3, 224, 224)).images.nbytes <= 2**29
        assert len(_Bank(30000, (3, 64, 64)).images) == 30000
        assert len(_Bank(30000, (3, 20000, 20000)).images) == 1


# what failed


def test_a_generator_that_diverges_is_named(teacher: Classifier) -> None:
    generator = replace(AGAINST.generator, learning_rate=1e30)
    with pytest.raises(
        ZskdError, match=r"generator's images are not finite: lower --distill\.generator\.learn"
    ):
        distill(teacher, student(), None, replace(AGAINST, generator=generator))


def refused(rows: Tensor, numbers: Generator) -> Batch:
    raise ZskdError("the disk is gone: bring it back")


@pytest.mark.parametrize("helper", [False, True])
def test_an_error_of_a_batch_is_one_line_wherever_it_is_made(helper: bool) -> None:
    batches = Batches(Order(2, 4, 0), refused, 0)
    with pytest.raises(ZskdError, match="^the disk is gone: bring it back$"):
        list(prepared(batches, range(3), helper))


# optimisers of the user's own


class Counting(torch.optim.Optimizer):
    """Steps that shrink with a count, which it keeps as a number or a tensor, of parameters or of groups."""

    def __init__(self, parameters: Any, *, of_group: bool, first: Any) -> None:
        super().__init__(parameters, {"lr": 0.1, "warm": False})
        self.of_group, self.first = of_group, first

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                kept = group if self.of_group else self.state[parameter]
                kept["count"] = kept.get("count", self.first) + 1
                group["warm"] = True
                parameter.data -= group["lr"] / float(kept["count"]) * parameter.grad


class Hoarding(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        super().step()
        self.state[self.param_groups[0]["params"][0]]["seen"] = [1, 2]


def descend(network: nn.Module, optimiser: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimiser.zero_grad()
        network(torch.ones(1, 3)).square().sum().backward()
        optimiser.step()


@pytest.fixture
def networks() -> Iterator[nn.Module]:
    return (fresh_weights(lambda: nn.Linear(3, 2), 0) for _ in range(3))


@pytest.mark.parametrize(
    "make",
    [
        partial(Counting, of_group=of_group, first=first)
        for of_group in (False, True)
        for first in (0, 0.5, torch.zeros(()))
    ],
)
def test_an_optimiser_resumes_with_the_numbers_that_it_keeps(
    make: Callable[..., torch.optim.Optimizer], networks: Iterator[nn.Module], tmp_path: Path
) -> None:
    state = tmp_path / "state.safetensors"
    whole, stopped, resumed = networks
    descend(whole, make(whole.parameters()), 8)
    optimiser = make(stopped.parameters())
    descend(stopped, optimiser, 5)
    save_state(state, "k", {"": (stopped, optimiser)}, Done([1.0] * 5))
    again = make(resumed.parameters())
    assert len(load_state(state, "k", {"": (resumed, again)}).losses) == 5
    first, second = (one.state_dict() for one in (optimiser, again))
    assert repr(first) == repr(second)
    descend(resumed, again, 3)
    assert torch.equal(whole.weight, resumed.weight)


def test_an_optimiser_that_keeps_something_else_is_refused(
    networks: Iterator[nn.Module], tmp_path: Path
) -> None:
    network = next(networks)
    optimiser = Hoarding(network.parameters(), lr=0.1)
    descend(network, optimiser, 1)
    with pytest.raises(ZskdError, match="the optimiser Hoarding keeps seen in its state"):
        save_state(tmp_path / "state", "k", {"": (network, optimiser)}, Done([1.0]))
