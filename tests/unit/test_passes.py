"""Passes are counted exactly: as a hook on the network counts them, and over interruptions."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from conftest import StopAt, Stopped
from zskd.config.distillation import DistillConfig, FeaturesConfig, GeneratorConfig, ImageBankConfig
from zskd.config.synthesis import SynthesisConfig
from zskd.core.passes import StagePasses, all_in, count_images, counting, sum_known, teacher_passes, uncounted
from zskd.distillation.architecture import describe_student, fresh_student
from zskd.distillation.build import build_student, passes_of
from zskd.distillation.distill import distill
from zskd.distillation.initialisation.graph import initialise_copy
from zskd.distillation.spec import StudentSpec
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import build, describe
from zskd.run.passes import training_passes
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.shard import make_shard
from zskd.synthesis.spec import SetSpec
from zskd.training.curve import read_curve
from zskd.transfer_set.dataset import TransferSet

SPEC = SetSpec(count=50, synthesis=SynthesisConfig(steps=3, noise_share=0.4, batch_size=8, shard_size=30))
QUICK = DistillConfig(start="random", steps=6, batch_size=10)


def network(filters: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, filters, 3),
        nn.BatchNorm2d(filters),
        nn.ReLU(),
        nn.Conv2d(filters, filters, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(36 * filters, 4),
    )


@pytest.fixture(scope="module")
def teacher() -> Classifier:
    torch.manual_seed(0)
    return Classifier(network(6), spec=InputSpec(shape=(1, 10, 10))).freeze()


@pytest.fixture(scope="module")
def images(teacher: Classifier, tmp_path_factory: pytest.TempPathFactory) -> TransferSet:
    return build_transfer_set(teacher, SPEC, tmp_path_factory.mktemp("passes") / "set")


@contextmanager
def watched(classifier: Classifier) -> Iterator[dict[str, int]]:
    """Count with plain hooks: images that the network receives, and images that get a gradient."""
    counts = {"forward": 0, "backward": 0}

    def after(_network: nn.Module, given: tuple[Tensor], outputs: Tensor) -> None:
        counts["forward"] += len(given[0])

        def back(gradient: Tensor) -> None:
            counts["backward"] += len(gradient)

        if outputs.requires_grad:
            outputs.register_hook(back)

    classifier.rewrite = False  # the rewritten network is another module
    handle = classifier.module.register_forward_hook(after)
    try:
        yield counts
    finally:
        handle.remove()
        classifier.rewrite = True


def test_a_shard_takes_the_passes_that_a_hook_counts(teacher: Classifier, images: TransferSet) -> None:
    for number, entry in enumerate(images.manifest.shards):
        with watched(teacher) as counts, counting(teacher=teacher) as tally:
            make_shard(teacher, SPEC, number)
        total = all_in("evaluation", tally.passes())["evaluation"]
        assert (total.teacher_forward, total.teacher_backward) == tuple(counts.values())
        assert counts["backward"] > 0
        assert (total.student_forward, total.student_backward) == (0, 0)
        assert entry.passes == tally.passes()
        assert list(entry.passes) == ["synthesis", "labelling"]


TRAININGS = {
    "plain": QUICK,
    "generator": replace(
        QUICK, generator=GeneratorConfig(share=0.5, latent=4, width=4, student_steps=2, warm_up=3)
    ),
    "bank": replace(QUICK, image_bank=ImageBankConfig(share=0.5, count=3, images=7, steps=2)),
    "features": replace(QUICK, features=FeaturesConfig(weight=1.0)),
    "statistics": replace(QUICK, batch_norm="fixed"),
}


@pytest.mark.parametrize("what", TRAININGS)
def test_a_training_takes_the_passes_that_a_hook_counts(
    what: str, teacher: Classifier, images: TransferSet
) -> None:
    config = TRAININGS[what]
    with watched(teacher) as counts, counting(teacher=teacher) as tally:
        distill(teacher, network(3), images, config)
    total = all_in("evaluation", tally.passes())["evaluation"]
    # two images find the layers that are paired, which is not part of any stage
    assert total.teacher_forward == counts["forward"] - (2 if what == "features" else 0)
    assert total.teacher_backward == counts["backward"]
    own = tally.passes()["distillation"]
    assert own.student_forward == own.student_backward == config.steps * config.batch_size
    # what a budget of passes takes them for
    assert teacher_passes(tally.passes()) == training_passes(config, config.steps or 0)
    stages = {"generator": {"generator"}, "bank": {"image_bank"}, "statistics": {"batch_norm"}}
    assert set(tally.passes()) == {"distillation"} | stages.get(what, set())


def test_the_start_from_the_teacher_takes_the_passes_that_a_hook_counts() -> None:
    shape = (3, 8, 8)
    architecture = describe("resnet8", shape=shape, classes=4)
    teacher = Classifier(build(architecture, run_code=False), spec=InputSpec(shape=shape)).freeze()
    teacher.architecture = architecture
    student = fresh_student(describe_student("narrow:0.5", teacher), teacher, 0)
    numbers = torch.Generator().manual_seed(0)
    with watched(teacher) as counts, counting("initialisation", teacher=teacher) as tally:
        done = initialise_copy(teacher, student, lambda: torch.rand(40, *shape, generator=numbers), numbers)
    found = tally.passes()["initialisation"]
    assert done is not None
    # three images tell which layers there are: that is not part of any stage
    assert found.teacher_forward == counts["forward"] - 3
    assert found.teacher_backward == 40


def test_an_interruption_does_not_change_the_numbers(
    teacher: Classifier, images: TransferSet, tmp_path: Path
) -> None:
    spec = StudentSpec(student="half", distill=replace(QUICK, steps=42, batch_norm="again"))
    build_student(teacher, spec, images, tmp_path / "straight")
    with pytest.raises(Stopped):
        build_student(teacher, spec, images, tmp_path / "killed", progress=StopAt(31))
    assert (tmp_path / "killed" / "training.safetensors").is_file()
    build_student(teacher, spec, images, tmp_path / "killed")
    found = passes_of(tmp_path / "straight")
    assert found is not None
    assert set(found) == {"distillation", "batch_norm"}
    assert passes_of(tmp_path / "killed") == found
    curve = read_curve(tmp_path / "killed")
    assert curve == read_curve(tmp_path / "straight")
    assert curve is not None
    assert curve.steps == tuple(range(1, 43))


def test_blocks_count_for_those_around_them() -> None:
    one, other = object(), object()
    with counting("synthesis", teacher=one) as whole:
        count_images(one, forward=1)
        with counting("labelling") as part:
            count_images(one, forward=10, backward=20)
            count_images(other, forward=40)
        with uncounted():
            count_images(one, forward=1000)
        with counting() as nothing_new:
            count_images(other, backward=100)
    count_images(one, forward=1000)
    with counting() as without_stage:
        count_images(one, forward=1000)
    assert without_stage.passes() == {}
    labelled = {"labelling": counts(10, 20, 40, 0)}
    assert part.passes() == labelled
    assert nothing_new.passes() == {"synthesis": counts(0, 0, 0, 100)}
    assert whole.passes() == {"synthesis": counts(1, 0, 0, 100)} | labelled
    assert whole.total == 171
    assert sum_known([labelled, whole.passes()]) == {
        "labelling": counts(20, 40, 80, 0),
        "synthesis": counts(1, 0, 0, 100),
    }
    assert sum_known([labelled, None]) is None


def counts(*numbers: int) -> StagePasses:
    return StagePasses(**dict(zip(StagePasses.model_fields, numbers, strict=True)))
