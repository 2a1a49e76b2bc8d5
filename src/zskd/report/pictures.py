"""Images as parts of a page: PNG files inside of it, and marks of a drawing."""

from __future__ import annotations

import base64
from io import BytesIO, StringIO

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

_LARGEST = 96
"""Pixels of the longer side; larger images are reduced, so that the page stays small."""


def data_uri(image: Tensor) -> str:
    """Return an image (C, H, W) in [0, 1] of any number of channels as a PNG file in the text of a page.

    Of two channels, or of more than three, the mean is shown.
    """
    channels = image.detach().cpu()
    if len(channels) not in (1, 3):
        channels = channels.mean(0, keepdim=True)
    pixels = (255 * channels.clamp(0, 1)).round().byte().numpy()
    pixels = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if max(picture.size) > _LARGEST:
        picture.thumbnail((_LARGEST, _LARGEST))
    stream = BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def svg_of(figure: Figure, text: str) -> Markup:
    """Return a figure as an element of a page.

    Args:
        figure: to be drawn.
        text: what it shows, for those who do not see it.
    """
    stream = StringIO()
    # letters stay text, which the page's reader can find
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "zskd"}):
        figure.savefig(stream, format="svg", bbox_inches="tight", metadata={"Date": None})
    drawn = stream.getvalue()
    inside = drawn[drawn.index("<svg ") + len("<svg ") :]
    return Markup('<svg role="img" aria-label="{}" ').format(text) + Markup(inside)
