"""The beginning of a set is the smaller set, bit for bit, if and only if `SetSpec.nests` is true."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import joined
from zskd.config.distillation import DistillConfig
from zskd.config.registry import ARCHITECTURES
from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.config.transforms import AugmentConfig
from zskd.core.errors import ZskdError
from zskd.data.datasets import Dataset
from zskd.distillation.distill import distill
from zskd.models.classifier import Classifier
from zskd.models.factory import fresh_weights
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.real import build_real_set
from zskd.synthesis.spec import SetSpec
from zskd.transfer_set.dataset import TransferSet

SMALL, LARGE = 47, 95
"""Neither is a multiple of shards, lanes or classes."""


def spec(method: str = "zskd", *, targets: dict[str, Any] | None = None, **synthesis: Any) -> SetSpec:
    given: dict[str, Any] = {"steps": 5, "batch_size": 10, "shard_size": 30} | synthesis
    return SetSpec(
        method=method,
        count=LARGE,
        seed=6,
        targets=TargetsConfig(**({"redraws": 5} | (targets or {}))),
        synthesis=SynthesisConfig(**given),
    )


CARRIED = {"noise_share": 0.0, "tolerance": 0.0, "carry_images": True, "carry_moments": True}
NESTED = {
    "default": spec(),
    "a tolerance that ends some early": spec(steps=12, tolerance=0.4, tau=4.0, noise_share=0.3),
    "no noise, no tolerance": spec(noise_share=0.0, tolerance=0.0),
    "class impressions": spec("class_impressions"),
    "soft targeted": spec("soft_targeted"),
    "noise": spec("noise"),
    "white noise": spec("noise", start="uniform"),
    "carried images and moments": spec(**CARRIED),
    "free pixels, carried moments": spec(**CARRIED | {"carry_images": False, "pixels": "free"}),
    "priors": spec(targets={"priors": (0.3, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.03, 0.02)}),
    "three scales": spec(targets={"betas": (1.0, 0.5, 0.1)}),
}
ROWS = {"order": "rows", "betas": (1.0,)}
APART = {
    "rows": (spec(noise_share=0.0, targets=ROWS), 40, 90),
    "candidates": (spec("noise", candidates=3), SMALL, LARGE),
    "minmax": (spec(pixels="minmax", noise_share=0.0, tolerance=0.0), 44, 57),
    "dropping": (spec(missed="drop", steps=12, tolerance=0.4, tau=4.0, noise_share=0.3), SMALL, LARGE),
}


def build(teacher: Classifier, one: SetSpec, count: int, folder: Path) -> TransferSet:
    return build_transfer_set(teacher, replace(one, count=count), folder / f"of-{count}")


def same(first: TransferSet, second: TransferSet) -> bool:
    a, b = (joined(one).tensors() for one in (first, second))
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("what", NESTED)
def test_the_beginning_of_a_set_is_the_smaller_set_bit_for_bit(
    what: str, teacher: Classifier, tmp_path: Path
) -> None:
    one = NESTED[what]
    assert one.nests
    small, large = (build(teacher, one, count, tmp_path) for count in (SMALL, LARGE))
    beginning = TransferSet(large.folder, first=SMALL)
    assert len(beginning) == len(small) == SMALL
    assert same(beginning, small)
    assert torch.equal(beginning.labels, small.labels)
    assert torch.equal(beginning.all_images(), small.all_images())
    rows = torch.tensor([SMALL - 1, 0, 31, 29, 30])
    assert torch.equal(beginning.images(rows), small.images(rows))
    assert beginning.image_bytes == small.image_bytes
    if one.optimises:
        assert bool((joined(small).steps > 0).any())
    # another seed is another set: the comparison can fail
    other = build(teacher, replace(one, seed=7), SMALL, tmp_path / "other")
    assert not same(beginning, other)


@pytest.mark.parametrize("what", APART)
def test_the_beginning_of_a_set_that_does_not_nest_is_another_set(
    what: str, teacher: Classifier, tmp_path: Path
) -> None:
    one, few, many = APART[what]
    assert not one.nests
    small, large = (build(teacher, one, count, tmp_path) for count in (few, many))
    # a set with dropped images holds fewer than its count
    assert (len(small) < few) == (what == "dropping")
    assert not same(TransferSet(large.folder, first=few), small)


def test_a_size_at_the_edges_of_shards(small_set: TransferSet) -> None:
    """Shards of 40 and 10."""
    everything = joined(small_set)
    for first in (1, 39, 40, 41, 49, 50):
        beginning = TransferSet(small_set.folder, first=first)
        assert len(beginning) == first
        assert [len(shard) for shard in beginning] == [first] if first <= 40 else [40, first - 40]
        assert torch.equal(beginning.all_images(), everything.images[:first])
        assert torch.equal(beginning.labels, everything.anchors[:first])
        with pytest.raises(ZskdError, match=f"give rows from 0 to {first - 1}$"):
            beginning.images(torch.tensor([first]))


@pytest.mark.parametrize("first", [0, -1, 51])
def test_a_beginning_outside_the_set_is_refused(small_set: TransferSet, first: int) -> None:
    with pytest.raises(ZskdError, match=f"holds 50 images: give first from 1 to 50, not {first}$"):
        TransferSet(small_set.folder, first=first)


def test_a_pickled_beginning_is_the_same_beginning(small_set: TransferSet) -> None:
    beginning = TransferSet(small_set.folder, first=41)
    sent = pickle.dumps(beginning)
    assert len(sent) < 1000
    opened = pickle.loads(sent)
    assert len(opened) == 41
    assert same(opened, beginning)
    assert opened.fingerprint() == beginning.fingerprint()


def test_beginnings_have_different_fingerprints(small_set: TransferSet) -> None:
    known = {TransferSet(small_set.folder, first=first).fingerprint() for first in (10, 41, 49)}
    assert len(known | {small_set.fingerprint()}) == 4
    assert TransferSet(small_set.folder, first=50).fingerprint() == small_set.fingerprint()


def distilled(teacher: Classifier, transfer_set: TransferSet, **settings: Any) -> str:
    student = fresh_weights(lambda: ARCHITECTURES.load("lenet5_small")(channels=1, classes=10, size=32), 0)
    config = DistillConfig(steps=4, batch_size=16, **settings)
    return distill(teacher, student, transfer_set, config, seed=2).fingerprint()


@pytest.mark.parametrize("reading", ["memory", "mapped"])
def test_a_student_distilled_on_a_beginning_is_that_of_the_small_set(
    reading: str, teacher: Classifier, tmp_path: Path
) -> None:
    small, large = (build(teacher, NESTED["default"], count, tmp_path) for count in (SMALL, LARGE))
    beginning = TransferSet(large.folder, first=SMALL)
    assert distilled(teacher, beginning, images=reading) == distilled(teacher, small, images=reading)
    assert distilled(teacher, beginning, images=reading) != distilled(teacher, large, images=reading)


def test_a_student_of_real_images_and_their_labels(
    teacher: Classifier, digits: Dataset, tmp_path: Path
) -> None:
    small = build_real_set(teacher, digits.train, tmp_path / "small", count=SMALL)
    large = build_real_set(teacher, digits.train, tmp_path / "large", count=LARGE)
    labels: dict[str, Any] = {"teacher_weight": 0.0, "label_weight": 1.0, "augment": AugmentConfig()}
    beginning = TransferSet(large.folder, first=SMALL)
    assert distilled(teacher, beginning, **labels) == distilled(teacher, small, **labels)
    assert distilled(teacher, beginning, **labels) != distilled(teacher, beginning)
