"""Files that somebody else wrote, by kind: each ends in one line and exit code 2, and nothing is changed.

Numbers are those of the list of inputs that broke version 0.1.0:

 2  unit/test_files.py: only names that this run wrote are deleted
 3  test_what_verify_accepts_can_be_used
 4  test_pixels_that_are_no_pixels
 5  test_weights_that_overflow
 6  test_sanity.py: answers that depend on chance or on the batch
 7, 10  test_cards_that_lie, test_manifests_that_lie
 8  test_weights_files.py: damaged MATLAB files
 9  test_settings_that_are_no_settings
11  test_safetensors_that_lie; test_weights_files.py: meta, float8 and nested tensors
12  test_arrays_that_lie
13  test_idx_files_that_lie
14  test_what_a_killed_run_left_may_be_damaged
15  test_what_is_no_file_does_not_hang, test_names_that_are_no_text
16  test_own_code_does_not_take_the_name_of_another
17  test_any_encoding_of_the_terminal
19  test_what_the_system_refuses_is_told
20  test_a_recipe_may_not_run_code_that_nobody_named
21  test_downloads_are_checked
22  test_floors_are_above_known_advisories
23  test_import_takes_the_lock
"""

import gzip
import io
import json
import os
import re
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from safetensors.torch import load_file, save_file

from zskd.cli.main import main as run
from zskd.config.yaml import parse_yaml
from zskd.core.arrays import read_arrays
from zskd.core.code import import_object
from zskd.core.errors import ZskdError
from zskd.core.files import sha256_file
from zskd.core.stdio import Lasting
from zskd.core.tensors import map_tensors, read_tensors
from zskd.data import download
from zskd.data.folder import read_folder, read_image
from zskd.data.idx import read_idx
from zskd.experiment.definition import load_experiment
from zskd.models.checkpoint import load_checkpoint
from zskd.run.metrics import read_metrics
from zskd.run.verify import verify_folder
from zskd.synthesis.spec import read_spec
from zskd.teacher.weights.reading import read_weights
from zskd.training.state import Done, load_state, save_state
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.manifest import read_manifest

