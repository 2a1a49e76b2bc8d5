"""Damaged files of every kind end in a value or in one line; `make fuzz` tries a hundred thousand of them."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.__main__ import ending
from fuzz.damage import damaged
from fuzz.readers import Reader, make_readers
from zskd.core.errors import ZskdError

NAMES = (
    *(
        "a.yaml",
        "b.yaml",
        "space.yaml",
        "tuning.jsonl",
        "checkpoint/card.json",
        "card.json",
        "manifest.json",
        "zskd-files.json",
        "metrics.json",
        "timings.json",
        "energy.json",
    ),
    *("budget.json", "a.safetensors", "b.safetensors", "training.safetensors", "a.pt", "a.npz", "idx"),
    *("packed.gz", "a.png"),
)
NO_WHOLE_ONE = ("metrics.json", "budget.json")
"""Their readers are tried with files that are never right."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def readers(folder: Path) -> dict[str, Reader]:
    return {one.name: one for one in make_readers(folder)}


def test_every_reader_is_tried(readers: dict[str, Reader]) -> None:
    assert tuple(readers) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_whole_files_are_read(name: str, readers: dict[str, Reader], folder: Path) -> None:
    for data in readers[name].whole:
        (folder / name).write_bytes(data)
        if name in NO_WHOLE_ONE:
            with pytest.raises(ZskdError):
                readers[name].read(folder / name)
        else:
            readers[name].read(folder / name)


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_end_in_one_line(name: str, readers: dict[str, Reader], folder: Path) -> None:
    reader = readers[name]

    @settings(max_examples=40, derandomize=True, database=None)
    @given(st.integers(0, 2**31))
    def try_one(number: int) -> None:
        (folder / name).write_bytes(damaged(reader.whole, number, is_text=reader.is_text))
        assert not ending(reader, folder / name).startswith("failed")

    try_one()


@pytest.mark.parametrize("name", NAMES)
def test_any_bytes_end_in_one_line(name: str, readers: dict[str, Reader], folder: Path) -> None:
    reader = readers[name]

    @settings(max_examples=10, derandomize=True, database=None)
    @given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
    def try_one(data: bytes) -> None:
        (folder / name).write_bytes(data)
        assert not ending(reader, folder / name).startswith("failed")

    try_one()
