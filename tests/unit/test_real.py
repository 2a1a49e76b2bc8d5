"""Real images as a transfer set: drawn by class, with their own labels, going on where it was."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from conftest import joined
from zskd.cli.main import main as run
from zskd.core.errors import ZskdError
from zskd.core.files import sha256_file
from zskd.core.passes import teacher_passes
from zskd.data.datasets import Dataset, Split
from zskd.models.classifier import Classifier
from zskd.synthesis.real import build_real_set, draw_rows
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.manifest import read_manifest


@pytest.fixture(scope="module")
def drawn(teacher: Classifier, digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> TransferSet:
    """More than one shard, and some whose label the teacher does not give."""
    return build_real_set(teacher, digits.train, tmp_path_factory.mktemp("real") / "set", count=1100, seed=4)


def test_the_outputs_for_real_images_are_counted(drawn: TransferSet) -> None:
    counted = [entry.passes and dict(entry.passes) for entry in drawn.manifest.shards]
    assert [one and list(one) for one in counted] == [["labelling"]] * 2
    assert [one and one["labelling"].teacher_forward for one in counted] == [1000, 100]
    assert drawn.manifest.passes is not None
    assert teacher_passes(drawn.manifest.passes) == 1100


def worst_share(labels: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """The largest distance, over all beginnings, of each class's number from its share; and the shares."""
    chosen = F.one_hot(labels[order]).double().cumsum(0)
    share = chosen[-1] / len(order)
    wanted = torch.arange(1, len(order) + 1)[:, None] * share
    return (chosen - wanted).abs().amax(0), share


@settings(max_examples=60)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=9), st.integers(0, 2**40), st.randoms())
def test_every_beginning_of_a_draw_has_each_class_in_proportion(
    sizes: list[int], seed: int, chance: object
) -> None:
    labels = torch.tensor([k for k, n in enumerate(sizes) for _ in range(n)])
    chance.shuffle(labels_list := labels.tolist())  # type: ignore[attr-defined]
    labels = torch.tensor(labels_list)
    order = draw_rows(labels, seed=seed)
    assert sorted(order.tolist()) == list(range(len(labels)))
    distance, share = worst_share(labels, order)
    # each class is rounded to half an image; a large one bears the roundings of all others as well
    assert bool((distance <= 0.5 + share * len(sizes) / 2 + 1e-9).all())


@settings(max_examples=30)
@given(st.integers(2, 12), st.integers(1, 30), st.integers(0, 999))
def test_equal_classes_are_never_apart_by_more_than_one_image(classes: int, each: int, seed: int) -> None:
    labels = torch.arange(classes).repeat(each)
    counts = F.one_hot(labels[draw_rows(labels, seed=seed)], classes).cumsum(0)
    assert int((counts.amax(1) - counts.amin(1)).max()) <= 1


def test_real_digits_are_drawn_in_proportion_to_one_image(digits: Dataset) -> None:
    labels = digits.train.labels
    assert float(worst_share(labels, draw_rows(labels, seed=0))[0].max()) <= 1
    assert float(worst_share(labels, torch.arange(len(labels)))[0].max()) > 3  # as they lie, they are not


def test_a_draw_is_random_within_each_class_and_hangs_on_its_seed(digits: Dataset) -> None:
    labels = digits.train.labels
    first, second = (draw_rows(labels, seed=seed) for seed in (0, 1))
    assert torch.equal(first, draw_rows(labels, seed=0))
    assert not torch.equal(first, second)
    assert torch.equal(labels[first], labels[second])  # the order of the classes is the same for all
    threes = first[labels[first] == 3]
    assert not torch.equal(threes, threes.sort().values)


def test_a_class_that_is_left_out_changes_no_other_class(digits: Dataset) -> None:
    labels = digits.train.labels
    every, some = draw_rows(labels, seed=2), draw_rows(labels, seed=2, leave_out=(0, 7))
    assert not set(labels[some].tolist()) & {0, 7}
    assert len(some) == int((~torch.isin(labels, torch.tensor([0, 7]))).sum())
    for k in (1, 9):
        assert torch.equal(every[labels[every] == k], some[labels[some] == k])
    assert len(draw_rows(labels, seed=2, leave_out=tuple(range(10)))) == 0


def test_a_set_of_real_images_holds_them_with_their_labels(
    drawn: TransferSet, teacher: Classifier, digits: Dataset
) -> None:
    rows = draw_rows(digits.train.labels, seed=4)[:1100]
    shards = list(drawn)
    assert [len(shard) for shard in shards] == [1000, 100]
    everything = joined(shards)
    assert torch.equal(everything.images, digits.train.images[rows])
    assert torch.equal(everything.anchors, digits.train.labels[rows])
    assert torch.equal(drawn.labels, digits.train.labels[rows])
    assert not everything.steps.any()
    with torch.no_grad():
        logits = teacher(digits.train.images[rows])
    torch.testing.assert_close(everything.logits, logits, atol=1e-4, rtol=1e-4)
    # the labels are what the images show and not what the teacher says of them
    wrong = logits.argmax(1) != digits.train.labels[rows]
    assert 0 < int(wrong.sum()) < 300
    assert bool((drawn.labels[wrong] != logits.argmax(1)[wrong]).all())


