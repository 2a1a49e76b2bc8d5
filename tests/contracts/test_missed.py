"""Impressions that used up their steps and never met their target: counted, kept or dropped."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from zskd.cli.main import main as run
from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.core.errors import ZskdError
from zskd.core.files import sha256_file
from zskd.core.progress import Progress
from zskd.models.classifier import Classifier
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.shard import make_shard
from zskd.synthesis.spec import SetSpec
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.manifest import verify_transfer_set
from zskd.transfer_set.shard import Shard

STEPS, TOLERANCE = 14, 0.2
SPEC = SetSpec(
    count=110,
    seed=5,
    targets=TargetsConfig(redraws=5),
    synthesis=SynthesisConfig(
        steps=STEPS,
        tolerance=TOLERANCE,
        learning_rate=0.1,
        tau=4.0,
        noise_share=0.3,
        batch_size=10,
        shard_size=40,
    ),
)


def dropping(spec: SetSpec = SPEC, **other: object) -> SetSpec:
    return replace(spec, synthesis=replace(spec.synthesis, missed="drop", **other))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def kept(teacher: Classifier, tmp_path_factory: pytest.TempPathFactory) -> TransferSet:
    return build_transfer_set(teacher, SPEC, tmp_path_factory.mktemp("kept"))


@pytest.fixture(scope="module")
def dropped(teacher: Classifier, tmp_path_factory: pytest.TempPathFactory) -> TransferSet:
    return build_transfer_set(teacher, dropping(), tmp_path_factory.mktemp("dropped"))


@pytest.fixture(scope="module")
def missed(kept: TransferSet) -> torch.Tensor:
    """By hand: all steps used, and the stored answer is still further away than the tolerance."""
    everything = Shard.join(list(kept))
    found = (everything.steps == STEPS) & (everything.kl >= TOLERANCE)
    assert 5 < int(found.sum()) < 60
    assert int((everything.steps == 0).sum()) > 20
    return found


def test_dropping_leaves_exactly_the_images_that_met_their_target_and_the_noise(
    kept: TransferSet, dropped: TransferSet, missed: torch.Tensor
) -> None:
    wanted = Shard.join(list(kept)).select(~missed).tensors()
    for name, value in Shard.join(list(dropped)).tensors().items():
        assert torch.equal(value, wanted[name]), name


def test_the_counts_of_both_manifests_add_up(
    kept: TransferSet, dropped: TransferSet, missed: torch.Tensor
) -> None:
    many = int(missed.sum())
    assert (len(kept), kept.manifest.missed, kept.manifest.dropped) == (110, many, 0)
    assert (len(dropped), dropped.manifest.missed, dropped.manifest.dropped) == (110 - many, many, many)
    for made, sizes in ((kept, [40, 40, 30]), (dropped, None)):
        entries = made.manifest.shards
        by_shard = [int(part.sum()) for part in missed.split([40, 40, 30])]
        assert [entry.missed for entry in entries] == by_shard
        left = sizes or [size - lost for size, lost in zip([40, 40, 30], by_shard, strict=True)]
        assert [entry.count for entry in entries] == left
        assert made.manifest.count == sum(left) == len(made)
        everything = Shard.join(list(made))
        for fact in ("kl", "steps"):
            mean = float(getattr(everything, fact).float().mean())
            assert getattr(made.manifest, f"mean_{fact}") == pytest.approx(mean, abs=1e-5)
    assert dropped.manifest.mean_kl < kept.manifest.mean_kl


def test_rows_of_a_smaller_set_are_gathered_across_its_shards(dropped: TransferSet) -> None:
    rows = torch.randperm(len(dropped), generator=torch.Generator().manual_seed(0))
    assert torch.equal(dropped.images(rows), dropped.all_images()[rows])


def test_a_smaller_set_is_verified_and_mended_like_any_other(
    teacher: Classifier, dropped: TransferSet, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(dropped.folder, tmp_path / "copy"))
    path = copy / "shard-00001.safetensors"
    before = sha256_file(path)
    path.unlink()
    build_transfer_set(teacher, dropping(), copy)
    assert verify_transfer_set(copy) == 3
    assert sha256_file(path) == before
    assert TransferSet(copy).manifest == dropped.manifest


def test_a_set_that_keeps_and_one_that_drops_are_not_mixed(
    teacher: Classifier, kept: TransferSet, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(kept.folder, tmp_path / "copy"))
    with pytest.raises(ZskdError, match=r"another spec\.synthesis\.missed \(keep there, drop now\)"):
        build_transfer_set(teacher, dropping(), copy)


def test_without_a_tolerance_nothing_is_missed(teacher: Classifier, tmp_path: Path) -> None:
    never = replace(SPEC, synthesis=replace(SPEC.synthesis, tolerance=0.0, steps=3))
    made = build_transfer_set(teacher, never, tmp_path)
    assert (made.manifest.missed, made.manifest.dropped) == (0, 0)
    with pytest.raises(ZskdError, match="drop needs a --synthesis.tolerance"):
        dropping(tolerance=0.0)


def test_noise_misses_nothing(teacher: Classifier) -> None:
    noise = dropping(replace(SPEC, method="noise"))
    assert len(make_shard(teacher, noise, 0)) == 40


def test_a_set_of_which_nothing_is_left_is_refused_in_one_line(teacher: Classifier, tmp_path: Path) -> None:
    nothing = dropping(steps=1, tolerance=1e-9, noise_share=0.0)
    with pytest.raises(ZskdError, match="none of the 40 images of shard 0 met its target") as told:
        build_transfer_set(teacher, nothing, tmp_path)
    for way_out in ("--synthesis.steps", "--synthesis.tolerance", "--synthesis.missed keep"):
        assert way_out in str(told.value)
    assert "\n" not in str(told.value)
    assert not list(tmp_path.glob("shard-*"))


def test_every_image_is_told_of_whether_it_is_kept_or_not(teacher: Classifier) -> None:
    told: list[int] = []
    shard = make_shard(teacher, dropping(), 0, on_progress=told.append)
    assert len(shard) < 40
    assert sum(told) == 40


def test_the_command_tells_how_many_missed_and_were_dropped(
    teacher_folder: Path,
    dropped: TransferSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["synthesize", str(teacher_folder), "--count", "110", "--seed", "5", "--out", "set", "--quiet"]
    for setting, value in (("steps", STEPS), ("tolerance", TOLERANCE), ("missed", "drop")):
        command += [f"--synthesis.{setting}", str(value)]
    for setting, value in (("learning-rate", 0.1), ("tau", 4.0), ("noise-share", 0.3)):
        command += [f"--synthesis.{setting}", str(value)]
    command += ["--synthesis.batch-size", "10", "--synthesis.shard-size", "40", "--targets.redraws", "5"]
    assert run([*command, "--workers", "1"]) == 0
    lost = dropped.manifest.dropped
    told = capsys.readouterr().out
    assert told.startswith(f"{110 - lost} images in set: ")
    assert f"{lost} missed their target, {lost} of them were dropped" in told
    assert json.loads(Path("set/manifest.json").read_text())["shards"] == dropped.manifest.to_json()["shards"]


def test_a_student_learns_on_what_is_left(teacher: Classifier, dropped: TransferSet) -> None:
    from zskd.config.distillation import DistillConfig
    from zskd.config.registry import ARCHITECTURES
    from zskd.distillation.distill import distill

    student = distill(
        teacher,
        ARCHITECTURES.load("lenet5_half")(),
        dropped,
        DistillConfig(steps=2, batch_size=64),
        progress=Progress(),
    )
    assert student.classes == 10
