"""A transfer set as Parquet files that Hugging Face `datasets` opens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zskd.core.errors import readable_errors
from zskd.core.extras import import_extra
from zskd.core.files import whole_folder, write_text
from zskd.models.classifier import Classifier
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.export.card import README, columns, dataset_card
from zskd.transfer_set.export.samples import IN_ONE_FILE, by_file, check_samples, samples

_ROWS = 100
"""Rows that are read together, as the Hub advises for pictures."""
_READ = """from datasets import load_dataset

load_dataset("FOLDER", split="train")"""


def export_parquet(teacher: Classifier, transfer_set: TransferSet, folder: str | Path) -> Path:
    """Write `<folder>/data/train-NNNNN.parquet`, up to 10,000 images in each, and a dataset card.

    Columns: `image`, PNG files in 8 bits; `label`, class numbers with the names of the classes; `target`, y
    (K,); and `logits` (K,), the teacher's for the rounded image. The types are told in the file's metadata,
    where `datasets` reads them.

    Args:
        teacher: of the set; used in evaluation mode and left as it is.
        transfer_set: what is written.
        folder: absent or empty.

    Returns:
        `folder`.

    Raises:
        ZskdError: another teacher, the folder is not empty, the images are neither grey nor RGB, or pyarrow
            is not installed.
    """
    arrow = import_extra("pyarrow")
    from pyarrow import parquet

    folder = Path(folder)
    check_samples(teacher, transfer_set)
    schema = _schema(arrow, transfer_set.class_names)
    with whole_folder(folder) as temporary, readable_errors(folder, "write"):
        (temporary / "data").mkdir()
        for number, some in by_file(samples(teacher, transfer_set), IN_ONE_FILE):
            path = temporary / "data" / f"train-{number:05d}.parquet"
            with (  # the file is opened here: pyarrow cannot take a path that is no text in UTF-8
                path.open("wb") as stream,
                parquet.ParquetWriter(stream, schema, use_dictionary=["label"]) as writer,
            ):
                for _, group in by_file(some, _ROWS):
                    rows = [
                        {
                            "image": {"bytes": one.png, "path": f"{one.row:06d}.png"},
                            "label": one.label,
                            "target": one.target,
                            "logits": one.logits,
                        }
                        for one in group
                    ]
                    writer.write_table(arrow.Table.from_pylist(rows, schema=schema))
        write_text(temporary / README, dataset_card(transfer_set, columns(transfer_set), _READ))
    return folder


def _schema(arrow: Any, class_names: tuple[str, ...]) -> Any:
    """Return the schema of the files, with the types of `datasets` in its metadata."""
    numbers = arrow.list_(arrow.float32(), len(class_names))
    fields = {
        "image": arrow.struct({"bytes": arrow.binary(), "path": arrow.string()}),
        "label": arrow.int64(),
        "target": numbers,
        "logits": numbers,
    }
    value = {"dtype": "float32", "_type": "Value"}
    # known as `List` since version 4 of datasets, which reads this older name as well
    sequence = {"feature": value, "length": len(class_names), "_type": "Sequence"}
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(class_names), "_type": "ClassLabel"},
        "target": sequence,
        "logits": sequence,
    }
    told = {"huggingface": json.dumps({"info": {"features": features}})}
    return arrow.schema(fields, metadata=told)
