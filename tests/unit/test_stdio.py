"""Streams that a command outlives."""

import io
import os
from pathlib import Path

import pytest

from zskd.core.stdio import Lasting


def test_text_goes_on_to_the_stream() -> None:
    stream = io.StringIO()
    assert Lasting(stream).write("x\n") == 2
    assert stream.getvalue() == "x\n"
    assert Lasting(None).write("x") == 1
    assert not Lasting(None).isatty()


def test_a_pipe_without_reader_is_silent_and_stays_so_behind_the_wrapper() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    lasting = Lasting(stream)
    lasting.write("lost")
    lasting.flush()
    assert lasting.lost is None
    print("as well", file=stream, flush=True)
    stream.close()  # raises where the text is still to be written
    lasting.write("a closed stream, too")
    lasting.flush()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_remembered() -> None:
    with open("/dev/full", "w") as stream:  # noqa: PTH123
        lasting = Lasting(stream)
        print("lost", file=lasting, flush=True)
        print("lost", file=lasting, flush=True)
    assert lasting.lost is not None
    assert lasting.lost.strerror == "No space left on device"


@pytest.mark.parametrize(
    ("encoding", "written"),
    [("ascii", rb"\u03b2 = \xb2"), ("latin1", b"\\u03b2 = \xb2"), ("utf-8", "β = ²".encode())],
)
def test_characters_that_the_encoding_lacks_are_escaped(encoding: str, written: bytes) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    Lasting(stream).write("β = ²")
    Lasting(stream).write("\udcff")
    assert stream.buffer.getvalue() == written + rb"\udcff"  # type: ignore[attr-defined]