def test_its_manifest_says_what_it_is(drawn: TransferSet, teacher: Classifier, digits: Dataset) -> None:
    manifest = read_manifest(drawn.folder)
    assert manifest.complete
    assert manifest.spec == {"method": "real", "count": 1100, "seed": 4, "leave_out": []}
    assert manifest.teacher_sha256 == teacher.fingerprint()
    right = torch.cat([shard.logits for shard in drawn]).argmax(1) == drawn.labels
    assert manifest.anchor_match == pytest.approx(float(right.double().mean()), abs=1e-6)
    assert 0.5 < manifest.anchor_match < 1
    assert manifest.mean_steps == 0


def test_smaller_draws_are_the_beginning_of_larger_ones(
    drawn: TransferSet, teacher: Classifier, digits: Dataset, tmp_path: Path
) -> None:
    small = build_real_set(teacher, digits.train, tmp_path / "set", count=37, seed=4)
    first = joined(TransferSet(drawn.folder, first=37))
    for name, tensor in joined(small).tensors().items():
        assert torch.equal(tensor, first.tensors()[name]), name


def test_all_images_and_one_more(teacher: Classifier, digits: Dataset, tmp_path: Path) -> None:
    split = Split(digits.train.images[:50], digits.train.labels[:50])
    assert len(build_real_set(teacher, split, tmp_path / "all", count=50)) == 50
    left = int((split.labels != 1).sum())
    for count, leave_out, there in ((51, (), 50), (0, (), 50), (50, (1,), left), (1, tuple(range(10)), 0)):
        message = f"cannot draw {count} of {there} real images: change the rate"
        with pytest.raises(ZskdError, match=message):
            build_real_set(teacher, split, tmp_path / "none", count=count, leave_out=leave_out)
    assert not (tmp_path / "none").exists()


@contextmanager
def cut_off(folder: Path, done: int) -> Iterator[dict[str, str]]:
    """Leave a set as a writer does that is killed behind so many shards; gives the hashes from before."""
    before = {path.name: sha256_file(path) for path in folder.glob("shard-*")}
    manifest = json.loads((folder / "manifest.json").read_text())
    for entry in manifest["shards"][done:]:
        (folder / entry["file"]).write_bytes(b"half")
    shards = manifest["shards"][:done]
    manifest |= {"complete": False, "shards": shards, "count": sum(entry["count"] for entry in shards)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    yield before


def test_a_set_goes_on_where_it_was(teacher: Classifier, digits: Dataset, tmp_path: Path) -> None:
    whole = build_real_set(teacher, digits.train, tmp_path / "set", count=1050)
    kept = (whole.folder / "shard-00000.safetensors").stat().st_mtime_ns
    with cut_off(whole.folder, 1) as before, pytest.raises(ZskdError, match="is not finished"):
        TransferSet(whole.folder)
    again = build_real_set(teacher, digits.train, tmp_path / "set", count=1050)
    assert {path.name: sha256_file(path) for path in again.folder.glob("shard-*")} == before
    assert (whole.folder / "shard-00000.safetensors").stat().st_mtime_ns == kept
    manifest = (whole.folder / "manifest.json").stat().st_mtime_ns
    build_real_set(teacher, digits.train, tmp_path / "set", count=1050)
    assert (whole.folder / "manifest.json").stat().st_mtime_ns == manifest


def test_a_folder_with_another_draw_is_refused(teacher: Classifier, digits: Dataset, tmp_path: Path) -> None:
    build_real_set(teacher, digits.train, tmp_path, count=20)
    fewer = Split(digits.train.images[1:], digits.train.labels[1:])
    for split, count, seed, leave_out in (
        (digits.train, 21, 0, ()),
        (digits.train, 20, 1, ()),
        (digits.train, 20, 0, (3,)),
        (fewer, 20, 0, ()),
    ):
        with pytest.raises(ZskdError, match="holds a transfer set made with another"):
            build_real_set(teacher, split, tmp_path, count=count, seed=seed, leave_out=leave_out)


def test_verbs_that_look_at_such_a_set(
    drawn: TransferSet, teacher_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["verify", str(drawn.folder)]) == 0
    assert capsys.readouterr().out == f"{drawn.folder}: 2 shards are whole\n"
    assert run(["show", "samples", str(drawn.folder), "--out", str(tmp_path / "samples.png")]) == 0
    assert (tmp_path / "samples.png").stat().st_size > 5000
    capsys.readouterr()
    film = ["show", "filmstrip", str(teacher_folder), str(drawn.folder), "--out", str(tmp_path / "film.png")]
    assert run(film) == 2
    assert capsys.readouterr().err == (
        "zskd: error: this set holds real images, which were not synthesised: give a synthesised set\n"
    )
    assert not (tmp_path / "film.png").exists()
