"""Draw the sheet of start images of docs/pictures.md.

python studies/pictures.py
"""

from __future__ import annotations

import torch
from PIL import Image
from torch.nn.functional import interpolate, pad

from records import ROOT
from zskd.synthesis.inversion.initial import draw_initial

SHEET = ROOT / "docs" / "images" / "pictures.png"
ROWS = (
    "procedural",
    "procedural",
    "dead_leaves",
    "textures",
    "fractals",
    "waves",
    "gradients",
    "shapes",
    "smooth",
)
COLUMNS, SCALE = 16, 2


def draw_sheet() -> None:
    """Write one row of pictures per kind."""
    rows = []
    for number, kind in enumerate(ROWS):
        indices = range(number * COLUMNS, (number + 1) * COLUMNS)
        images = draw_initial(kind, indices, seed=0, shape=(3, 32, 32), box=(0.0, 1.0))
        large = interpolate(images, scale_factor=SCALE, mode="nearest")
        rows.append(torch.cat(list(pad(large, (1, 1, 1, 1), value=1.0)), dim=2))
    sheet = (torch.cat(rows, dim=1).permute(1, 2, 0) * 255).round().byte().numpy()
    Image.fromarray(sheet).quantize(256).save(SHEET, optimize=True)
    print(f"saved in {SHEET}")


if __name__ == "__main__":
    draw_sheet()
