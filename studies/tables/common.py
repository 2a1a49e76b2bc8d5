"""What the tables of several pages share."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

TITLES = {"digits": "digits", "mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}
"""Of the data sets, in the order of the pages."""


def shown_picture(words: str, file: str, drawn_of: Any) -> str:
    """The picture's place, and a hash of what it shows, by which a stale one is known."""
    digest = sha256(json.dumps(drawn_of).encode()).hexdigest()[:16]
    return f"![{words}](images/{file})\n<!-- drawn of {digest} -->"