Values = dict[str, Any]


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must end in one line and code 2; return the line."""
    assert run([*map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert error.isprintable() or error[:-1].isprintable()
    return error


def changed(folder: Path, file: str, change: Callable[[Values], object]) -> None:
    values = json.loads((folder / file).read_text("utf-8"))
    change(values)
    (folder / file).write_text(json.dumps(values), encoding="utf-8")


YAML = {
    "bomb": "a0: &a0 [1, 1]\n"
    + "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(9)),
    "inside itself": "seed: &a [*a]",
    "nowhere": "seed: *a",
    "date": "seed: 2001-99-99",
    "date that is one": "seed: 2001-01-01",
    "no digits": "seed: 0x_",
    "no bits": "seed: 0b_",
    "digits": f"seed: {'9' * 5000}",
    "sixties": "seed: " + "1:" * 900 + "1",
    "large": f"count: {'9' * 400}",
    "deep": "seed: " + "[" * 100_000,
    "deep groups": "\n".join(" " * i + "a:" for i in range(300)),
    "type": "seed: !!timestamp x",
    "other type": "seed: !!bool x",
    "object": "seed: !!python/object/apply:os.system [true]",
    "twice": "seed: 1\nseed: 2",
    "twice inside": "distill: {steps: 1, steps: 2}",
    "key": "? [a]\n: 1",
    "escape": 'name: "\\e[31m"',
    "half": 'name: "\\ud800"',
    "bytes": "seed: !!binary aGk=",
}


@pytest.mark.parametrize("kind", YAML)
def test_settings_that_are_no_settings(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(YAML[kind], encoding="utf-8")
    assert "bad.yaml" in told(capsys, "run", "bad.yaml", "--out", "made")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]
    if "deep" not in kind:  # and as the recipe inside the folder of a run
        (tmp_path / "made" / "teacher").mkdir(parents=True)
        shutil.copy("bad.yaml", "made/recipe.yaml")
        with pytest.raises(ZskdError):
            parse_yaml(Path("made/recipe.yaml").read_bytes(), "recipe")


@pytest.mark.parametrize("value", ["9" * 400, "9" * 5000, "-" + "9" * 30, "1e400", "nan"])
def test_numbers_of_the_command_line(value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--count", "--seed", "--distill.steps", "--distill.learning-rate"):
        told(capsys, "run", "digits", f"{option}={value}", "--out", tmp_path / "made")
    assert not (tmp_path / "made").exists()


CARDS: dict[str, Callable[[Values], object]] = {
    "classes": lambda card: card["architecture"].update(classes=10**12),
    "negative": lambda card: card["architecture"].update(classes=-3),
    "size": lambda card: card["architecture"].update(size=10**7),
    "infinite size": lambda card: card["architecture"].update(size=float("inf")),
    "shape": lambda card: card["input"].update(shape=[1, 2**40, 2**40]),
    "large shape": lambda card: card["input"].update(shape=[1, 30_000, 30_000]),
    "mean": lambda card: card["input"].update(mean=[10**400]),
    "std": lambda card: card["input"].update(std=[1e-300]),
    "device": lambda card: card.update(
        architecture={"layers": [["Linear", {"in_features": 4, "out_features": 2, "device": "cuda"}]]}
    ),
    "large layer": lambda card: card.update(
        architecture={"layers": [["Linear", {"in_features": 10**9, "out_features": 1000}]]}
    ),
    "large norm": lambda card: card.update(
        architecture={"layers": [["BatchNorm2d", {"num_features": 10**11}]]}
    ),
    "numbers as names": lambda card: card.update(class_names=[*range(10)]),
    "halves as names": lambda card: card.update(class_names=["\ud800", *"123456789"]),
    "escapes as names": lambda card: card.update(class_names=["\x1b[31m", *"123456789"]),
    "reversing names": lambda card: card.update(class_names=["\u202e", *"123456789"]),
    "empty names": lambda card: card.update(class_names=["", *"123456789"]),
    "origin": lambda card: card.update(origin=[1]),
    "origin's seed": lambda card: card.update(origin={"seed": "x"}),
    "origin's text": lambda card: card.update(origin={"how": "\x1b]0;x\x07"}),
    "library": lambda card: card.update(
        architecture={"timm": "resnet18", "arguments": {"num_classes": 10**10}}
    ),
    "nested": lambda card: card.update(origin=[[[[[[]]]]]]),
}


@pytest.mark.parametrize("kind", CARDS)
def test_cards_that_lie(
    kind: str, teacher_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(teacher_folder, tmp_path / "teacher")
    changed(folder, "card.json", CARDS[kind])
    told(capsys, "inspect", folder)
    with pytest.raises(ZskdError):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[" * 100_000, b'{"a": 1, "a": 2}', b'{"a": "\\ud800"}', b"\xff\xfe", b"1", b'{"a": 1e999}'],
)
def test_json_that_is_none(text: bytes, teacher_folder: Path, small_set: TransferSet, tmp_path: Path) -> None:
    for source, file, read in (
        (teacher_folder, "card.json", load_checkpoint),
        (small_set.folder, "manifest.json", read_manifest),
    ):
        folder = shutil.copytree(source, tmp_path / file)
        (folder / file).write_bytes(text)
        with pytest.raises(ZskdError, match="card|manifest"):
            read(folder)


MANIFESTS: dict[str, Callable[[Values], object]] = {
    "no spec": lambda one: one.update(spec={}),
    "negative count": lambda one: one.update(count=-1),
    "no images": lambda one: one.update(count=0, shards=[]),
    "no shards": lambda one: one.update(shards=[]),
    "wrong count": lambda one: one["shards"][0].update(count=one["shards"][0]["count"] + 1),
    "both counts": lambda one: (
        one["shards"][0].update(count=one["shards"][0]["count"] + 1),
        one.update(count=one["count"] + 1),
    ),
    "empty names": lambda one: one.update(class_names=["", *"123456789"]),
    "too few names": lambda one: one.update(class_names=["a", "b"]),
    "not complete": lambda one: one.pop("complete"),
    "path": lambda one: one["shards"][0].update(file="../shard-00000.safetensors"),
    "shape": lambda one: one.update(shape=[1, 2**40, 1]),
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_manifests_that_lie(
    kind: str, small_set: TransferSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(small_set.folder, tmp_path / "set")
    changed(folder, "manifest.json", MANIFESTS[kind])
    told(capsys, "verify", folder)
    told(capsys, "show", "samples", folder, "--out", tmp_path / "samples.png")
    assert not (tmp_path / "samples.png").exists()


@pytest.mark.parametrize(
    "spec", [{"method": "zskd"}, {"method": "nowhere", "count": 1}, {"method": "zskd", "count": 0}]
)
def test_settings_of_a_manifest_that_lie(spec: Values) -> None:
    with pytest.raises(ZskdError):
        read_spec(spec)


TENSORS: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]] = {
    "NaN": lambda one: {"images": one["images"] * float("nan")},
    "not in [0, 1]": lambda one: {"images": one["images"] + 1},
    "integers": lambda one: {"images": one["images"].int()},
    "anchors": lambda one: {"anchors": one["anchors"] + 10},
    "negative anchors": lambda one: {"anchors": one["anchors"] - 11},
    "targets": lambda one: {"targets": one["targets"] * 2},
    "NaN targets": lambda one: {"targets": one["targets"] * float("nan")},
    "infinite logits": lambda one: {"logits": one["logits"] * float("inf")},
    "a row less": lambda one: {name: value[:-1] for name, value in one.items()},
}


@pytest.mark.parametrize("kind", TENSORS)
def test_what_verify_accepts_can_be_used(
    kind: str, small_set: TransferSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(small_set.folder, tmp_path / "set")
    shard = folder / small_set.manifest.shards[0].file
    tensors = load_file(shard)
    save_file({name: one.contiguous() for name, one in (tensors | TENSORS[kind](tensors)).items()}, shard)
    changed(folder, "manifest.json", lambda one: one["shards"][0].update(sha256=sha256_file(shard)))
    told(capsys, "verify", folder)
    with pytest.raises(ZskdError, match="make the set again"):
        TransferSet(folder)


@pytest.mark.parametrize(
    "spec",
    [
        {"method": "zskd", "method_settings": 7},
        {"method": "nobodys"},
        {"count": "many"},
        {"synthesis": []},
        {"targets": 5},
        {"targets": {"spread": 1}, "method": "soft_targeted", "method_settings": 7},
        {"distill": {"attention": 1}},
    ],
    ids=str,
)
def test_settings_that_verify_accepts_can_be_read(
    spec: dict[str, Any], small_set: TransferSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(small_set.folder, tmp_path / "set")
    changed(folder, "manifest.json", lambda one: one["spec"].update(spec))
    assert "has settings that cannot be read" in told(capsys, "verify", folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_weights_that_overflow(value: float, teacher_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(teacher_folder, tmp_path / "teacher")
    weights = {name: one.double() for name, one in load_file(folder / "model.safetensors").items()}
    weights[next(iter(weights))].view(-1)[0] = value
    save_file(weights, folder / "model.safetensors")
    changed(
        folder,
        "card.json",
        lambda card: card.update(weights_sha256=sha256_file(folder / "model.safetensors")),
    )
    for use in (verify_folder, load_checkpoint):
        with pytest.raises(ZskdError, match="not finite|float32 cannot hold"):
            use(folder)


def safetensors(header: object, body: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
SAFETENSORS = {
    "empty": b"",
    "no header": b"\0" * 8,
    "long header": safetensors({}, length=2**63),
    "no object": safetensors([]),
    "huge and empty": safetensors({"a": ENTRY | {"shape": [2**63, 0], "data_offsets": [0, 0]}}),
    "negative": safetensors({"a": ENTRY | {"shape": [-1]}}, b"\0" * 4),
    "offsets": safetensors({"a": ENTRY | {"data_offsets": [4, 0]}}, b"\0" * 4),
    "beyond": safetensors({"a": ENTRY | {"shape": [2], "data_offsets": [0, 8]}}, b"\0" * 4),
    "overlap": safetensors({"a": ENTRY, "b": ENTRY}, b"\0" * 4),
    "left over": safetensors({"a": ENTRY}, b"\0" * 8),
    "many dimensions": safetensors({"a": ENTRY | {"shape": [1] * 100}}, b"\0" * 4),
    "text as shape": safetensors({"a": ENTRY | {"shape": "1"}}, b"\0" * 4),
    "bomb": safetensors({"a": ENTRY | {"shape": [2**40], "data_offsets": [0, 2**42]}}),
    "metadata": safetensors({"__metadata__": {"a": 1}, "a": ENTRY}, b"\0" * 4),
    "deep": safetensors({}, b"", 0)[:8] + b"{" * 1000,
}


@pytest.mark.parametrize("kind", SAFETENSORS)
def test_safetensors_that_lie(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(SAFETENSORS[kind])
    for read in (read_tensors, map_tensors, read_weights):
        with pytest.raises(ZskdError):
            read(tmp_path / "a.safetensors")


def npy(header: str, body: bytes = b"", version: bytes = b"\1\0") -> bytes:
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header.encode() + body


def npz(data: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("inputs.npy", data)
        archive.writestr("logits.npy", data)
    return buffer.getvalue()


HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 2, 2), }\n"
WHOLE = npz(npy(HEADER, b"\0" * 16), zipfile.ZIP_DEFLATED)
ARRAYS = {
    "empty": b"",
    "no archive": b"PK\3\4",
    "no array": npz(b"hello"),
    "huge": npz(npy(HEADER.replace("(1, 1", "(10**9, 10**9"))),
    "huge number": npz(npy(HEADER.replace("(1, 1", "(1000000000, 1000000000"))),
    "longer": npz(npy(HEADER, b"\0" * 17)),
    "shorter": npz(npy(HEADER, b"\0" * 15)),
    "negative": npz(npy(HEADER.replace("(1, 1", "(-1, -1"), b"\0" * 16)),
    "objects": npz(npy(HEADER.replace("<f4", "|O"), b"\0" * 16)),
    "odd version": npz(npy(HEADER, b"\0" * 16, b"\7\7")),
    "long header": npz(npy("{" + " " * 60_000 + "}")),
    "damaged stream": WHOLE[:45] + b"\xff\xff\xff" + WHOLE[48:],
    "odd zip version": WHOLE.replace(b"PK\1\2\x14\3\x14\0", b"PK\1\2\x14\3\xff\0"),
    "unknown method": WHOLE.replace(b"\x08\0", b"\x63\0"),
    "cut": WHOLE[:-10],
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_that_lie(
    kind: str, teacher_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "golden.npz"
    file.write_bytes(ARRAYS[kind])
    with pytest.raises(ZskdError):
        read_arrays(file, ("inputs", "logits"))
    weights = teacher_folder / "model.safetensors"
    told(capsys, "teacher", "import", weights, "--golden", file, "--out", tmp_path / "made")
    assert not (tmp_path / "made").exists()


def idx(*sizes: int, body: bytes = b"", dimensions: int | None = None) -> bytes:
    count = len(sizes) if dimensions is None else dimensions
    return b"\0\0\x08" + bytes([count]) + b"".join(struct.pack(">I", size) for size in sizes) + body


IDX = {
    "wraps to 0": idx(2**31, 2**31, 4),
    "dimensions": idx(*[1] * 200, body=b"\0"),
    "no height": idx(5, 0, 28),
    "no sizes": idx(dimensions=3),
    "larger": idx(2, 2, 2, body=b"\0" * 9),
    "smaller": idx(2, 2, 2, body=b"\0" * 7),
    "huge": idx(2**31),
    "empty": b"",
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", IDX)
def test_idx_files_that_lie(kind: str, packed: bool, tmp_path: Path) -> None:
    (tmp_path / ("a.gz" if packed else "a")).write_bytes(gzip.compress(IDX[kind]) if packed else IDX[kind])
    with pytest.raises(ZskdError):
        read_idx(tmp_path / "a")


def test_a_packed_file_is_read_as_far_as_its_header_tells(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.gz", "wb", compresslevel=1) as stream:
        stream.write(idx(2, 2, 2))
        for _ in range(64):
            stream.write(bytes(1 << 20))
    with pytest.raises(ZskdError, match="more than 8 values"):
        read_idx(tmp_path / "a")


@pytest.mark.parametrize("values", [[[np.nan]], [[2.0]], [[-1.0]], [[np.inf]]])
def test_pixels_that_are_no_pixels(values: list[list[float]], tmp_path: Path) -> None:
    Image.fromarray(np.array(values, np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(ZskdError, match="fractions in 0 to 1"):
        read_image(tmp_path / "a.tiff", (1, 1, 1))


def test_fractions_are_read_as_fractions(tmp_path: Path) -> None:
    pixels = np.array([[0, 0.25], [0.5, 1]], np.float32)
    Image.fromarray(pixels).save(tmp_path / "a.tiff")
    assert np.abs(read_image(tmp_path / "a.tiff", (1, 2, 2))[0] - pixels).max() <= 1 / 255


def test_a_picture_is_what_its_name_can_be(tmp_path: Path) -> None:
    """Pillow would start Ghostscript for this one."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(ZskdError, match="no readable picture"):
        read_image(tmp_path / "a.png", (1, 1, 1))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_what_is_no_file_does_not_hang(
    teacher_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "a.yaml", "a.npz", "a.pt", "a.onnx"):
        os.mkfifo(tmp_path / name)
    folder = shutil.copytree(teacher_folder, tmp_path / "teacher")
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(ZskdError, match="pipe"):
        read_image(tmp_path / "a.png", (1, 1, 1))
    with pytest.raises(SystemExit):
        run(["predict", str(teacher_folder), str(tmp_path / "a.png")])
    assert "pipe" in capsys.readouterr().err
    told(capsys, "run", tmp_path / "a.yaml")
    told(capsys, "verify", folder)
    told(capsys, "inspect", folder)
    told(capsys, "teacher", "import", tmp_path / "a.pt", "--out", tmp_path / "made")
    told(capsys, "golden", teacher_folder, "--inputs", tmp_path / "a.npz")


