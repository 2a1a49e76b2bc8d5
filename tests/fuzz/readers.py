"""What reads files from outside: for each reader whole files to damage, and the way in."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import nn

from zskd.config.loading import load_recipe, to_yaml
from zskd.core.arrays import read_arrays
from zskd.core.artefact import read_artefact
from zskd.core.energy import StageEnergy
from zskd.core.reading import read_bytes
from zskd.core.remote import LIST, stored_files
from zskd.core.tensors import map_tensors, read_tensors
from zskd.core.timing import read_seconds
from zskd.data.folder import read_image
from zskd.data.idx import read_idx
from zskd.experiment.definition import EXPERIMENTS, load_experiment
from zskd.models.checkpoint import Card, load_checkpoint, read_card, save_checkpoint
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import Layers
from zskd.run.budget import BudgetFile
from zskd.run.metrics import read_metrics
from zskd.teacher.weights.reading import read_weights
from zskd.training.state import Done, load_state, save_state
from zskd.transfer_set.manifest import FORMAT, read_manifest
from zskd.tuning.journal import read_journal
from zskd.tuning.space import read_space

LAYERS = (
    ("Flatten", {"start_dim": 1, "end_dim": -1}),
    ("Linear", {"in_features": 4, "out_features": 2, "bias": True}),
)


@dataclass(frozen=True)
class Reader:
    """A way in for bytes."""

    name: str
    """Name of the file that is damaged."""
    whole: tuple[bytes, ...]
    """Files that are right."""
    read: Callable[[Path], object]
    """Reads the file; it may raise a `ZskdError` and nothing else."""
    is_text: bool = False


def _state(network: nn.Module) -> Callable[[Path], object]:
    return lambda path: load_state(path, "key", {"": (network, torch.optim.Adam(network.parameters()))})


def _bytes_of(write: Callable[[Path], object], folder: Path) -> bytes:
    path = folder / "whole"
    write(path)
    return path.read_bytes()


def _torch(value: object, *, old: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not old)
    return buffer.getvalue()


def _picture(kind: str, mode: str) -> bytes:
    buffer = io.BytesIO()
    pixels = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    image = (
        Image.fromarray(pixels)
        if mode == "F"
        else Image.fromarray((pixels * 255).astype(np.uint8)).convert(mode)
    )
    image.save(buffer, kind)
    return buffer.getvalue()


def _all_values(path: Path) -> None:
    for tensors in read_weights(path).candidates.values():
        for one in tensors.values():
            if one.obstacle is None:
                try:
                    one.read()
                except (ValueError, OSError):  # what `StoredTensor.read` may raise
                    continue


def make_readers(folder: Path) -> list[Reader]:
    """Return all readers.

    Args:
        folder: for what whole files are made of.
    """
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    classifier = Classifier(network, spec=InputSpec(shape=(1, 2, 2)), class_names=("a", "b"))
    checkpoint = save_checkpoint(classifier, Card(architecture=Layers(layers=LAYERS)), folder / "checkpoint")
    weights = {name: one.clone() for name, one in network.state_dict().items()}
    tensors = save(weights)
    arrays, packed = io.BytesIO(), io.BytesIO()
    values = {"inputs": np.zeros((1, 1, 2, 2), np.float32), "logits": np.zeros((1, 2), np.float32)}
    np.savez(arrays, **values)  # type: ignore[arg-type]
    np.savez_compressed(packed, **values)  # type: ignore[arg-type]
    idx = b"\0\0\x08\3" + struct.pack(">III", 2, 2, 2) + bytes(8)
    manifest = {
        "format": FORMAT, "complete": True, "count": 1, "mean_kl": 0.1, "mean_steps": 1.0,
        "anchor_match": 1.0, "class_names": ["a", "b"], "shape": [1, 2, 2],
        "spec": {"method": "zskd", "count": 1}, "teacher_sha256": "0" * 64, "versions": {}, "processor": {},
        "shards": [{"file": "shard-00000.safetensors", "count": 1, "sha256": "0" * 64, "mean_kl": 0.1,
                    "mean_steps": 1.0, "anchor_match": 1.0, "missed": 0}],
    }  # fmt: skip
    files = {"format": "zskd-files/1", "files": {"a/b": {"size": 1, "sha256": "0" * 64}}}
    text = json.dumps(manifest).encode()
    inside = io.BytesIO()
    with zipfile.ZipFile(inside, "w", zipfile.ZIP_DEFLATED) as archive:
        np.save(array := io.BytesIO(), values["inputs"])
        archive.writestr("a.npy", array.getvalue())
    trial = {
        "number": 0, "settings": {"distill.tau": 4.5}, "value": None, "measured": None, "error": "no disk",
        "key": "0" * 64, "repeats": None, "versions": {"optuna": "5.0.0"}, "processor": {"cores": 2},
        "commit": None,
    }  # fmt: skip
    space = b"distill.tau: {low: 1, high: 20.5, log: true}\nsynthesis.start: {choices: [shapes, smooth]}\n"
    state = _bytes_of(
        lambda path: save_state(
            path, "key", {"": (network, torch.optim.Adam(network.parameters()))}, Done([0.5, 0.4, 0.3])
        ),
        folder,
    )
    pictures = tuple(
        _picture(kind, mode)
        for kind, mode in (
            ("PNG", "L"), ("PNG", "RGBA"), ("PNG", "P"), ("JPEG", "RGB"), ("GIF", "P"), ("BMP", "RGB"),
            ("PPM", "RGB"), ("TIFF", "F"), ("TIFF", "L"), ("WEBP", "RGB"),
        )
    )  # fmt: skip
    return [
        Reader("a.yaml", (to_yaml(load_recipe("digits")).encode(), b"data: {name: digits}\nseed: 1\n"),
               load_recipe, is_text=True),
        Reader("b.yaml", ((EXPERIMENTS / "digits.yaml").read_bytes(),),
               lambda path: load_experiment(str(path)), is_text=True),
        Reader("space.yaml", (space,), lambda path: read_space(path, []), is_text=True),
        Reader("tuning.jsonl", (json.dumps(trial).encode() + b"\n",), read_journal, is_text=True),
        Reader("checkpoint/card.json", ((checkpoint / "card.json").read_bytes(),),
               lambda path: load_checkpoint(path.parent), is_text=True),
        Reader("card.json", ((checkpoint / "card.json").read_bytes(),), lambda path: read_card(path.parent),
               is_text=True),
        Reader("manifest.json", (text,), lambda path: read_manifest(path.parent), is_text=True),
        Reader(LIST, (json.dumps(files).encode(),),
               lambda path: stored_files(read_bytes(path, "a list"), "memory://a"), is_text=True),
        Reader("metrics.json", (b"{}", text), read_metrics, is_text=True),
        Reader("timings.json", (b'{"teacher": 1.5, "sets": 2}',), lambda path: read_seconds(path, "timings"),
               is_text=True),
        Reader("energy.json", (b'{"joules": {"teacher": 1.5}}',),
               lambda path: read_artefact(path, StageEnergy, "the energy", "delete it"), is_text=True),
        Reader("budget.json", (b'{"format": 1}',),
               lambda path: read_artefact(path, BudgetFile, "a budget", "delete it"), is_text=True),
        Reader("a.safetensors", (tensors,), read_tensors),
        Reader("b.safetensors", (tensors,), map_tensors),
        Reader("training.safetensors", (state,), _state(network)),
        Reader("a.pt", (_torch(weights), _torch({"state_dict": weights, "epoch": 3}),
                        _torch(weights, old=True), tensors, arrays.getvalue(),
                        packed.getvalue(), inside.getvalue()), _all_values),
        Reader("a.npz", (arrays.getvalue(), packed.getvalue()),
               lambda path: read_arrays(path, ("inputs", "logits"))),
        Reader("idx", (idx,), read_idx),
        Reader("packed.gz", (gzip.compress(idx),), lambda path: read_idx(path.with_suffix(""))),
        Reader("a.png", pictures, lambda path: read_image(path, (3, 8, 8))),
    ]  # fmt: skip
