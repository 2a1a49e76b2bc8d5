"""Which test images a network gets right, as one short string of a record."""

from __future__ import annotations

import base64

import numpy as np
from jaxtyping import Bool

from zskd.errors import ZskdError

Hits = Bool[np.ndarray, "_"]
"""One truth value per test image, in the order of the test set. Two of them need not be equally long."""


def pack_hits(mask: Hits) -> str:
    """Return the hits as base64 of eight images per byte, the first image in the highest bit."""
    return base64.b64encode(np.packbits(mask).tobytes()).decode("ascii")


def unpack_hits(text: str, n: int) -> Hits:
    """Return the n hits (n,) that `pack_hits` made the text of.

    A length is only known to the byte, so that an n too large by less than eight can go unnoticed.

    Raises:
        ZskdError: the text is damaged or not that of n hits.
    """
    try:
        packed = np.frombuffer(base64.b64decode(text), dtype=np.uint8)
    except ValueError:
        raise ZskdError("the record's hits are damaged: they are no base64; measure again") from None
    if n < 0 or len(packed) != -(-n // 8):
        raise ZskdError(f"the record's hits are {len(packed)} bytes, which do not hold {n} images")
    mask = np.unpackbits(packed, count=n).astype(bool)
    if pack_hits(mask) != text:  # strange letters, or a bit set behind the last image
        raise ZskdError(f"the record's hits are damaged, or not those of {n} images; measure again")
    return mask