@pytest.mark.skipif(sys.platform != "linux", reason="needs names of any bytes")
@pytest.mark.parametrize("name", [b"\xff\xfe", b"\x1b[31m"])
def test_names_that_are_no_text(name: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    for one in (b"a", name):
        folder = data / os.fsdecode(one)
        folder.mkdir(parents=True)
        for number in range(2):
            Image.new("L", (8, 8)).save(folder / f"{number}.png")
    assert "rename it" in told(
        capsys, "teacher", "train", "--data.name", "folder", "--data-dir", data, "--out", tmp_path / "made"
    )
    assert not (tmp_path / "made" / "model.safetensors").exists()
    with pytest.raises(ZskdError):
        read_folder(data, ("a", "b"), (1, 8, 8))


def test_what_a_killed_run_left_may_be_damaged(tmp_path: Path) -> None:
    network = torch.nn.Linear(2, 2)
    path = tmp_path / "training.safetensors"
    optimiser = torch.optim.Adam(network.parameters())
    save_state(path, "key", {"": (network, optimiser)}, Done([0.5, 0.4, 0.3]))
    whole = path.read_bytes()
    assert load_state(path, "key", {"": (network, optimiser)}).losses == [0.5, 0.4, 0.3]
    for data in (b"", whole[:-1], whole.replace(b"weights", b"wrights"), whole.replace(b"losses", b"lossen")):
        path.write_bytes(data)
        with pytest.raises(ZskdError, match=r"training.safetensors.*delete it"):
            load_state(path, "key", {"": (network, optimiser)})
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(ZskdError, match="delete it"):
        read_metrics(tmp_path / "metrics.json")


NET = "from torch import nn\nimport beside\nopen('ran', 'w').close()\ndef Net(): return beside.net()\n"


def test_own_code_does_not_take_the_name_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(torch.nn.Linear(2, 2).state_dict(), "net.pt")
    for name in ("copy", "sqlite3", "filelock", "psutil"):
        (tmp_path / f"{name}.py").write_text(NET)
        before = sys.modules.get(name)
        assert "rename the file" in told(
            capsys, "inspect", "net.pt", "--model", f"{name}.py:Net", "--shape", "1", "2", "2"
        )
        assert sys.modules.get(name) is before
    assert not Path("ran").exists()


def test_any_encoding_of_the_terminal() -> None:
    for encoding in ("latin-1", "ascii", "utf-8"):
        buffer = io.BytesIO()
        stream = Lasting(io.TextIOWrapper(buffer, encoding=encoding))
        stream.write("β τ² \ud800\n")
        stream.flush()
        assert buffer.getvalue().endswith(b"\n")


def test_what_the_system_refuses_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import errno

    for error, words in (
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (ImportError("libtorch_cpu.so: failed to map segment"), "memory"),
        (MemoryError(), "memory"),
    ):

        def refuse(*_: object, error: BaseException = error, **__: object) -> None:
            raise error

        monkeypatch.setattr("zskd.run.verify.verified", refuse)
        assert words in told(capsys, "verify", ".")


CODE = "import pathlib\npathlib.Path('ran').touch()\ndef build(): raise SystemError\n"
PLACES = {
    "student": "student: {}\n",
    "students": "students: [half, {}]\n",
    "teacher": "teacher: {{model: {}}}\n",
    "method": "method: {}\n",
    "start": "synthesis: {{start: {}}}\n",
    "source": 'teacher: {{path: "{}@net.pt"}}\n',
}


@pytest.mark.parametrize("code", ["stranger.py:build", "os.path:join"])
@pytest.mark.parametrize("place", PLACES)
def test_a_recipe_may_not_run_code_that_nobody_named(
    place: str,
    code: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("stranger.py").write_text(CODE)
    Path("stranger.yaml").write_text("data: {name: digits}\n" + PLACES[place].format(code))
    for verb in (("run", "stranger.yaml"), ("synthesize", "none", "--recipe", "stranger.yaml")):
        assert f"--trust {code}" in told(capsys, *verb, "--out", "made")
    assert not Path("ran").exists()
    assert not Path("made").exists()


@pytest.mark.parametrize(
    "text",
    [
        'method: "stranger.py:1"',
        'method: "narrow:build"',
        'method: "timm:build"',
        'method: "my files/stranger.py:build"',
        'method: "my stranger:build"',
        'student: "stranger.py:build.x"',
        'synthesis: {start: "ray:build"}',
        'distill: {loss: "budget:build"}',
        'distill: {generator: {share: 0.5, method: "hf:build"}}',
        'distill: {features: {loss: "my stranger:build", weight: 1}}',
        'teacher: {path: "stranger.py:build.x@net.pt"}',
        'teacher: {model: "hf:build"}',
        'students: ["half", "onnx:build"]',
    ],
)
def test_no_name_of_code_slips_through(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my files").mkdir()
    names = ("stranger", "narrow", "timm", "my files/stranger", "my stranger", "ray", "budget", "hf", "onnx")
    for name in names:
        Path(f"{name}.py").write_text(CODE)
    Path("stranger.yaml").write_text(f"data: {{name: digits}}\n{text}\n")
    assert "--trust" in told(capsys, "run", "stranger.yaml", "--out", "made")
    assert not Path("ran").exists()


def test_a_name_that_is_none_is_refused_before_the_file_runs(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    for name in ("1", "", "build.x", "two words"):
        with pytest.raises(ZskdError, match="is no name of a function or class"):
            import_object(f"{tmp_path / 'own.py'}:{name}")
    assert not (tmp_path / "ran").exists()


def test_code_that_was_named_may_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("stranger.py").write_text("def build(x): pass\n")
    Path("stranger.yaml").write_text("data: {name: digits}\nstudent: stranger.py:build\n")
    for named in (["--trust", "stranger.py:build"], ["--student", "stranger.py:build"]):
        assert run(["run", "stranger.yaml", *named, "--print-config"]) == 0
        assert "stranger.py:build" in capsys.readouterr().out
    assert "--trust" in told(capsys, "run", "stranger.yaml", "--trust", "another.py:build", "--print-config")


def test_an_experiment_may_name_no_recipe_that_has_no_file_name(tmp_path: Path) -> None:
    """Found by `make fuzz`."""
    (tmp_path / "e.yaml").write_text(f"name: e\nrecipe: {'a' * 300}\n", encoding="utf-8")
    with pytest.raises(ZskdError, match="File name too long"):
        load_experiment(str(tmp_path / "e.yaml"))


def test_downloads_are_checked() -> None:
    for name, mirrors in download._MIRRORS.items():
        assert all(one.startswith("https://") for one in mirrors)
        assert all(re.fullmatch("[0-9a-f]{64}", one) for one in download._SHA256[name].values())


def test_floors_are_above_known_advisories() -> None:
    """The table of docs/security.md, which names the advisories, against what pip is asked for."""
    root = Path(__file__).parents[2]
    page = (root / "docs" / "security.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| (\w+) \| ([\d.]+) \| .*(?:CVE-|release notes)", page, flags=re.MULTILINE))
    assert len(told) >= 7
    asked = re.findall(r'"(\w+)>=([\d.]+)"', (root / "pyproject.toml").read_text(encoding="utf-8"))
    assert {name: floor for name, floor in asked if name in told} == told
    assert {floor for name, floor in asked if name == "onnx"} == {told["onnx"]}


def test_import_takes_the_lock(
    teacher_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "made").mkdir()
    weights = teacher_folder / "model.safetensors"
    with FileLock(tmp_path / "made" / ".lock"):
        assert "in use" in told(capsys, "teacher", "import", weights, "--out", tmp_path / "made")
    assert [one.name for one in (tmp_path / "made").iterdir()] in ([], [".lock"])


def test_an_export_replaces_nothing(
    teacher_folder: Path, small_set: TransferSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for source, to, name in ((teacher_folder, "pt2", "a.pt2"), (small_set.folder, "mat", "a.mat")):
        (tmp_path / name).write_text("mine")
        assert "is there already" in told(capsys, "export", source, "--to", to, "--out", tmp_path / name)
        assert (tmp_path / name).read_text() == "mine"
