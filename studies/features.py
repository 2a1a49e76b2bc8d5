"""Does a loss of features help a student, and which statistics of batch-norm fit it?

    python studies/features.py digits --out runs/features
    python studies/features.py cifar --teacher resnet20-12fca82f.th --data cifar10/train --out runs/features

Writes results/features.json. Measured is agreement with the teacher on real training images that no student
sees. On digits each loss has three weights, the first that of a public comparison of such losses (Tian et al.
2020, arXiv:1910.10699); CIFAR-10 takes the best of them unchanged. The control has the same teacher's logits,
but features of an untrained network of the same architecture, whose batch-norm has taken its statistics on
the set. Statistics of batch-norm are taken again on the students without such a loss.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor, nn

from records import RESULTS, Line, read_lines, write_lines
from small import DIGITS, Setting, cifar, digits, timed
from zskd.config.distillation import DistillConfig, FeaturesConfig
from zskd.config.transforms import AugmentConfig
from zskd.core.device import processor
from zskd.core.rng import torch_stream
from zskd.core.versions import source_commit, versions
from zskd.data.transforms import augment
from zskd.distillation.batch_norm import take_statistics
from zskd.models.classifier import Classifier

RECORD = RESULTS / "features.json"
SEEDS = (0, 1, 2)
WEIGHTS = {"attention": 1000.0, "fitnets": 100.0, "similarity": 3000.0}
"""In the code of Tian et al. 2020, for means of squares as here."""
PARTS = (1.0, 0.1, 0.01)
"""Parts of these weights that are tried on digits."""
SHARES = {"as they are": 0.0, "half augmented": 0.5, "augmented": 1.0}
"""Images of the set that statistics are taken on -> share of the default's augmentation."""
STATISTICS_IMAGES, PART = 2000, 500


class OtherFeatures(nn.Module):
    """A network with its own logits whose layers end before those of another network at each resolution."""

    def __init__(self, network: nn.Module, features_of: nn.Module) -> None:
        super().__init__()
        self.network, self.features_of = network, features_of

    def forward(self, images: Tensor) -> Tensor:
        """Return the first network's logits (N, K) for images (N, C, H, W)."""
        logits: Tensor = self.network(images)
        self.features_of(images)
        return logits


def augmentation(config: DistillConfig, share: float) -> AugmentConfig:
    """Return the augmentation of a training, with a share of its maps and mixtures."""
    own = config.augment
    return replace(own, share=share * own.share, mixup=share * own.mixup, cutmix=share * own.cutmix)


def after_training(setting: Setting, student: Classifier, seed: int) -> dict[str, float]:
    """Return the agreement with the statistics of the training, and with those of three kinds of images."""
    found = {"running": setting.agreement(student)}
    for name, share in SHARES.items():
        rng = torch_stream(seed, "study", 0)
        rows = torch.randperm(len(setting.images), generator=rng)[:STATISTICS_IMAGES]
        change, box = augmentation(setting.config, share), student.spec.box
        parts = (setting.images.images(part) for part in torch.split(rows, PART))
        take_statistics(student, [augment(part, change, box, rng) for part in parts])
        found[name] = setting.agreement(student)
    return found


def untrained_features(setting: Setting) -> Classifier:
    """Return the setting's teacher with the features of an untrained network."""
    other = Classifier(setting.untrained(), spec=setting.teacher.spec).freeze()
    take_statistics(other, [setting.images.images(torch.arange(min(STATISTICS_IMAGES, len(setting.images))))])
    both = OtherFeatures(setting.teacher.module, other.module)
    return Classifier(both, spec=setting.teacher.spec).freeze()


def best_weights(lines: Sequence[Line]) -> dict[str, float]:
    """Return for each loss the weight with the highest mean agreement."""
    found: dict[str, dict[float, list[float]]] = {loss: {} for loss in WEIGHTS}
    for line in lines:
        if line.get("features_of") == "teacher":
            found[line["arm"]].setdefault(line["weight"], []).append(line["agreement"])
    return {
        loss: max(weights, key=lambda weight: mean(weights[weight]))
        for loss, weights in found.items()
        if weights
    }


def lines_of(setting: Setting, weights: Mapping[str, Sequence[float]]) -> Iterator[Line]:
    """Train the students of a setting, one after the other, and yield their lines."""
    for seed in SEEDS:
        plain = setting.train(seed, setting.config)
        for statistics, found in after_training(setting, plain, seed).items():
            yield {"arm": "off", "statistics": statistics, "seed": seed, "agreement": found}
        fixed = setting.train(seed, replace(setting.config, batch_norm="fixed"))
        yield {"arm": "off", "statistics": "fixed", "seed": seed, "agreement": setting.agreement(fixed)}
    control = setting.like(untrained_features(setting))
    for loss, tried in weights.items():
        lines = []
        for weight in tried:
            for seed in SEEDS:
                lines.append(trained(setting, "teacher", loss, weight, seed))
                yield lines[-1]
        best = best_weights(lines)[loss]
        yield from (trained(control, "untrained network", loss, best, seed) for seed in SEEDS)


def trained(setting: Setting, whose: str, loss: str, weight: float, seed: int) -> Line:
    """Train a student with a loss of features and return its line."""
    config = replace(setting.config, features=FeaturesConfig(loss=loss, weight=weight))

    def work() -> Line:
        student = setting.train(seed, config)
        return {"arm": loss, "weight": weight, "features_of": whose, "agreement": setting.agreement(student)}

    return timed(work) | {"statistics": "running", "seed": seed}


def main() -> None:
    """Train, and write the lines of a setting in place of its former ones."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("setting", choices=("digits", "cifar"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, help="weights of the ResNet-20")
    parser.add_argument("--data", type=Path, help="training images, a folder for each class")
    parser.add_argument("--steps", type=int, default=250)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.setting == "digits":
        setting = digits(given.out, given.steps)
        weights = {loss: [part * most for part in PARTS] for loss, most in WEIGHTS.items()}
    elif given.teacher is None or given.data is None:
        parser.error("cifar needs --teacher and --data")
    else:
        setting = cifar(given.out, given.teacher, given.data, given.steps)
        of_digits = [line for line in read_lines(RECORD) if line["setting"] == DIGITS]
        weights = {loss: [weight] for loss, weight in best_weights(of_digits).items()}
    shared = {
        "setting": setting.name,
        "steps": given.steps,
        "batch_size": setting.config.batch_size,
        "held_out": len(setting.held_out),
        "command": f"python studies/features.py {given.setting} --steps {given.steps}",
        "commit": source_commit(),
        "versions": versions(),
        "processor": processor(),
    }
    kept = [line for line in read_lines(RECORD) if line["setting"] != setting.name]
    made: list[Line] = []
    for line in lines_of(setting, weights):
        made.append(line | shared)
        write_lines(RECORD, kept + made)
        print(line, flush=True)


if __name__ == "__main__":
    main()
