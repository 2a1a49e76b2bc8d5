"""Pickles that want to run code, or to eat time and memory: nothing is run, and the end is one line.

Each disguise is checked against the standard machine first: what it does there is what must not happen here.
"""

import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from zskd.core.errors import ZskdError
from zskd.teacher.weights.matching import Fitted, fit_weights
from zskd.teacher.weights.reading import read_weights

NET = nn.Linear(3, 2)
COMMAND = b"touch ran"


def text(value: bytes) -> bytes:
    """A string of protocol 2."""
    return b"X" + struct.pack("<I", len(value)) + value


class Reduced:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.called = function, arguments

    def __reduce__(self) -> Any:
        return self.called


class WithState:
    """Changes an object that exists already: `collections` would get the attribute `pwned`."""

    def __reduce__(self) -> Any:
        return getattr, (sys.modules["collections"], "OrderedDict"), {"pwned": 1}


SYSTEM = b"cos\nsystem\n"
ARGUMENTS = b"(" + text(COMMAND) + b"t"
DISGUISES: dict[str, bytes] = {
    "REDUCE": b"\x80\x02" + SYSTEM + ARGUMENTS + b"R.",
    "REDUCE of protocol 0": b"cos\nsystem\n(S'touch ran'\ntR.",
    "STACK_GLOBAL": b"\x80\x04" + text(b"os") + text(b"system") + b"\x93" + ARGUMENTS + b"R.",
    "names made of memo": b"\x80\x04"
    + text(b"os")
    + b"\x940"
    + b"h\x00"
    + text(b"system")
    + b"\x93"
    + ARGUMENTS
    + b"R.",
    "INST": b"(S'touch ran'\nios\nsystem\n.",
    "OBJ": b"\x80\x02(" + SYSTEM + text(COMMAND) + b"o.",
    "BUILD with setstate": b"\x80\x02c__main__\nobject\n)R}"
    + text(b"__setstate__")
    + SYSTEM
    + b"sb"
    + text(COMMAND)
    + b"b.",
    "getattr": b"\x80\x02cbuiltins\ngetattr\n(cbuiltins\n__import__\n("
    + text(b"os")
    + b"tR"
    + text(b"system")
    + b"tR"
    + ARGUMENTS
    + b"R.",
    "eval": b"\x80\x02cbuiltins\neval\n(" + text(b"open('ran', 'w').close()") + b"tR.",
    "exec in a dict": b"\x80\x02}"
    + text(b"state_dict")
    + b"cbuiltins\nexec\n("
    + text(b"open('ran','w')")
    + b"tRs.",
    "key of a dict": b"\x80\x02}" + SYSTEM + ARGUMENTS + b"RNs.",
    "nested": pickle.dumps([{"a": ({"b": Reduced(os.system, "touch ran")},)}], 4),
    "second stage": pickle.dumps(Reduced(pickle.loads, pickle.dumps(Reduced(os.system, "touch ran"))), 2),
    "partial": pickle.dumps(Reduced(__import__("functools").partial(os.system, "touch ran")), 4),
    "subprocess": pickle.dumps(Reduced(subprocess.call, ["touch", "ran"]), 5),
    "iterators": pickle.dumps(Reduced(list, Reduced(map, os.system, ["touch ran"])), 4),
    "itemgetter": b"\x80\x02coperator\nattrgetter\n("
    + text(b"system")
    + b"tR(cimportlib\nimport_module\n("
    + text(b"os")
    + b"tRtR"
    + ARGUMENTS
    + b"R.",
    "dict items of a stub": b"\x80\x02ccollections\nChainMap\n)R" + text(b"x") + SYSTEM + ARGUMENTS + b"Rs.",
    "load of torch": b"\x80\x02ctorch.serialization\nload\n(" + text(b"inner.pt") + b"tR.",
    "storage of bytes": b"\x80\x02ctorch.storage\n_load_from_bytes\n(c_codecs\nencode\n("
    + text(b"\x80\x02cos\nsystem\n(")
    + text(b"latin1")
    + b"tRtR.",
    "tensor of a type": b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n("
    + SYSTEM
    + b"N"
    + ARGUMENTS
    + b"NtR.",
    "import of a module": b"\x80\x02cantigravity\nnothing\n.",
    "module of the folder": b"\x80\x02chostile_module\nrun\n)R.",
    "popped": b"\x80\x02" + SYSTEM + ARGUMENTS + b"R0N.",
}
"""Name -> pickle."""


def in_archive(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def in_old_format(data: bytes) -> bytes:
    head = [pickle.dumps(one, 2) for one in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return b"".join(head) + data + pickle.dumps([], 2)


def as_it_is(data: bytes) -> bytes:
    return data


def read(path: Path) -> Fitted:
    return fit_weights(NET, read_weights(path))


@pytest.fixture(autouse=True)
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("hostile_module.py").write_text("open('ran', 'w').close()\ndef run(): pass\n")
    torch.save({"x": Reduced(os.system, "touch ran")}, "inner.pt")


def test_the_disguises_are_real() -> None:
    """The standard machine runs most of them; the others are for what a careless reader would do."""
    run = 0
    for data in DISGUISES.values():
        subprocess.run(
            [sys.executable, "-c", "import sys, pickle; pickle.loads(sys.stdin.buffer.read())"],
            input=data,
            capture_output=True,
            check=False,
        ) if b"torch" not in data and b"antigravity" not in data else None
        run += Path("ran").exists()
        Path("ran").unlink(missing_ok=True)
    assert run >= 16


@pytest.mark.parametrize("wrap", [as_it_is, in_archive, in_old_format])
@pytest.mark.parametrize("name", list(DISGUISES))
def test_no_disguise_is_run_or_imported(name: str, wrap: Callable[[bytes], bytes]) -> None:
    path = Path("evil.pt")
    path.write_bytes(wrap(DISGUISES[name]))
    loaded = set(sys.modules)
    with pytest.raises(ZskdError) as refused:
        read(path)
    assert "\n" not in str(refused.value)
    assert not Path("ran").exists()
    new = {one for one in sys.modules if one not in loaded and not one.startswith("encodings.")}
    assert not new


def test_extension_codes_are_not_looked_up() -> None:
    """A program may have registered functions for codes; the standard machine calls them."""
    import copyreg

    copyreg.add_extension("os", "system", 0xF0)
    try:
        for code in (b"\x82\xf0", b"\x83\xf0\x00", b"\x84\xf0\x00\x00\x00"):
            data = b"\x80\x02" + code + ARGUMENTS + b"R."
            pickle.loads(data)
            assert Path("ran").exists()
            Path("ran").unlink()
            Path("evil.pt").write_bytes(data)
            with pytest.raises(ZskdError, match="names code, which was not run .copyreg extension 240"):
                read(Path("evil.pt"))
            assert not Path("ran").exists()
    finally:
        copyreg.remove_extension("os", "system", 0xF0)
        copyreg.clear_extension_cache()


def test_nothing_that_exists_is_changed() -> None:
    import collections

    Path("evil.pt").write_bytes(
        b"\x80\x02}"
        + text(b"a")
        + b"ccollections\nOrderedDict\n}"
        + text(b"pwned")
        + b"Nsb"
        + b"s"
        + text(b"b")
        + b"ctorch._utils\n_rebuild_tensor_v2\n}"
        + text(b"__defaults__")
        + b")sbs."
    )
    before = torch._utils._rebuild_tensor_v2.__defaults__
    with pytest.raises(ZskdError, match="no named tensors"):
        read(Path("evil.pt"))
    assert not hasattr(collections.OrderedDict, "pwned")
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before


@pytest.mark.parametrize("old", [False, True])
def test_weights_beside_code_are_read_and_the_code_is_named(old: bool) -> None:
    what = {"state_dict": NET.state_dict(), "hook": Reduced(os.system, "touch ran")}
    torch.save(what, "mixed.pt", _use_new_zipfile_serialization=not old)
    fitted = read(Path("mixed.pt"))
    assert torch.equal(fitted.tensors["weight"], NET.weight)
    assert "names code, which was not run: posix.system" in fitted.summary or os.name != "posix"
    assert not Path("ran").exists()


def tensor(shape: bytes, stride: bytes, first: bytes = b"K\x00", numel: bytes = b"K\x06") -> bytes:
    """A pickle with the tensor `weight`, in storage 0 of floats."""
    storage = b"(" + text(b"storage") + b"ctorch\nFloatStorage\n" + text(b"0") + text(b"cpu") + numel + b"tQ"
    return (
        b"\x80\x02}"
        + text(b"weight")
        + b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + first
        + shape
        + stride
        + b"\x89NtRs."
    )


def long(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


LIES = {
    "storage larger than its record": tensor(b"K\x02K\x03\x86", b"K\x03K\x01\x86", numel=long(2**40)),
    "tensor larger than its storage": tensor(b"K\x03K\x03\x86", b"K\x03K\x01\x86"),
    "huge strides": tensor(b"K\x02K\x03\x86", long(2**62) + b"K\x01\x86"),
    "huge shape": tensor(long(2**62) + b"K\x03\x86", b"K\x03K\x01\x86"),
    "shape of 2^63 and 0": tensor(long(2**63) + b"K\x00\x86", b"K\x00K\x00\x86"),
    "negative offset": tensor(b"K\x02K\x03\x86", b"K\x03K\x01\x86", first=long(-1)),
    "negative stride": tensor(b"K\x02K\x03\x86", long(-3) + b"K\x01\x86"),
    "text as shape": tensor(text(b"23"), b"K\x03K\x01\x86"),
    "boolean as size": tensor(b"\x88K\x03\x86", b"K\x03K\x01\x86"),
    "many dimensions": tensor(b"(" + 100 * b"K\x01" + b"t", b"(" + 100 * b"K\x01" + b"t"),
    "unlike dimensions": tensor(b"K\x02K\x03\x86", b"K\x01\x85"),
    "no storage": b"\x80\x02}" + text(b"w") + b"ctorch._utils\n_rebuild_tensor_v2\n(NNNNttRs.",
    "outside": b"\x80\x02" + text(b"other file") + b"Q.",
    "outside, text": b"Pother file\n.",
}


@pytest.mark.parametrize("name", list(LIES))
def test_a_tensor_holds_no_more_than_its_file(name: str) -> None:
    buffer = io.BytesIO(in_archive(LIES[name]))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("archive/data/0", bytes(24))
    for data in (buffer.getvalue(), in_old_format(LIES[name])):
        Path("lie.pt").write_bytes(data)
        with pytest.raises(ZskdError, match=r"is no complete|another architecture|it refers"):
            read(Path("lie.pt"))


def shared_lists(levels: int) -> bytes:
    """A list of two that are the same, and so on: 2^levels if it were unfolded."""
    return b"\x80\x02]q\x00" + levels * b"]q\x01(h\x00h\x00eq\x00" + b"."


def module_bomb(levels: int) -> bytes:
    """Modules that each hold one module twice."""
    start = b"\x80\x02cnn\nM\n)\x81}(" + text(b"_parameters") + b"}" + text(b"_modules") + b"}ubq\x00"
    modules = b"}(" + text(b"a") + b"h\x00" + text(b"b") + b"h\x00u"
    level = b"cnn\nM\n)\x81}(" + text(b"_parameters") + b"}" + text(b"_modules") + modules + b"ubq\x00"
    return start + levels * level + b"."


def colliding(count: int) -> bytes:
    """Keys of one hash for the standard machine."""
    return b"\x80\x02}(" + b"".join(long(i * (2**61 - 1)) + b"N" for i in range(1, count)) + b"u."


def copies(count: int) -> bytes:
    """The same megabyte made into bytes again and again."""
    encode = b"c_codecs\nencode\nq\x01" + text(bytes(1 << 20)) + b"q\x02" + text(b"latin1") + b"q\x03]"
    return b"\x80\x02" + encode + count * b"h\x01h\x02h\x03\x86Ra" + b"."


BOMBS: dict[str, Callable[[], bytes]] = {
    "shared lists": lambda: shared_lists(60),
    "nested lists": lambda: b"\x80\x02]" + 100_000 * b"]" + 100_000 * b"a" + b".",
    "nested tuples": lambda: b"\x80\x02N" + 100_000 * b"\x85" + b".",
    "nested tuple as key": lambda: b"\x80\x02}N" + 100_000 * b"\x85" + b"Ns.",
    "shared tuple as key": lambda: b"\x80\x02}N" + 60 * b"q\x00h\x00\x86" + b"Ns.",
    "nested stubs": lambda: b"\x80\x02ca\nb\nq\x000N" + 50_000 * b"q\x010h\x00h\x01\x85R" + b".",
    "stub as function": lambda: b"\x80\x02ca\nb\n" + 100_000 * b")R" + b".",
    "list in itself": lambda: b"\x80\x02]q\x00h\x00a.",
    "dict in itself": lambda: b"\x80\x02}q\x00" + text(b"a") + b"h\x00s.",
    "modules": lambda: module_bomb(60),
    "module in itself": lambda: (
        b"\x80\x02cnn\nM\n)\x81q\x00}("
        + text(b"_parameters")
        + b"}"
        + text(b"_modules")
        + b"}"
        + text(b"a")
        + b"h\x00sub."
    ),
    "colliding keys": lambda: colliding(40_000),
    "long text number": lambda: b"L" + 200_000 * b"9" + b"L\n.",
    "long number": lambda: b"\x80\x02\x8b" + struct.pack("<i", 400_000) + 400_000 * b"\x7f" + b".",
    "negative length": lambda: b"\x80\x02\x8b" + struct.pack("<i", -5) + b".",
    "text of 2^60": lambda: b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"x.",
    "bytes of 2^33": lambda: b"\x80\x05\x96" + struct.pack("<Q", 2**33) + b"x.",
    "memo of 2^31": lambda: b"\x80\x02Nr\xff\xff\xff\x7f.",
    "copies": lambda: copies(3000),
    "empty stack": lambda: b"\x80\x020000.",
    "no mark": lambda: b"\x80\x02NNt.",
    "buffer": lambda: b"\x80\x05\x97.",
    "unknown instruction": lambda: b"\x80\x02\xff.",
    "no end": lambda: b"\x80\x02N",
    "mark below": lambda: b"\x80\x02]q\x00" + 100_000 * b"(" + b"e.",
}


READ_ALL = """
import resource, sys, time
from pathlib import Path
from torch import nn
from zskd.core.errors import ZskdError
from zskd.teacher.weights.matching import fit_weights
from zskd.teacher.weights.reading import read_weights
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(Path().glob("*.bomb")):
    begun = time.process_time()
    try:
        fit_weights(nn.Linear(3, 2), read_weights(path))
    except ZskdError as error:
        line = str(error)
        assert line.isprintable() and len(line) < 500, line
        print(path.stem, time.process_time() - begun, sep="\\t")
print("kilobytes", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start, sep="\\t")
"""
"""Run in a process of its own, without the checker of types, which takes more time than the reader."""


def test_a_bomb_ends_soon_in_one_line() -> None:
    for name, make in BOMBS.items():
        Path(f"{name}.bomb").write_bytes(in_archive(make()))
    done = subprocess.run([sys.executable, "-c", READ_ALL], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told = {name: float(value) for name, value in (line.split("\t") for line in done.stdout.splitlines())}
    assert told.pop("kilobytes") < 400_000
    assert len(told) == len(BOMBS)
    assert max(told.values()) < 10, told


def test_random_damage_ends_in_one_line_or_in_the_weights() -> None:
    """Bytes of good files changed at random: never another exception, never an endless read."""
    import random

    rng, lines = random.Random(0), []
    torch.save({"state_dict": NET.state_dict()}, "new.pt")
    torch.save({"state_dict": NET.state_dict()}, "old.pt", _use_new_zipfile_serialization=False)
    Path("plain.pkl").write_bytes(pickle.dumps({"w": {n: v.numpy() for n, v in NET.state_dict().items()}}))
    for name in ("new.pt", "old.pt", "plain.pkl"):
        good = Path(name).read_bytes()
        for _ in range(60):
            data = bytearray(good)
            for _ in range(rng.randint(1, 4)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            Path("damaged").write_bytes(data[: rng.randint(1, len(data))] if rng.random() < 0.2 else data)
            try:
                read(Path("damaged"))
            except ZskdError as error:
                lines.append(str(error))
    assert all("\n" not in line for line in lines)
    assert len(lines) > 50
