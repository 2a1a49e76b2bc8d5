"""Transfer sets on disk: resuming, refusing, verifying, gathering rows, and both exports."""

import json
import os
import pickle
import re
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.io import loadmat
from torch import nn

from zskd.config.registry import ARCHITECTURES
from zskd.config.synthesis import SynthesisConfig
from zskd.core.errors import ZskdError
from zskd.core.files import sha256_file, write_json
from zskd.core.progress import Progress, Task
from zskd.models.class_names import folder_names
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import fresh_weights
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.spec import SetSpec
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.export.imagefolder import export_imagefolder
from zskd.transfer_set.export.mat import export_mat
from zskd.transfer_set.manifest import Provenance, read_manifest, verify_transfer_set
from zskd.transfer_set.shard import Shard, write_shard
from zskd.transfer_set.writer import Writer

SIZES = (4, 3, 5)
needs_proc = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc/self/maps")


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(folder.glob("shard-*"))}


def made_up(count: int, seed: int, shape: tuple[int, int, int] = (1, 4, 4), classes: int = 3) -> Shard:
    numbers = torch.Generator().manual_seed(seed)
    return Shard(
        images=torch.rand(count, *shape, generator=numbers),
        targets=torch.rand(count, classes, generator=numbers).softmax(1),
        logits=torch.randn(count, classes, generator=numbers),
        anchors=torch.arange(count) % classes,
        steps=torch.arange(seed, seed + count, dtype=torch.int32),
        kl=torch.rand(count, generator=numbers),
    )


def writer(folder: Path, names: tuple[str, ...] = ("a", "b", "c"), **provenance: Any) -> Writer:
    spec = {"method": "zskd", "count": sum(SIZES), "seed": 1}
    given = Provenance(**{"spec": spec, "teacher_sha256": "0" * 64} | provenance)
    return Writer(folder, given, class_names=names, shape=(1, 4, 4))


def write(folder: Path, names: tuple[str, ...] = ("a", "b", "c")) -> TransferSet:
    one = writer(folder, names)
    for number, size in enumerate(SIZES):
        one.add(number, write_shard(folder, number, made_up(size, number)))
    one.finish()
    return TransferSet(folder)


@pytest.fixture
def copy(small_set: TransferSet, tmp_path: Path) -> Path:
    """A set of two shards that a test may damage."""
    return Path(shutil.copytree(small_set.folder, tmp_path / "copy"))


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def change(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES = [remove, cut, change, empty]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("number", [0, 1])
def test_resuming_keeps_complete_shards_and_makes_the_others_again_to_the_same_bytes(
    teacher: Classifier, small_spec: SetSpec, copy: Path, damage: Any, number: int
) -> None:
    before = hashes(copy)
    damage(copy / f"shard-{number:05d}.safetensors")
    before_stat = (copy / f"shard-{1 - number:05d}.safetensors").stat()
    build_transfer_set(teacher, small_spec, copy)
    assert hashes(copy) == before
    after = (copy / f"shard-{1 - number:05d}.safetensors").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before_stat.st_ino, before_stat.st_mtime_ns)
    assert verify_transfer_set(copy) == 2


class Stopping(Progress):
    """Interrupts the work after its first shard, as Ctrl-C does."""

    @contextmanager
    def task(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:
        class One:
            advanced = 0

            def advance(self, done: int = 1, note: str = "") -> None:
                self.advanced += done
                if self.advanced > 40:  # in the second shard
                    raise KeyboardInterrupt

        yield One()


def test_a_set_that_was_interrupted_is_refused_until_it_is_finished(
    teacher: Classifier, small_spec: SetSpec, small_set: TransferSet, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        build_transfer_set(teacher, small_spec, tmp_path, progress=Stopping())
    assert list(hashes(tmp_path)) == ["shard-00000.safetensors"]
    for refuse in (TransferSet, verify_transfer_set):
        with pytest.raises(ZskdError, match="is not finished: run the command that makes it again"):
            refuse(tmp_path)
    finished = build_transfer_set(teacher, small_spec, tmp_path)
    assert hashes(tmp_path) == hashes(small_set.folder)
    assert finished.manifest == small_set.manifest


def test_a_finished_set_is_not_touched_again(teacher: Classifier, small_spec: SetSpec, copy: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in copy.glob("shard-*")}
    build_transfer_set(teacher, small_spec, copy)
    assert {path.name: path.stat().st_mtime_ns for path in copy.glob("shard-*")} == before


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"seed": 4}, r"spec\.seed \(3 there, 4 now\)"),
        ({"count": 51}, r"spec\.count \(50 there, 51 now\)"),
        ({"method": "noise"}, r"spec\.method \(zskd there, noise now\)"),
        (
            {"synthesis": SynthesisConfig(steps=9, noise_share=0.4, batch_size=20, shard_size=40)},
            r"spec\.synthesis\.steps \(8 there, 9 now\)",
        ),
    ],
)
def test_a_folder_of_another_set_is_refused_and_not_changed(
    teacher: Classifier, small_spec: SetSpec, copy: Path, other: dict[str, Any], named: str
) -> None:
    before = hashes(copy) | {"manifest": sha256_file(copy / "manifest.json")}
    with pytest.raises(ZskdError, match=rf"made with another {named}: choose another folder"):
        build_transfer_set(teacher, replace(small_spec, **other), copy)
    assert hashes(copy) | {"manifest": sha256_file(copy / "manifest.json")} == before


