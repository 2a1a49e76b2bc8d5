"""DFAD: a generator looks for images on which the student's logits are far from the teacher's.

Fang, Song, Shen, Wang, Chen, Song: "Data-Free Adversarial Distillation", 2019, arXiv:1912.11006. Every
setting of their MNIST program is in recipes/presets/dfad.yaml.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from zskd.core.types import Logits


def dfad(student: Logits, teacher: Logits) -> Tensor:
    """Return what the generator makes small: −|S − T|, averaged over images and classes  (equation 4)."""
    return -F.l1_loss(student, teacher)
