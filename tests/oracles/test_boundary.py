"""Boundary pairs: against the closed form of a linear teacher, and beside the decisions of another."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from zskd.cli.main import main
from zskd.config.loading import load_recipe
from zskd.config.synthesis import SynthesisConfig
from zskd.core.errors import ZskdError
from zskd.models.classifier import Classifier, InputSpec
from zskd.run.arms import plan_arms
from zskd.run.measure import held_out_specs
from zskd.synthesis.methods.boundary import Boundary
from zskd.synthesis.shard import make_shard
from zskd.synthesis.spec import SetSpec
from zskd.synthesis.trace import trace_impression
from zskd.transfer_set.dataset import TransferSet

SHAPE = (1, 4, 4)


def linear_teacher(classes: int = 3) -> Classifier:
    linear = nn.Linear(16, classes)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(classes, 16, generator=generator))
        linear.bias.zero_()
    spec = InputSpec(shape=SHAPE, mean=(0.5,), std=(1.0,))
    return Classifier(nn.Sequential(nn.Flatten(), linear), spec=spec).freeze()


def grey(seed: int) -> Tensor:
    """Images that no step moves to an end of the box."""
    return 0.5 + 0.05 * torch.randn(20, *SHAPE, generator=torch.Generator().manual_seed(seed))


def pairs(**settings: object) -> SetSpec:
    config = SynthesisConfig(start="smooth", noise_share=0.0, steps=4, batch_size=10, shard_size=40)
    return SetSpec(method="boundary", method_settings=settings, count=80, seed=3, synthesis=config)


def test_one_step_on_a_linear_teacher_ends_beyond_the_nearest_point_of_the_runner_up() -> None:
    """For logits W x the decision between a and b is a plane: its distance is (w_a − w_b)·x / |w_a − w_b|."""
    teacher, starts = linear_teacher(), grey(1)
    with torch.no_grad():
        before, beyond = Boundary(halvings=0, overshoot=0.25).both_sides(teacher, starts, 1)
        top = teacher(starts).topk(2, dim=1).indices
    assert torch.equal(before, starts)
    weight = teacher.head_weight.float()
    normals = weight[top[:, 0]] - weight[top[:, 1]]
    distance = (normals * (starts - 0.5).flatten(1)).sum(1) / normals.norm(dim=1)
    step = (starts - beyond).flatten(1)
    torch.testing.assert_close(step, 1.25 * (distance / normals.norm(dim=1))[:, None] * normals)
    # the third class may lead there
    with torch.no_grad():
        assert bool((teacher(beyond).argmax(1) != top[:, 0]).all())


@pytest.mark.parametrize("halvings", [0, 3, 6])
def test_each_halving_halves_the_way_between_the_sides(halvings: int) -> None:
    teacher, starts = linear_teacher(2), grey(2)
    with torch.no_grad():
        before, beyond = Boundary(halvings=halvings, overshoot=0.5).both_sides(teacher, starts, 1)
        _, far = Boundary(halvings=0, overshoot=0.5).both_sides(teacher, starts, 1)
        own = teacher(starts).argmax(1)
        assert torch.equal(teacher(before).argmax(1), own)
        assert torch.equal(teacher(beyond).argmax(1), 1 - own)
    way = (far - starts).flatten(1).norm(dim=1)
    torch.testing.assert_close(
        (beyond - before).flatten(1).norm(dim=1), way / 2**halvings, rtol=1e-3, atol=1e-5
    )


def test_a_set_holds_pairs_on_both_sides_of_the_decision(teacher: Classifier) -> None:
    shard = make_shard(teacher, pairs(), 1)
    control = make_shard(teacher, replace(pairs(), method="noise", method_settings={}), 0)
    starts = control.images[20:40]  # shard 1 of 40 images begins as start images 20 to 39
    before, beyond = shard.images[0::2], shard.images[1::2]
    predicted = shard.logits.argmax(1)
    assert torch.equal(predicted[0::2], control.logits.argmax(1)[20:40])
    assert float((predicted[0::2] != predicted[1::2]).float().mean()) > 0.9
    assert torch.equal(shard.anchors, predicted)
    torch.testing.assert_close(shard.targets, torch.softmax(shard.logits / 10, 1))
    apart, way = ((one - other).flatten(1).norm(dim=1) for one, other in ((beyond, before), (beyond, starts)))
    assert float((apart / way.clamp_min(1e-6)).median()) < 0.2
    # closer to a tie than the start images
    gap, gap_of_starts = (
        float(one.softmax(1).topk(2).values.diff().abs().mean())
        for one in (shard.logits, control.logits[20:40])
    )
    assert gap < 0.5 * gap_of_starts


def test_a_pair_does_not_depend_on_the_others_nor_on_where_a_shard_ends(teacher: Classifier) -> None:
    whole = make_shard(teacher, pairs(), 0)
    config = replace(pairs().synthesis, shard_size=13)
    cut = [make_shard(teacher, replace(pairs(), synthesis=config), number).images for number in range(3)]
    assert torch.equal(torch.cat(cut), whole.images[:39])


def test_candidates_keep_pairs_in_a_shard(teacher: Classifier) -> None:
    config = replace(pairs().synthesis, candidates=2, shard_size=20)
    shard = make_shard(teacher, replace(pairs(halvings=0), synthesis=config), 1)
    starts = make_shard(teacher, replace(pairs(), method="noise", method_settings={}, synthesis=config), 1)
    assert len(shard) == len(starts) == 20
    with pytest.raises(ZskdError, match="shard-size must be a multiple of 2 with --method boundary"):
        replace(pairs(), synthesis=replace(config, shard_size=21))


def test_settings_are_checked_and_pairs_have_no_trace(teacher: Classifier) -> None:
    with pytest.raises(ZskdError, match="halvings"):
        Boundary(halvings=-1)
    with pytest.raises(ZskdError, match="--method boundary take no steps towards a target"):
        trace_impression(teacher, pairs(), 0)


def test_the_preset_makes_pairs(teacher_folder: Path, tmp_path: Path) -> None:
    command = ["synthesize", str(teacher_folder), "--preset", "boundary", "--count", "12"]
    sizes = ["--synthesis.shard-size", "12", "--synthesis.batch-size", "12"]
    assert main([*command, *sizes, "--out", str(tmp_path / "set")]) == 0
    made = TransferSet(tmp_path / "set")
    assert made.manifest.method == "boundary"
    assert int((made.labels[0::2] != made.labels[1::2]).sum()) >= 5


def test_images_beside_the_pairs_are_optimised_as_those_of_other_runs(teacher: Classifier) -> None:
    recipe = load_recipe("digits", {"preset": "boundary", "count": 40})
    control = next(arm.spec for arm in plan_arms(recipe, None) if arm.name == "class_impressions")
    for spec in (control, held_out_specs(recipe, teacher)["impressions"]):
        assert spec is not None
        assert spec.has_traces
        assert (spec.synthesis.steps, spec.synthesis.learning_rate, spec.synthesis.tau) == (50, 0.1, 10.0)
        assert (spec.synthesis.start, spec.synthesis.candidates) == ("procedural", 4)