def test_a_folder_of_another_teacher_is_refused(small_spec: SetSpec, copy: Path) -> None:
    with pytest.raises(ZskdError, match="made with another teacher_sha256: choose another folder"):
        build_transfer_set(Classifier(ARCHITECTURES.load("lenet5")()), small_spec, copy)


@pytest.mark.parametrize("damage", DAMAGES)
def test_verifying_finds_every_damage(copy: Path, damage: Any) -> None:
    assert verify_transfer_set(copy) == 2
    damage(copy / "shard-00001.safetensors")
    expected = "is missing" if damage is remove else "is not the file that was written"
    with pytest.raises(ZskdError, match=rf"shard-00001\.safetensors {expected}"):
        verify_transfer_set(copy)


@pytest.mark.parametrize("damage", [remove, cut, empty])
def test_a_set_with_a_shard_that_is_not_whole_is_not_opened(copy: Path, damage: Any) -> None:
    damage(copy / "shard-00001.safetensors")
    with pytest.raises(ZskdError, match=r"shard-00001\.safetensors"):
        TransferSet(copy)


def test_a_shard_with_other_contents_is_not_opened(copy: Path) -> None:
    path = copy / "shard-00001.safetensors"
    tensors = load_file(path)
    for wrong in (
        {name: value for name, value in tensors.items() if name != "kl"},
        {name: value[:-1].contiguous() for name, value in tensors.items()},
        {**tensors, "more": torch.zeros(10)},
    ):
        save_file(wrong, path)
        with pytest.raises(ZskdError, match="is not the file that was written"):
            TransferSet(copy)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is missing: it should be the manifest of a transfer set"),
        ('{"format": ', "is damaged"),
        ('{"format": "zskd-transfer-set/9"}', "is not a manifest of format zskd-transfer-set/2"),
        ('{"format": "zskd-transfer-set/1"}', "is not a manifest of format zskd-transfer-set/2"),
        ('{"format": "zskd-transfer-set/2"}', r"is damaged \(complete: Field required\): make the set again"),
    ],
)
def test_manifests_that_cannot_be_used_are_named(copy: Path, text: str | None, message: str) -> None:
    (copy / "manifest.json").unlink()
    if text is not None:
        (copy / "manifest.json").write_text(text)
    for read in (read_manifest, TransferSet, verify_transfer_set):
        with pytest.raises(ZskdError, match=rf"manifest\.json.*{message}"):
            read(copy)


