"""What the tables of several pages share."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

from zskd.evaluation.statistics import Summary

TITLES = {"digits": "digits", "mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}
"""Of the data sets, in the order of the pages."""


def shown_picture(text: str, file: str, data: Any) -> str:
    """Return the Markdown of a picture, with a hash of its data: a stale picture has another hash."""
    digest = sha256(json.dumps(data).encode()).hexdigest()[:16]
    return f"![{text}](images/{file})\n<!-- drawn of {digest} -->"


def in_words(found: Summary, *, count: bool = True) -> str:
    """Return a mean with one digit; where there are several seeds with their spread, and their number."""
    if found.n == 1:
        return f"{found.mean:.1f}"
    return f"{found.mean:.1f} ± {found.deviation:.1f}" + (f" (n = {found.n})" if count else "")
