"""A new method in one file, compared with a control over seeds; the table is computed from the records.

    python examples/researcher.py

The method gives the target of each image to two classes that are alike.
"""

from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import numpy as np

import zskd


@dataclass(frozen=True, kw_only=True)
class Pairs(zskd.Method):
    """A target is shared by the class of the image and the class that is most like it."""

    share: float = 0.7
    """Probability of the class of the image, 0.5 to 1."""

    def targets(self, teacher, entries, config, *, seed):
        """Return a target for each entry of the plan (N, K)."""
        alike = zskd.class_similarity(teacher.head.weight) - 2 * np.eye(teacher.classes)
        y = np.zeros((len(entries), teacher.classes), dtype=np.float32)
        for row, entry in enumerate(entries):
            y[row, entry.anchor] = self.share
            y[row, alike[entry.anchor].argmax()] = 1 - self.share
        return y

    def objective(self, config):
        """Return what the optimisation of an image minimises."""
        return zskd.match_targets(config)


def run(folder: Path, seed: int, *, count: int = 400, steps: int = 400, epochs: int = 20) -> zskd.RunMetrics:
    """Train a teacher and the students of one seed; a finished run is read from its folder."""
    settings = {
        "method": f"{Path(__file__).resolve()}:Pairs",
        "controls": ("noise_shapes",),
        "seed": seed,
        "count": count,
        "distill": {"steps": steps},
        "teacher": {"epochs": epochs},
    }
    return zskd.run_recipe(zskd.load_recipe("digits", settings), folder / str(seed))


def table(records: list[zskd.RunMetrics]) -> str:
    """Return mean and standard deviation of the test accuracy of each arm."""
    lines = ["| pictures | test accuracy, % | n |", "|---|---|---|"]
    for arms in zip(*(record.arms for record in records), strict=True):
        found = [arm.test_accuracy.percent for arm in arms]
        spread = f" ± {stdev(found):.1f}" if len(found) > 1 else ""
        lines.append(f"| {arms[0].title} | {mean(found):.1f}{spread} | {len(found)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table([run(Path("runs/researcher"), seed) for seed in range(3)]))
