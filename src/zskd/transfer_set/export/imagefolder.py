"""A transfer set as a tree of PNG files, one folder per class."""

from __future__ import annotations

import json
from pathlib import Path

from zskd.core.errors import readable_errors
from zskd.core.files import whole_folder, write_text
from zskd.models.class_names import folder_names
from zskd.models.classifier import Classifier
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.export.card import README, columns, dataset_card
from zskd.transfer_set.export.samples import check_samples, samples

METADATA = "metadata.jsonl"
_READ = """from datasets import load_dataset
from torchvision.datasets import ImageFolder

load_dataset("FOLDER", split="train")  # with targets and logits
ImageFolder("FOLDER")  # pictures and classes only"""


def export_imagefolder(teacher: Classifier, transfer_set: TransferSet, folder: str | Path) -> Path:
    """Write `<folder>/<class>/<row>.png` in 8 bits, `metadata.jsonl` and a dataset card.

    `torchvision.datasets.ImageFolder` opens the folder, and `load_dataset` of Hugging Face `datasets`, which
    reads `metadata.jsonl`. Each line of it holds file name, number and name of the class, target y and the
    teacher's logits for the rounded image. Folders are named after the classes; with the class number before
    the name if the name is no file name, and all of them if they would be sorted in another order than the
    classes, because torchvision numbers classes in the order of their folders. A class without images has an
    empty folder, which torchvision accepts with `allow_empty=True`.

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
    names = folder_names(transfer_set.class_names)
    with whole_folder(folder) as temporary, readable_errors(folder, "write"):
        for name in names:
            (temporary / name).mkdir()
        with (temporary / METADATA).open("w", encoding="utf-8") as lines:
            for sample in samples(teacher, transfer_set):
                file = f"{names[sample.label]}/{sample.row:06d}.png"
                (temporary / file).write_bytes(sample.png)
                record = {
                    "file_name": file,
                    "label": sample.label,
                    "class": transfer_set.class_names[sample.label],
                    "target": sample.target,
                    "logits": sample.logits,
                }
                lines.write(json.dumps(record) + "\n")
        card = dataset_card(transfer_set, columns(transfer_set), _READ, typed=False)
        write_text(temporary / README, card)
    return folder
