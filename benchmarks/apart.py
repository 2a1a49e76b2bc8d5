"""Measurements in processes of their own, told as they are made."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

_Result = TypeVar("_Result")


def run_apart(measure: Callable[..., _Result], *arguments: Any) -> _Result:
    """Run a measurement in a new process, so that it does not depend on memory and threads of others."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def log(text: str) -> None:
    """Print one line without buffering."""
    print(text, flush=True)
