"""Pictures of odd files and disks, networks of odd kinds, and what is measured on them."""

import io
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor, nn

from conftest import files_of_at_most
from zskd.core.errors import ZskdError
from zskd.core.tensors import read_tensors, save_tensors, stored_bytes
from zskd.data.datasets import Split
from zskd.data.folder import read_image, read_pictures
from zskd.data.parquet import parquet_pictures
from zskd.evaluation.audit import audit_student
from zskd.evaluation.gain import measure_costs
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import fresh_weights
from zskd.report.run import report_run
from zskd.run.metrics import METRICS
from zskd.synthesis.real import build_real_set

SPEC = InputSpec(shape=(1, 6, 6))


def layers() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 4))


def untrained(seed: int) -> Classifier:
    return Classifier(fresh_weights(layers, seed), spec=SPEC, copy=False).freeze()


def noise(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# -- tensors that share memory


def test_parts_of_a_tensor_are_stored_beside_it(tmp_path: Path) -> None:
    grid = noise(0, 3, 4)
    tensors = {"grid": grid, "row": grid[1], "same": grid, "behind": grid[2, 1:], "none": grid[:0]}
    save_tensors(tensors, tmp_path / "a.safetensors")
    found = read_tensors(tmp_path / "a.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], value) for name, value in tensors.items())
    assert (tmp_path / "a.safetensors").stat().st_size == stored_bytes(tensors)


# -- what a network gains


class Restless(nn.Module):
    """A small network for large images, with dropout and running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc = nn.BatchNorm2d(1), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        pooled = nn.functional.adaptive_avg_pool2d(self.norm(x), 4).flatten(1)
        return self.fc(nn.functional.dropout(pooled, training=self.training))


def test_costs_of_networks_for_large_images_leave_statistics_modes_and_random_numbers() -> None:
    network = Classifier(Restless(), spec=InputSpec(shape=(1, 72, 72)))
    network.train()
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    numbers = torch.get_rng_state()
    measure_costs((network,), seconds=0)
    assert torch.equal(torch.get_rng_state(), numbers)
    assert all(torch.equal(value, before[name]) for name, value in network.module.state_dict().items())
    assert all(layer.training for layer in network.modules())


# -- pictures that cannot be kept


def photos(path: Path, count: int) -> Path:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    pictures = []
    for number in range(count):
        stream = io.BytesIO()
        Image.fromarray((255 * noise(number, 64, 64)).byte().numpy()).save(stream, "PNG")
        pictures.append(stream.getvalue())
    assert min(map(len, pictures)) > 4000
    parquet.write_table(arrow.table({"image": pictures}), path)
    return path


def test_a_full_disk_ends_the_reading_and_breaks_no_picture(tmp_path: Path) -> None:
    files = parquet_pictures([photos(tmp_path / "photos.parquet", 6)], tmp_path)
    broken: list[object] = []
    with files_of_at_most(10_000), pytest.raises(ZskdError, match="cannot keep pictures in .*: "):
        list(read_pictures(files, SPEC.shape, 2, lambda one, _: broken.append(one)))
    assert not broken
    read = [images for _, images in read_pictures(files, SPEC.shape, 2, lambda one, _: broken.append(one))]
    again = [images for _, images in read_pictures(files, SPEC.shape, 2, lambda one, _: broken.append(one))]
    assert torch.cat(read).unique(dim=0).shape[0] == 6
    assert torch.equal(torch.cat(read), torch.cat(again))
    assert not broken


# -- pictures whose orientation is damaged or stored


def pixels() -> np.ndarray:
    return np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


@pytest.mark.parametrize("exif", [b"garbage!", b"II*\0", b"II*\0\x08\0\0", b"XX*\0\x08\0\0\0"])
@pytest.mark.parametrize("ending", ["jpg", "webp"])
def test_a_sound_picture_with_damaged_exif_is_read_as_it_is_stored(
    ending: str, exif: bytes, tmp_path: Path
) -> None:
    plain, damaged = tmp_path / f"plain.{ending}", tmp_path / f"damaged.{ending}"
    # for a JPEG without a density, Pillow looks for one in the EXIF data and forgives them
    Image.fromarray(pixels()).save(plain, dpi=(72, 72))
    Image.fromarray(pixels()).save(damaged, dpi=(72, 72), exif=b"Exif\0\0" + exif)
    np.testing.assert_array_equal(read_image(damaged, (1, 3, 4)), read_image(plain, (1, 3, 4)))


def test_a_sound_png_with_a_damaged_profile_is_read_but_one_cut_short_is_not(tmp_path: Path) -> None:
    told = PngInfo()
    told.add_text("Raw profile type exif", "\nexif\n 8\nno hexadecimal digits")
    damaged = tmp_path / "damaged.png"
    Image.fromarray((255 * noise(0, 64, 64)).byte().numpy()).save(damaged, pnginfo=told)
    with Image.open(damaged) as picture:
        np.testing.assert_array_equal(255 * read_image(damaged, (1, 64, 64))[0], np.asarray(picture))
    damaged.write_bytes(damaged.read_bytes()[:-1000])
    with pytest.raises(ZskdError, match="is no readable picture"):
        read_image(damaged, (1, 64, 64))


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once(orientation: int, compression: str | None, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels()).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(pixels()).save(tmp_path / "a.tif", exif=exif, compression=compression)
    shape = (1, 3, 4) if orientation < 5 else (1, 4, 3)
    np.testing.assert_array_equal(
        read_image(tmp_path / "a.tif", shape), read_image(tmp_path / "a.png", shape)
    )


# -- images of an audit


def test_an_audit_beside_a_set_takes_images_of_double_precision_and_tells_of_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    members, others = noise(0, 30, *SPEC.shape), noise(1, 25, *SPEC.shape)
    teacher, student = untrained(0), untrained(1)
    made = build_real_set(teacher, Split(members, torch.zeros(30).long()), tmp_path / "set", count=30, seed=0)
    single = audit_student(teacher, student, members, others, transfer_set=made)
    double = audit_student(teacher, student, members.double(), others.double(), transfer_set=made)
    assert double == single
    assert double.nearest is not None
    with pytest.raises(ZskdError, match="there are 0 members and 25 others: give at least 20"):
        audit_student(teacher, student, members[:0], others, transfer_set=made)


# -- the page of a run


@pytest.mark.parametrize("name", ["none", "digits", "digits-pairs"])
def test_a_folder_of_data_is_refused_for_a_run_that_reads_none(name: str, tmp_path: Path) -> None:
    (tmp_path / METRICS).touch()
    (tmp_path / "recipe.yaml").write_text(f"data: {{name: {name}}}\n")
    wanted = rf"reads no folder of data \(data.name: {name}\): leave out --data-dir"
    with pytest.raises(ZskdError, match=wanted):
        report_run(tmp_path, data_dir=tmp_path)
