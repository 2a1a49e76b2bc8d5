"""A program: write the arrays of plain numbers in a MATLAB file to standard output, as an `.npz`.

scipy's reader crashes on some damaged files, so it runs in this process alone, with little memory. The
program imports nothing of zskd.
"""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np

_LARGEST = 1 << 28
"""Bytes of all arrays; those of LeNet-5 are a quarter of a million."""
_MEMORY = 1 << 32
"""Bytes of address space."""


def main(path: str) -> int:
    """Write the arrays and return 0, or one line on standard error and 2."""
    _limit_memory()
    from scipy.io import loadmat

    try:
        found: dict[str, Any] = loadmat(path)
    except Exception as error:  # scipy raises many kinds for a damaged file
        print(" ".join(str(error).split()) or type(error).__name__, file=sys.stderr)
        return 2
    arrays = {name: one for name, one in found.items() if isinstance(one, np.ndarray)}
    plain = {name: one for name, one in arrays.items() if one.dtype.kind in "fiub"}
    if sum(one.nbytes for one in plain.values()) > _LARGEST:
        print("it is larger than any file of the reproduction", file=sys.stderr)
        return 2
    memory = io.BytesIO()
    np.savez(memory, **plain)  # type: ignore[arg-type]
    sys.stdout.buffer.write(memory.getvalue())
    return 0


def _limit_memory() -> None:
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
