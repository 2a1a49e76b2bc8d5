"""Flips and the learning rate of a set are what the teacher answers for some impressions."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from conftest import Lines
from zskd.config.synthesis import SynthesisConfig
from zskd.config.transforms import WarpConfig
from zskd.core.passes import teacher_passes
from zskd.models.classifier import Classifier, InputSpec
from zskd.run.passes import set_passes
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.settling import settle, share_mirrored, some_impressions
from zskd.synthesis.shard import make_shard
from zskd.synthesis.sizes import as_made
from zskd.synthesis.spec import SetSpec
from zskd.transfer_set.dataset import TransferSet

SHAPE = (1, 6, 6)
WITH_FLIPS = SynthesisConfig(
    steps=20, noise_share=0.0, tolerance=0.0, tau=1.0, warp=WarpConfig(flip=0.5), changes="by_teacher"
)
SPEC = SetSpec(method="class_impressions", count=30, synthesis=WITH_FLIPS)


def by_brightness(halves: Tensor) -> Classifier:
    """A teacher of two classes: which half of the image is brighter."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    with torch.no_grad():
        network[1].weight.copy_(torch.stack([halves.flatten(), -halves.flatten()]))
        network[1].bias.zero_()
    return Classifier(network, spec=InputSpec(shape=SHAPE)).freeze()


LEFT = torch.ones(6, 6)
LEFT[:, 3:] = -1
TEACHERS = {"left or right": (LEFT, 0.0), "above or below": (LEFT.T, 1.0)}


@pytest.mark.parametrize("name", TEACHERS)
def test_flips_are_used_where_the_teacher_has_the_same_class(name: str, tmp_path: Path) -> None:
    halves, share = TEACHERS[name]
    teacher, log = by_brightness(halves), Lines()
    before = teacher.fingerprint()
    assert SPEC.asks_about_flips
    assert share_mirrored(teacher, make_shard(teacher, some_impressions(SPEC), 0).images) == share
    made = build_transfer_set(teacher, SPEC, tmp_path / "set", progress=log)
    assert teacher.fingerprint() == before
    resolved = made.manifest.resolved
    assert resolved is not None
    assert resolved.flip == 0.5 * share
    word = "with" if share else "without"
    assert any(f"made {word} flips" in line and f"for {100 * share:.0f} %" in line for line in log.lines)
    # the images are those of a set that was asked for so, and the manifest says how to make them again
    flips = WarpConfig(flip=0.5 * share)
    said = replace(SPEC, synthesis=replace(WITH_FLIPS, changes="all", warp=flips))
    assert torch.equal(next(iter(made)).images, make_shard(teacher, said, 0).images)
    assert as_made(SPEC, resolved).synthesis.warp == flips
    # what was asked counts, and a set that was only begun says so, too
    passes = made.manifest.passes
    assert passes is not None
    # a batch of the set, and of the impressions that are asked about: made, as they are, and mirrored
    assert passes["labelling"].teacher_forward == 4 * WITH_FLIPS.batch_size
    (tmp_path / "set" / "shard-00000.safetensors").unlink()
    again = Lines()
    build_transfer_set(teacher, SPEC, tmp_path / "set", progress=again)
    assert not any(" flips:" in line for line in again.lines), "a begun set asks the teacher again"
    assert made.manifest == TransferSet(tmp_path / "set").manifest


def test_nobody_is_asked_where_nothing_depends_on_it() -> None:
    teacher = by_brightness(LEFT)
    for spec in (
        replace(SPEC, synthesis=replace(WITH_FLIPS, changes="all")),
        replace(SPEC, synthesis=replace(WITH_FLIPS, warp=WarpConfig())),
        replace(SPEC, method="noise"),
    ):
        log = Lines()
        answer = settle(teacher, spec, log)
        assert answer.asked is None
        settled = answer.spec
        assert settled.synthesis.warp == spec.synthesis.warp
        assert settled.synthesis.changes == "all"
        assert log.lines == []


