"""Pictures of the user's: read, balanced as the teacher sees them, and shown to a student."""

from __future__ import annotations

import json
import re
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import joined
from zskd.cli.main import main
from zskd.config.distillation import DistillConfig
from zskd.config.recipe import Recipe
from zskd.config.sources import PicturesConfig
from zskd.config.synthesis import SynthesisConfig
from zskd.config.training import TeacherConfig
from zskd.config.transforms import AugmentConfig
from zskd.core.errors import ZskdError
from zskd.core.passes import teacher_passes
from zskd.core.progress import Progress
from zskd.core.rng import torch_stream
from zskd.data.datasets import Dataset
from zskd.data.folder import read_image
from zskd.data.pictures import hash_pictures
from zskd.distillation.architecture import describe_student, fresh_student
from zskd.distillation.batches import DistillationBatches
from zskd.distillation.distill import distill
from zskd.evaluation.agreement import NOT_ESTIMATED
from zskd.models.classifier import Classifier
from zskd.run.arms import plan_arms, plan_students
from zskd.run.pipeline import run_recipe
from zskd.run.summary import summary_lines
from zskd.synthesis import given
from zskd.synthesis.given import balanced, build_picture_set
from zskd.transfer_set.dataset import TransferSet

SHAPE = (1, 32, 32)


