"""A transfer set as tar files that WebDataset reads."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

from zskd.core.errors import readable_errors
from zskd.core.files import whole_folder, write_text
from zskd.models.classifier import Classifier
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.export.card import README, Column, columns, dataset_card
from zskd.transfer_set.export.samples import IN_ONE_FILE, Sample, by_file, check_samples, samples

_READ = """import webdataset

files = "FOLDER/train-{000000..000000}.tar"
webdataset.WebDataset(files, shardshuffle=False).decode("pil").to_tuple("png", "cls", "json")"""


def export_webdataset(teacher: Classifier, transfer_set: TransferSet, folder: str | Path) -> Path:
    """Write `<folder>/train-NNNNNN.tar`, up to 10,000 images in each, and a dataset card.

    Each image is a sample of three files: `ROW.png` in 8 bits; `ROW.cls`, the class number; and `ROW.json`
    with the name of the class, target y and the teacher's logits for the rounded image.

    Args:
        teacher: of the set; used in evaluation mode and left as it is.
        transfer_set: what is written.
        folder: absent or empty.

    Returns:
        `folder`.

    Raises:
        ZskdError: another teacher, the folder is not empty, or the images are neither grey nor RGB.
    """
    folder = Path(folder)
    check_samples(teacher, transfer_set)
    with whole_folder(folder) as temporary, readable_errors(folder, "write"):
        number = 0
        for number, some in by_file(samples(teacher, transfer_set), IN_ONE_FILE):
            path = temporary / f"train-{number:06d}.tar"
            with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
                for sample in some:
                    _add(tar, sample, transfer_set.class_names)
        image, label, *facts = columns(transfer_set)
        name = Column("class", "its name", {"dtype": "string"})
        words = "; ".join(f"`{one.name}`, {one.words}" for one in (name, *facts))
        found = [
            replace(image, name="png"),
            replace(label, name="cls"),
            Column("json", words, {"struct": [one.typed() for one in (name, *facts)]}),
        ]
        read = _READ.replace("..000000", f"..{number:06d}")
        write_text(temporary / README, dataset_card(transfer_set, found, read))
    return folder


def _add(tar: tarfile.TarFile, sample: Sample, class_names: tuple[str, ...]) -> None:
    """Add the files of a sample; owner and time are left out, so that the same set gives the same bytes."""
    facts = {"class": class_names[sample.label], "target": sample.target, "logits": sample.logits}
    for ending, content in (
        ("png", sample.png),
        ("cls", str(sample.label).encode()),
        ("json", json.dumps(facts).encode()),
    ):
        member = tarfile.TarInfo(f"{sample.row:06d}.{ending}")
        member.size, member.mode = len(content), 0o644
        tar.addfile(member, io.BytesIO(content))