def test_a_manifest_whose_list_of_shards_is_damaged_is_named(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    write_json(copy / "manifest.json", manifest | {"shards": [{"name": "shard-00000.safetensors"}]})
    for read in (TransferSet, verify_transfer_set):
        with pytest.raises(ZskdError, match=r"manifest\.json"):
            read(copy)


def test_the_manifest_sums_up_its_shards(tmp_path: Path) -> None:
    made = write(tmp_path)
    shards = list(made)
    assert (len(made), made.manifest.count) == (12, 12)
    kl = torch.cat([shard.kl for shard in shards])
    match = torch.cat([shard.logits.argmax(1) == shard.anchors for shard in shards])
    assert made.manifest.mean_kl == pytest.approx(float(kl.mean()), abs=1e-6)
    assert made.manifest.anchor_match == pytest.approx(float(match.float().mean()), abs=1e-6)
    steps = torch.cat([shard.steps for shard in shards]).float()
    assert made.manifest.mean_steps == pytest.approx(float(steps.mean()), abs=1e-6)
    assert [entry.count for entry in made.manifest.shards] == list(SIZES)
    assert (made.class_names, made.shape) == (("a", "b", "c"), (1, 4, 4))


def test_shards_are_read_as_they_were_written_in_any_order(tmp_path: Path) -> None:
    one = writer(tmp_path)
    for number in (2, 0, 1):
        one.add(number, write_shard(tmp_path, number, made_up(SIZES[number], number)))
    one.finish()
    for number, shard in enumerate(TransferSet(tmp_path)):
        expected = made_up(SIZES[number], number).tensors()
        assert all(torch.equal(value, expected[name]) for name, value in shard.tensors().items())


def test_a_resumed_writer_lists_the_complete_shards(tmp_path: Path) -> None:
    writer(tmp_path).add(1, write_shard(tmp_path, 1, made_up(3, 1)))
    assert list(writer(tmp_path).done) == [1]
    cut(tmp_path / "shard-00001.safetensors")
    assert list(writer(tmp_path).done) == []


@pytest.mark.parametrize(
    "rows",
    [
        list(range(12)),
        list(range(11, -1, -1)),
        [3, 4, 6, 7],
        [0, 11, 0, 5, 5, 4, 11],
        [7, 2, 9, 4, 0, 10, 1, 3],
        [6],
        [],
    ],
)
def test_images_are_returned_in_the_order_of_the_rows_across_shards(tmp_path: Path, rows: list[int]) -> None:
    made = write(tmp_path)
    together = torch.cat([shard.images for shard in made])
    numbers = torch.tensor(rows, dtype=torch.int64)
    assert torch.equal(made.images(numbers), together[numbers])


@needs_proc
def test_no_more_shards_are_mapped_than_the_files_that_may_be_open(tmp_path: Path) -> None:
    def mapped() -> int:
        return len(set(re.findall(rf"{tmp_path}\S+", Path("/proc/self/maps").read_text())))

    one = writer(tmp_path)
    for number in range(40):
        one.done[number] = write_shard(tmp_path, number, made_up(2, number))
    one.finish()
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    here = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    resource.setrlimit(resource.RLIMIT_NOFILE, (here + 30, usual[1]))
    try:
        made = TransferSet(tmp_path)
        assert mapped() == 0
        images = made.images(torch.arange(80))
        assert 3 < mapped() <= (here + 30) // 4
        many = made.keeping(1000)
        many.images(torch.arange(80))
        del made
        assert mapped() <= (here + 30) // 4
        made = many
        few = made.keeping(3)
        few.images(torch.arange(80))
        del made, many
        assert mapped() == 3
        again = pickle.loads(pickle.dumps(few))
        assert torch.equal(again.images(torch.arange(80)), images)
        assert mapped() <= 6
        assert torch.equal(torch.cat([shard.images.clone() for shard in few]), images)
        assert torch.equal(few.all_images(), images)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)
    assert torch.equal(images, torch.cat([made_up(2, number).images for number in range(40)]))


@pytest.mark.parametrize("row", [12, -1])
def test_rows_that_are_not_there_are_refused(tmp_path: Path, row: int) -> None:
    with pytest.raises((IndexError, ZskdError)):
        write(tmp_path).images(torch.tensor([0, row]))


def test_bytes_per_image_are_those_on_disk(tmp_path: Path) -> None:
    one = writer(tmp_path)
    one.add(0, write_shard(tmp_path, 0, made_up(1000, 0)))
    size = (tmp_path / "shard-00000.safetensors").stat().st_size
    assert 0 <= size - 1000 * Shard.bytes_per_image((1, 4, 4), 3) < 2000


