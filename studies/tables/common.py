"""What the tables of several pages share."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

TITLES = {"digits": "digits", "mnist": "MNIST", "fashion-mnist": "Fashion-MNIST"}
"""Of the data sets, in the order of the pages."""


def shown_picture(text: str, file: str, data: Any) -> str:
    """Return the Markdown of a picture, with a hash of its data: a stale picture has another hash."""
    digest = sha256(json.dumps(data).encode()).hexdigest()[:16]
    return f"![{text}](images/{file})\n<!-- drawn of {digest} -->"
