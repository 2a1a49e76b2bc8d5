"""Whether images are made with flips is what the teacher answers for mirrored impressions."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from conftest import Lines
from zskd.config.synthesis import SynthesisConfig
from zskd.config.transforms import WarpConfig
from zskd.models.classifier import Classifier, InputSpec
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.mirrors import impressions_asked, settle_mirrors, share_mirrored
from zskd.synthesis.room import as_made
from zskd.synthesis.shard import make_shard
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
    question = impressions_asked(SPEC)
    assert question is not None
    assert share_mirrored(teacher, question) == share
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
        answer = settle_mirrors(teacher, spec, log)
        assert answer.asked is None
        settled = answer.spec
        assert settled.synthesis.warp == spec.synthesis.warp
        assert settled.synthesis.changes == "all"
        assert log.lines == []
