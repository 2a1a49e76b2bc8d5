"""ZSKT: a generator looks for images whose answers by student and teacher diverge.

Micaelli, Storkey: "Zero-shot Knowledge Transfer via Adversarial Belief Matching", NeurIPS 2019,
arXiv:1905.09768. Every setting of their program is in recipes/presets/zskt.yaml.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from zskd.core.types import Logits


def zskt(student: Logits, teacher: Logits) -> Tensor:
    """Return what the generator makes small: −KL(T ‖ S) at τ = 1  (equation 1)."""
    return -F.kl_div(
        F.log_softmax(student, dim=1), F.log_softmax(teacher, dim=1), reduction="batchmean", log_target=True
    )
