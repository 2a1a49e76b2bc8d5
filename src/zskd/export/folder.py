"""A network as a folder that needs only torch: its code, its weights, and an example."""

from __future__ import annotations

import runpy
from pathlib import Path

from zskd.core.files import whole_folder, write_text
from zskd.core.tensors import save_tensors
from zskd.core.types import Images
from zskd.export.check import Comparison, check_pictures, compare
from zskd.export.recording import record
from zskd.export.source import Source, model_file, other_constants, read_source
from zskd.export.templates import EXAMPLE_FILE
from zskd.models.classifier import Classifier
from zskd.models.exported import Description

MODEL, WEIGHTS, CONSTANTS, EXAMPLE = "model.py", "model.safetensors", "constants.safetensors", "example.py"


def export_torch(
    classifier: Classifier, folder: str | Path, *, title: str = "A network", images: Images | None = None
) -> Comparison:
    """Write a network as a folder that needs only torch and safetensors, for any number of images.

    `model.py` holds the operations that torch.export recorded, `model.safetensors` the weights with their
    names in the network, and `example.py` classifies a picture; it also needs Pillow. Constants of more than
    a few values lie in `constants.safetensors`. The code is run and compared with the network before the
    folder gets its name.

    Args:
        classifier: not changed.
        folder: absent or empty.
        title: of the network, for people.
        images: to compare on (N, C, H, W) in [0, 1]; 1,000 random shapes when absent, 64 if they are large.

    Returns:
        The comparison.

    Raises:
        ZskdError: the folder is not empty or cannot be written, the network cannot be exported or has an
            operation that is none of torch itself, or the folder's logits differ by more than rounding.
    """
    pictures = check_pictures(classifier, images)
    source = read_source(record(classifier))
    with whole_folder(Path(folder)) as temporary:
        write_network(source, Description.of(classifier), title, temporary)
        read = runpy.run_path(str(temporary / MODEL))["load"]()
        return compare(read, classifier, pictures, what=str(folder))


def write_network(source: Source, description: Description, title: str, folder: Path) -> None:
    """Write `model.py`, `example.py` and the tensors of a network.

    Args:
        source: its code and tensors.
        description: of the network.
        title: of the network, for people.
        folder: an existing one.
    """
    save_tensors(source.weights, folder / WEIGHTS, {"format": "pt"})
    if large := other_constants(source):
        save_tensors(large, folder / CONSTANTS)
    write_text(folder / MODEL, model_file(source, description, title))
    write_text(folder / EXAMPLE, EXAMPLE_FILE)
