"""Data impressions that took all their steps without meeting their target: counted, and dropped if set so."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import joined
from zskd.cli.main import main as run
from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.core.errors import ZskdError
from zskd.core.files import sha256_file
from zskd.core.progress import Progress
from zskd.data.datasets import Dataset
from zskd.models.classifier import Classifier
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.outcome import outcome_of
from zskd.synthesis.real import build_real_set
from zskd.synthesis.shard import make_shard
from zskd.synthesis.spec import SetSpec
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.manifest import verify_transfer_set

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
def complete(teacher: Classifier, tmp_path_factory: pytest.TempPathFactory) -> TransferSet:
    return build_transfer_set(teacher, SPEC, tmp_path_factory.mktemp("complete"))


@pytest.fixture(scope="module")
def dropped(teacher: Classifier, tmp_path_factory: pytest.TempPathFactory) -> TransferSet:
    return build_transfer_set(teacher, dropping(), tmp_path_factory.mktemp("dropped"))


@pytest.fixture(scope="module")
def missed(complete: TransferSet) -> torch.Tensor:
    """By definition: all steps taken, and the divergence of the stored image is at least the tolerance."""
    everything = joined(complete)
    found = (everything.steps == STEPS) & (everything.kl >= TOLERANCE)
    assert 5 < int(found.sum()) < 60
    assert int((everything.steps == 0).sum()) > 20
    return found


def test_a_set_with_dropped_images_holds_the_images_that_met_their_target_and_the_noise(
    complete: TransferSet, dropped: TransferSet, missed: torch.Tensor
) -> None:
    expected = joined(complete).select(~missed).tensors()
    for name, value in joined(dropped).tensors().items():
        assert torch.equal(value, expected[name]), name


def test_the_counts_of_both_manifests_add_up(
    complete: TransferSet, dropped: TransferSet, missed: torch.Tensor
) -> None:
    count = int(missed.sum())
    assert (len(complete), complete.manifest.missed, complete.manifest.dropped) == (110, count, 0)
    assert (len(dropped), dropped.manifest.missed, dropped.manifest.dropped) == (110 - count, count, count)
    for made, sizes in ((complete, [40, 40, 30]), (dropped, None)):
        entries = made.manifest.shards
        by_shard = [int(part.sum()) for part in missed.split([40, 40, 30])]
        assert [entry.missed for entry in entries] == by_shard
        left = sizes or [size - missing for size, missing in zip([40, 40, 30], by_shard, strict=True)]
        assert [entry.count for entry in entries] == left
        assert made.manifest.count == sum(left) == len(made)
        everything = joined(made)
        for field in ("kl", "steps"):
            mean = float(getattr(everything, field).float().mean())
            assert getattr(made.manifest, f"mean_{field}") == pytest.approx(mean, abs=1e-5)
    assert dropped.manifest.mean_kl < complete.manifest.mean_kl


def test_rows_of_a_set_with_dropped_images_are_gathered_across_its_shards(dropped: TransferSet) -> None:
    rows = torch.randperm(len(dropped), generator=torch.Generator().manual_seed(0))
    assert torch.equal(dropped.images(rows), dropped.all_images()[rows])


def test_a_set_with_dropped_images_is_verified_and_repaired_like_any_other(
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


def test_a_set_with_and_one_without_dropped_images_do_not_mix(
    teacher: Classifier, complete: TransferSet, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(complete.folder, tmp_path / "copy"))
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


def test_a_set_whose_images_are_all_dropped_is_refused_in_one_line(
    teacher: Classifier, tmp_path: Path
) -> None:
    nothing = dropping(steps=1, tolerance=1e-9, noise_share=0.0)
    with pytest.raises(ZskdError, match="none of the 110 images met its target") as error:
        build_transfer_set(teacher, nothing, tmp_path)
    for option in ("--synthesis.steps", "--synthesis.tolerance", "--synthesis.missed keep"):
        assert option in str(error.value)
    assert "\n" not in str(error.value)


def test_on_progress_counts_every_image_dropped_or_not(teacher: Classifier) -> None:
    reported: list[int] = []
    shard = make_shard(teacher, dropping(), 0, on_progress=reported.append)
    assert len(shard) < 40
    assert sum(reported) == 40


def test_the_command_reports_how_many_images_missed_and_were_dropped(
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
    count = dropped.manifest.dropped
    output = capsys.readouterr().out
    noise = int((joined(dropped).steps == 0).sum())
    assert output.startswith(f"{110 - count} images in set: ")
    assert f"{110 - noise} optimised, {count} missed, {count} dropped; {noise} noise" in output
    assert f"{count} missed their target, {count} of them were dropped" in output
    assert json.loads(Path("set/manifest.json").read_text())["shards"] == dropped.manifest.to_json()["shards"]


def test_a_student_is_distilled_on_the_images_that_are_left(
    teacher: Classifier, dropped: TransferSet
) -> None:
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


class Lines(Progress):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, text: str) -> None:
        self.lines.append(text)


def test_optimised_images_and_noise_are_told_apart_and_a_set_that_missed_all_is_warned_of(
    teacher: Classifier, tmp_path: Path
) -> None:
    spec = replace(
        SPEC, count=50, synthesis=replace(SPEC.synthesis, noise_share=0.8, steps=1, tolerance=1e-9)
    )
    log = Lines()
    made = build_transfer_set(teacher, spec, tmp_path, progress=log)
    found = outcome_of(made)
    assert found.words == "10 optimised, 10 missed; 40 noise"
    assert any("warning: all 10 optimised images missed their target: raise" in line for line in log.lines)
    optimised = joined(made).steps > 0
    assert found.mean_kl == pytest.approx(float(joined(made).kl[optimised].mean()))
    assert found.mean_kl > 4 * made.manifest.mean_kl


def test_the_outcomes_of_other_sets(
    teacher: Classifier, complete: TransferSet, dropped: TransferSet, digits: Dataset, tmp_path: Path
) -> None:
    missed, noise = complete.manifest.missed, int((joined(complete).steps == 0).sum())
    assert outcome_of(complete).words == f"{110 - noise} optimised, {missed} missed; {noise} noise"
    assert outcome_of(dropped).optimised == outcome_of(complete).optimised
    log = Lines()
    three = replace(SPEC, method="noise", count=3)
    assert outcome_of(build_transfer_set(teacher, three, tmp_path / "n", progress=log)).words == "3 noise"
    assert any("warning: 3 images for 10 classes" in line for line in log.lines)
    real = build_real_set(teacher, digits.train, tmp_path / "real", count=7)
    assert outcome_of(real).words == "7 real"
