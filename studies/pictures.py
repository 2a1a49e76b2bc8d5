"""Draw the sheet of start images for docs/pictures.md, and tell which classes a teacher predicts for them.

    python studies/pictures.py
    python studies/pictures.py --teacher resnet20@resnet20-12fca82f.th \\
        --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225

With a teacher, a line per start image and number of candidates goes to results/pictures.json: the shares of
the classes that it predicts for 1,000 pictures, and their entropy.
"""

from __future__ import annotations

import argparse

import torch
from PIL import Image
from torch.nn.functional import interpolate, pad

from records import RESULTS, ROOT
from zskd.config.synthesis import SynthesisConfig
from zskd.core.files import write_json
from zskd.core.versions import source_commit
from zskd.synthesis.inversion.initial import draw_initial
from zskd.synthesis.shard import make_shard
from zskd.synthesis.spec import SetSpec
from zskd.teacher.opening import open_teacher
from zskd.transfer_set.manifest import class_entropy

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
MEASURED = ("shapes", "smooth", "procedural")
COUNT = 1000
CANDIDATES = (1, 4, 8)


def main() -> None:
    """Draw the sheet, or measure a teacher."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", help="as for `zskd inspect`; of 3×32×32 pixels")
    parser.add_argument("--mean", type=float, nargs="+")
    parser.add_argument("--std", type=float, nargs="+")
    arguments = parser.parse_args()
    if arguments.teacher is None:
        draw_sheet()
    else:
        measure(arguments.teacher, arguments.mean, arguments.std)


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


def measure(source: str, mean: list[float] | None, std: list[float] | None) -> None:
    """Record the shares of the predicted classes for each start image and number of candidates."""
    given = {key: tuple(value) for key, value in (("mean", mean), ("std", std)) if value is not None}
    teacher, *_ = open_teacher(source, shape=(3, 32, 32), **given)
    lines = []
    for kind in MEASURED:
        for candidates in CANDIDATES:
            synthesis = SynthesisConfig(start=kind, candidates=candidates, shard_size=COUNT)
            shard = make_shard(teacher, SetSpec(method="noise", count=COUNT, synthesis=synthesis), 0)
            predicted = torch.bincount(shard.logits.argmax(1), minlength=teacher.classes).tolist()
            confidence = float(shard.logits.softmax(1).amax(1).mean())
            lines.append(
                {
                    "start": kind,
                    "candidates": candidates,
                    "predicted": predicted,
                    "entropy": class_entropy(predicted),
                    "confidence": confidence,
                }
            )
            print(lines[-1], flush=True)
    record = {"teacher": teacher.fingerprint(), "commit": source_commit(), "images": COUNT, "lines": lines}
    write_json(RESULTS / "pictures.json", record)


if __name__ == "__main__":
    main()