def test_the_matlab_file_has_the_layout_of_the_reproduction(small_set: TransferSet, tmp_path: Path) -> None:
    export_mat(small_set, tmp_path / "set.mat")
    read = loadmat(tmp_path / "set.mat")
    images, labels = read["train_images"], read["train_labels"]
    assert (images.shape, images.dtype) == ((50, 32, 32, 1), np.float32)
    assert (labels.shape, labels.dtype) == ((50, 10), np.float32)
    together = torch.cat([shard.images for shard in small_set])
    np.testing.assert_array_equal(images[:, :, :, 0], together[:, 0].numpy() * np.float32(255))
    np.testing.assert_array_equal(labels, torch.cat([shard.targets for shard in small_set]).numpy())
    assert 200 < images.max() <= 255
    assert images.min() >= 0
    with pytest.raises(ZskdError, match=r"does not end in \.mat: give a file name"):
        export_mat(small_set, tmp_path / "set.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["set.mat"]


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def test_png_files_are_the_images_in_8_bits_with_the_teachers_logits(
    teacher: Classifier, small_set: TransferSet, tmp_path: Path
) -> None:
    folder = export_imagefolder(teacher, small_set, tmp_path / "png")
    lines = records(folder)
    together = torch.cat([shard.images for shard in small_set])
    targets = torch.cat([shard.targets for shard in small_set])
    anchors = torch.cat([shard.anchors for shard in small_set])
    assert len(lines) == 50
    assert {line["file_name"] for line in lines} == {
        p.relative_to(folder).as_posix() for p in folder.rglob("*.png")
    }
    for row, line in enumerate(lines):
        assert line["file_name"] == f"{int(anchors[row])}/{row:06d}.png"
        with Image.open(folder / line["file_name"]) as picture:
            assert (picture.mode, picture.size) == ("L", (32, 32))
            pixels = torch.from_numpy(np.array(picture)).float() / 255
        assert float((pixels - together[row, 0]).abs().max()) <= 0.5 / 255 + 1e-6
        with torch.no_grad():
            logits = teacher(pixels[None, None])[0]
        torch.testing.assert_close(torch.tensor(line["logits"]), logits, atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(line["target"], targets[row].numpy(), atol=1e-7)


def linear(names: tuple[str, ...], channels: int = 1) -> Classifier:
    module = fresh_weights(lambda: nn.Sequential(nn.Flatten(), nn.Linear(16 * channels, len(names))), 0)
    return Classifier(module, spec=InputSpec(shape=(channels, 4, 4)), class_names=names).freeze()


def set_of(names: tuple[str, ...], folder: Path, channels: int = 1) -> TransferSet:
    teacher = linear(names, channels).fingerprint()
    provenance = Provenance(spec={"method": "zskd"}, teacher_sha256=teacher)
    one = Writer(folder, provenance, class_names=names, shape=(channels, 4, 4))
    one.add(0, write_shard(folder, 0, made_up(2 * len(names), 0, (channels, 4, 4), len(names))))
    one.finish()
    return TransferSet(folder)


def test_colour_pictures_keep_their_channels(tmp_path: Path) -> None:
    made = set_of(("a", "b"), tmp_path / "set", channels=3)
    folder = export_imagefolder(linear(("a", "b"), 3), made, tmp_path / "png")
    with Image.open(folder / records(folder)[0]["file_name"]) as picture:
        assert picture.mode == "RGB"
        pixels = np.array(picture)
    np.testing.assert_allclose(
        pixels / 255, next(iter(made)).images[0].permute(1, 2, 0), atol=0.5 / 255 + 1e-6
    )


def test_images_of_two_channels_cannot_be_exported_as_png(tmp_path: Path) -> None:
    made = set_of(("a", "b"), tmp_path / "set", channels=2)
    with pytest.raises(ZskdError, match="grey or RGB; these images have 2 channels"):
        export_imagefolder(linear(("a", "b"), 2), made, tmp_path / "png")


@pytest.mark.parametrize(
    "names",
    [
        ("T-shirt/top", "Trouser", "Ankle boot"),
        ("..", ".", "../../outside"),
        ("/absolute", "C:\\x", "a~b"),
        ("a/b", "a:b", "a_b"),
        (".hidden", "ends.", "größe"),
        (" ", "b", "c"),
    ],
)
def test_class_names_become_folders_of_their_own_inside_the_export(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    folder = export_imagefolder(linear(names), set_of(names, tmp_path / "set"), tmp_path / "in" / "png")
    files = [line["file_name"] for line in records(folder)]
    anchors = next(iter(TransferSet(tmp_path / "set"))).anchors.tolist()
    assert len(list(folder.rglob("*.png"))) == len(files) == 6
    owners: dict[str, set[int]] = {}
    for file, anchor in zip(files, anchors, strict=True):
        assert len(Path(file).parts) == 2, "one folder per class, right inside the export"
        owners.setdefault(Path(file).parts[0], set()).add(anchor)
    assert sorted(map(sorted, owners.values())) == [[0], [1], [2]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "set"]
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["png"]


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (("cat", "dog", "eel"), ["cat", "dog", "eel"]),
        (("cat/kitten", "dog"), ["0_cat_kitten", "dog"]),
        (("dog", "cat"), ["0_dog", "1_cat"]),  # torchvision numbers classes in the order of their folders
        (("T-shirt/top", "Trouser", "Ankle boot"), ["0_T-shirt_top", "1_Trouser", "2_Ankle boot"]),
        (tuple(map(str, range(11))), [f"{k:02d}_{k}" for k in range(11)]),
        (("A", "B", "a"), ["0_A", "1_B", "2_a"]),  # one folder where upper and lower case are the same
    ],
)
def test_plain_class_names_in_order_are_kept_and_others_numbered(
    names: tuple[str, ...], folders: list[str]
) -> None:
    assert folder_names(names) == folders == sorted(folders)


def test_a_folder_that_is_not_empty_is_not_filled(
    teacher: Classifier, small_set: TransferSet, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(ZskdError, match="is not empty: choose another folder"):
        export_imagefolder(teacher, small_set, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