@pytest.mark.parametrize(("lanes", "count"), [(2, 32), (8, 32), (44, 44), (100, 100), (300, 100)])
def test_the_answer_does_not_hang_on_a_few_impressions(lanes: int, count: int) -> None:
    """Of images above 64×64 pixels a CPU makes few at once: 8 of 224×224."""
    spec = replace(SPEC, synthesis=replace(WITH_FLIPS, batch_size=lanes))
    assert some_impressions(spec).count == count


def searching(rate: float, most: int) -> SetSpec:
    """Impressions that are still at their starts after 20 steps, or pass their target, at a wrong rate."""
    config = replace(WITH_FLIPS, warp=WarpConfig(), learning_rate=rate, learning_rate_search=most)
    return replace(SPEC, synthesis=config)


@pytest.mark.parametrize(("rate", "most", "found"), [(0.001, 3, 0.008), (0.001, 1, 0.002)])
def test_the_learning_rate_grows_while_the_objective_falls(
    rate: float, most: int, found: float, tmp_path: Path
) -> None:
    teacher, log = by_brightness(0.3 * LEFT), Lines()
    spec = searching(rate, most)
    answer = settle(teacher, spec, log)
    assert answer.spec.synthesis.learning_rate == pytest.approx(found)
    assert answer.spec.synthesis.learning_rate_search == 0
    assert sum(f"learning rate {found:g}: the objective" in line for line in log.lines) == 1
    made = build_transfer_set(teacher, spec, tmp_path / "set")
    resolved = made.manifest.resolved
    assert resolved is not None
    assert resolved.learning_rate == answer.spec.synthesis.learning_rate
    assert torch.equal(next(iter(made)).images, make_shard(teacher, answer.spec, 0).images)
    assert as_made(spec, resolved).synthesis.learning_rate == resolved.learning_rate
    # a budget of passes knows at most what was taken
    passes = made.manifest.passes
    assert passes is not None
    assert 0 < teacher_passes(passes) <= set_passes(teacher, spec)


def test_a_rate_is_kept_where_another_one_changes_little() -> None:
    """Of a teacher that hardly sees the images, twice the rate lowers the objective by 2 %."""
    answer = settle(by_brightness(LEFT / 36), searching(0.001, 3))
    assert answer.spec.synthesis.learning_rate == 0.001
    assert answer.asked is not None


def test_it_is_the_one_whose_images_have_the_lowest_objective() -> None:
    """Of a teacher that wants one certain brightness: large steps pass it again and again."""
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36), nn.Linear(36, 2))
    with torch.no_grad():
        network[1].running_mean.fill_(0.5)
        network[1].running_var.fill_(1e-4)
        network[2].weight.copy_(0.01 * torch.stack([LEFT.flatten(), -LEFT.flatten()]))
        network[2].bias.zero_()
    teacher = Classifier(network, spec=InputSpec(shape=SHAPE)).freeze()
    spec = replace(searching(0.4, 4), method="zskd_bn", method_settings={"scale": "mean"})
    found = settle(teacher, spec).spec.synthesis.learning_rate

    def value(rate: float) -> float:
        question = some_impressions(spec)
        shard = make_shard(
            teacher, replace(question, synthesis=replace(question.synthesis, learning_rate=rate)), 0
        )
        with torch.no_grad():
            logits = teacher(shard.images)
            batch = shard.images.flatten(1)
            mean, var = (batch.mean(0) - 0.5) / 1e-4**0.5, (batch.var(0, correction=0) - 1e-4) / 1e-4
        entropy = -(shard.targets * logits.log_softmax(1)).sum(1).mean()
        across, down = shard.images.diff(dim=3).abs().mean(), shard.images.diff(dim=2).abs().mean()
        statistics = 0.1 * (mean.square().mean().sqrt() + var.square().mean().sqrt())
        return float(entropy + statistics + 10 * (across + down) / 2)

    assert found < 0.4
    assert value(found) < min(value(2 * found), value(found / 2) if found > 0.4 / 16 else torch.inf)


def test_nothing_is_searched_where_nothing_is_optimised() -> None:
    teacher = by_brightness(LEFT)
    for spec in (searching(0.1, 0), replace(searching(0.1, 2), method="noise")):
        answer = settle(teacher, spec)
        assert answer.asked is None
        assert answer.spec.synthesis.learning_rate == 0.1