class Lines(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, text: str) -> None:
        self.lines.append(text)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def folder(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen digits in two levels of folders, one of them wide and in colour; a broken file and a text."""
    root = tmp_path_factory.mktemp("pictures") / "mine"
    for number, image in enumerate(digits.train.images[:13]):
        save(root / ("deep/er" if number % 2 else "") / f"{number:02}.png", (image[0] * 255).byte().numpy())
    save(root / "wide.PNG", np.random.default_rng(0).integers(0, 256, (20, 50, 3), dtype=np.uint8))
    (root / "broken.jpg").write_bytes(b"no picture")
    (root / "notes.txt").write_text("not a picture")
    (root / ".hidden.png").write_bytes(b"no picture either")
    return root


def test_all_pictures_are_read_and_labelled_by_the_teacher(
    folder: Path, teacher: Classifier, tmp_path: Path
) -> None:
    lines = Lines()
    made = build_picture_set(teacher, folder, tmp_path / "set", progress=lines)
    assert len(made) == 14
    shard = joined(made)
    files = sorted(
        path for path in folder.rglob("*") if path.suffix in (".png", ".PNG") and path.name[0] != "."
    )
    expected = {read_image(path, SHAPE).tobytes() for path in files}
    assert {image.numpy().tobytes() for image in shard.images} == expected
    with torch.no_grad():
        torch.testing.assert_close(shard.logits, teacher(shard.images), atol=1e-4, rtol=1e-4)
    assert torch.equal(made.labels, shard.logits.argmax(1))
    assert not shard.steps.any()
    broken, summary = lines.lines
    assert broken.startswith(f"warning: {folder / 'broken.jpg'} is no readable picture")
    assert summary.startswith(f"pictures: 14 of 14 in {folder} are kept; the teacher sees ")
    assert made.manifest.spec == {"method": "pictures", "count": 20000, "seed": 0}
    assert made.manifest.data_sha256 == hash_pictures(folder)


def test_a_set_of_pictures_is_made_once_and_belongs_to_its_files(
    folder: Path, teacher: Classifier, tmp_path: Path
) -> None:
    small = build_picture_set(teacher, folder, tmp_path / "set", count=3)
    assert len(small) == 3
    shards = (tmp_path / "set" / "shard-00000.safetensors").stat().st_mtime_ns
    build_picture_set(teacher, folder, tmp_path / "set", count=3)
    assert (tmp_path / "set" / "shard-00000.safetensors").stat().st_mtime_ns == shards
    other = tmp_path / "other"
    save(other / "a.png", np.zeros((4, 4), dtype=np.uint8))
    with pytest.raises(ZskdError, match="made with another data_sha256"):
        build_picture_set(teacher, other, tmp_path / "set", count=3)


def test_the_pictures_of_several_shards_are_never_in_the_memory_together(
    folder: Path, teacher: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards of four: the same pictures in the same order as in one, and the passes of every look at them."""
    whole = build_picture_set(teacher, folder, tmp_path / "whole", count=10)
    monkeypatch.setattr(given, "SynthesisConfig", partial(SynthesisConfig, shard_size=4))
    monkeypatch.setattr(given, "_BATCH", 2)
    read, alive = read_image, weakref.WeakValueDictionary[int, np.ndarray]()
    most = 0

    def counted_read(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
        nonlocal most
        picture = read(path, shape)
        alive[id(picture)] = picture
        most = max(most, len(alive))
        return picture

    monkeypatch.setattr(given, "read_image", counted_read)
    made = build_picture_set(teacher, folder, tmp_path / "set", count=10)
    assert most <= 4
    assert [entry.count for entry in made.manifest.shards] == [4, 4, 2]
    for name in ("images", "anchors"):
        assert torch.equal(made.column(name), whole.column(name))
    torch.testing.assert_close(made.column("logits"), whole.column("logits"))
    assert made.manifest.passes is not None
    counts = {stage: counted.teacher_forward for stage, counted in made.manifest.passes.items()}
    assert counts == {"synthesis": 14, "labelling": 10}


def test_a_few_pictures_have_the_labels_of_their_folders(
    digits: Dataset, teacher: Classifier, small_set: TransferSet, tmp_path: Path
) -> None:
    root = tmp_path / "few"
    for number, (image, k) in enumerate(zip(digits.train.images[:12], digits.train.labels[:12], strict=True)):
        wrong = (int(k) + 1) % 10  # the teacher knows better, and is not asked
        save(root / str(wrong) / "deeper" / f"{number}.png", (image[0] * 255).byte().numpy())
    made = build_picture_set(teacher, root, tmp_path / "set", labelled=True)
    assert made.manifest.spec["labelled"] is True
    expected = {read_image(path, SHAPE).tobytes(): int(path.parts[-3]) for path in root.rglob("*.png")}
    labels = {
        image.numpy().tobytes(): int(k) for image, k in zip(made.all_images(), made.labels, strict=True)
    }
    assert labels == expected
    assert made.manifest.anchor_match < 0.5
    with pytest.raises(ZskdError, match="holds a transfer set made with another spec"):
        build_picture_set(teacher, root, tmp_path / "set")

    config = DistillConfig(
        augment=AugmentConfig(), pictures=PicturesConfig(few_share=0.5), label_weight=1.0, start="random"
    )
    batches = DistillationBatches(teacher, small_set, config, pictures={"few": made})
    batches.attach_student(teacher, seed=0, steps=5)
    rows, (source,) = torch.arange(16), batches._sources
    _, _, found = batches(rows, torch_stream(0, "step", 0))
    assert source.labels is not None
    assert torch.equal(found[:8], source.labels)
    assert torch.equal(found[8:], small_set.labels[rows[8:]])


def test_classes_are_kept_in_equal_numbers_and_the_surest_first() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 5, generator=rng) + torch.tensor([3.0, 1, 0, 0, -2])
    confidence, classes = logits.softmax(1).max(1)
    for count in (5, 37, 120, 200, 300):
        rows = balanced(confidence, classes, count)
        assert len(rows) == len(set(rows.tolist())) == min(count, 200)
        kept = torch.bincount(classes[rows], minlength=5)
        there = torch.bincount(classes, minlength=5)
        short = kept < there  # a class that could give more has as many as the largest, up to one
        assert not short.any() or int(kept[short].min()) >= int(kept.max()) - 1
        for k in range(5):
            best = confidence[classes == k].sort(descending=True).values[: int(kept[k])]
            assert torch.equal(confidence[rows][classes[rows] == k].sort(descending=True).values, best)


def test_batches_have_their_share_of_pictures(
    folder: Path, teacher: Classifier, small_set: TransferSet, tmp_path: Path
) -> None:
    made = build_picture_set(teacher, folder, tmp_path / "set")
    shares = PicturesConfig(share=0.5, few_share=0.25)
    config = DistillConfig(augment=AugmentConfig(), pictures=shares, start="random")
    batches = DistillationBatches(teacher, small_set, config, pictures={"images": made, "few": made})
    batches.attach_student(teacher, seed=0, steps=5)
    images, *_ = batches(torch.arange(16), torch_stream(0, "step", 0))
    own, of_set = ({one.numpy().tobytes() for one in sets.all_images()} for sets in (made, small_set))
    found = [one.numpy().tobytes() for one in images]
    assert all(one in own for one in found[:8])
    assert not any(one in own | of_set for one in found[8:12])  # a few pictures are always changed
    assert all(one in of_set for one in found[12:])


def test_a_batch_without_room_for_few_pictures_is_made_and_told(
    folder: Path, teacher: Classifier, small_set: TransferSet, tmp_path: Path
) -> None:
    made = {"few": build_picture_set(teacher, folder, tmp_path / "set")}
    log = Lines()
    config = DistillConfig(start="random", steps=2, batch_size=2)
    student = fresh_student(describe_student("lenet5_half", teacher), teacher, seed=0)
    distill(teacher, student.module, small_set, config, pictures=made, progress=log)
    told = "distill: --distill.pictures.few-share gives no image of a batch of 2: raise one of them"
    assert told in log.lines


def recipe(
    teacher_folder: Path, folder: Path, *, controls: tuple[str, ...] = (), **changes: object
) -> Recipe:
    return Recipe(
        count=20,
        images=folder,
        controls=controls,
        held_out=20,
        data={"name": "none"},  # type: ignore[arg-type]
        teacher=TeacherConfig(path=teacher_folder),
        synthesis=SynthesisConfig(steps=2, batch_size=20, shard_size=20),
        distill=DistillConfig(start="random", steps=6, batch_size=8, optimiser="adam"),
        workers=1,
        threads=1,
        **changes,  # type: ignore[arg-type]
    )


def test_a_run_shows_the_method_with_and_without_the_pictures(
    folder: Path, teacher_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted, lines = recipe(teacher_folder, folder, few=folder), Lines()
    asking = replace(wanted, distill=replace(wanted.distill, changes="by_teacher"))
    metrics = run_recipe(asking, tmp_path / "run", progress=lines)
    assert [arm.arm for arm in metrics.arms] == ["zskd", "zskd_alone"]
    assert [arm.title for arm in metrics.arms] == [
        "ZSKD (default) + --images, --few",
        "ZSKD (default) alone",
    ]
    stages = [line for line in lines.lines if line[1:6] == " of 4"]
    assert stages == [
        "1 of 4: teacher",
        "2 of 4: images of ZSKD (default) + --images, --few",
        "3 of 4: students",
        "4 of 4: measurements and figures",
    ]
    assert set(metrics.seconds) == {"teacher", "set zskd", "students", "evaluation"}
    assert json.loads((tmp_path / "run" / "timings.json").read_text()) == metrics.seconds
    again = ["run", str(tmp_path / "run" / "recipe.yaml"), "--out", str(tmp_path / "run"), "--json"]
    assert main([*again, "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out) == metrics.to_json()
    told = "\n".join(summary_lines(metrics))
    assert re.search(r"^\d+ s in all: .*evaluation \d+ s\.$", told, re.MULTILINE)
    assert "ZSKD (default) alone" in told
    assert [arm.estimated_agreement is None for arm in metrics.arms] == [True, False]
    assert f"ZSKD (default) + --images, --few: {NOT_ESTIMATED}." in told
    assert [one.change for one in metrics.changes] == ["rotation", "shift", "scale", "shear"]
    assert all(f"{one.words}." in told and f"distill: {one.words}" in lines.lines for one in metrics.changes)
    assert sorted(path.name for path in (tmp_path / "run" / "sets").iterdir()) == ["zskd"]
    assert metrics.sources.images_sha256 == metrics.sources.few_sha256 == hash_pictures(folder)
    looked_at = [teacher_passes(one.passes) for one in metrics.arms if one.passes]
    assert looked_at[0] - looked_at[1] >= 2 * len(TransferSet(tmp_path / "run" / "pictures" / "images"))
    cards = {
        name: json.loads((tmp_path / "run" / "students" / name / "card.json").read_text())["origin"]
        for name in ("zskd", "zskd_alone")
    }
    assert set(cards["zskd"]["pictures_sha256"]) == {"images", "few"}
    assert "pictures_sha256" not in cards["zskd_alone"]
    with pytest.raises(ZskdError, match="was made with another"):
        run_recipe(recipe(teacher_folder, folder), tmp_path / "run")


def test_without_pictures_there_is_no_further_arm(teacher_folder: Path, folder: Path) -> None:
    plain = recipe(teacher_folder, folder, controls=("noise_white",))
    with_pictures = plan_students(plain, plan_arms(plain, None))
    assert [bool(one.spec.distill.pictures.share) for one in with_pictures] == [True, False, False]
    object.__setattr__(plain, "images", None)
    arms = plan_arms(plain, None)
    assert [arm.name for arm in arms] == ["zskd", "noise_white"]
    assert {one.spec.distill for one in plan_students(plain, arms)} == {plain.distill}


def test_distill_takes_pictures_too(
    folder: Path,
    teacher_folder: Path,
    small_set: TransferSet,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["distill", str(teacher_folder), str(small_set.folder), "--distill.steps", "4"]
    command += ["--distill.start", "random", "--workers", "1"]
    assert main([*command, "--images", str(folder), "--out", str(tmp_path / "student")]) == 0
    told = capsys.readouterr()
    assert told.err.count("is no readable picture") == 1
    assert NOT_ESTIMATED in told.out
    student, teacher = str(tmp_path / "student"), str(teacher_folder)
    assert main(["evaluate", student, "--teacher", teacher]) == 0
    assert NOT_ESTIMATED in capsys.readouterr().out
    with pytest.raises(SystemExit, match="1"):  # one picture cannot be read
        main(["check", student, str(folder), "--teacher", teacher, "--json"])
    assert json.loads(capsys.readouterr().out)["estimate"] is None
    card = json.loads((tmp_path / "student" / "card.json").read_text())
    found = TransferSet(tmp_path / "student" / "pictures" / "images")
    assert card["origin"]["pictures_sha256"] == {"images": found.fingerprint()}
    command.append("--no-estimate")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.png").write_bytes(b"no")
    unmixed = ["--distill.augment.mixup", "0", "--distill.augment.cutmix", "0"]
    for more, message in (
        (["--images", str(broken)], "holds no picture that can be read: give a folder with some"),
        (["--images", str(tmp_path / "none")], "there is no folder"),
        (["--images", str(folder), "--distill.label-weight", "1", *unmixed], "must be 0 with --images: they"),
        (
            ["--few", str(folder), "--distill.label-weight", "1", *unmixed],
            "is in no folder: for labels, give folders named after the teacher's classes (0, 1, 2, 3, 4, …)",
        ),
        (
            ["--images", str(folder), "--distill.generator.share", "1"],
            "--images stand beside a transfer set: lower --distill.generator.share",
        ),
        (
            ["--few", str(folder), "--distill.fresh.share", "0.5", "--distill.replay.share", "0.5"],
            "--few stand beside a transfer set: lower --distill.fresh.share or --distill.replay.share",
        ),
    ):
        assert main([*command, *more, "--out", str(tmp_path / "refused")]) == 2
        assert message in capsys.readouterr().err


def test_a_run_inside_the_folder_of_its_pictures_is_refused(folder: Path, teacher_folder: Path) -> None:
    inside = folder / "runs" / "mine"
    with pytest.raises(
        ZskdError, match="is inside the folder of --images: .* choose another folder with --out"
    ):
        run_recipe(recipe(teacher_folder, folder), inside)
    assert not (inside / "recipe.yaml").exists()


def test_many_pictures_are_not_few(
    teacher_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], small_set: TransferSet
) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for number in range(201):
        (many / f"{number}.png").touch()
    command = ["distill", str(teacher_folder), str(small_set.folder), "--few", str(many)]
    assert main([*command, "--out", str(tmp_path / "student")]) == 2
    assert "201 pictures, and --few takes up to 20 of each class, 200 in all: give --images" in (
        capsys.readouterr().err
    )
