"""What the student minimises, by the names of `LOSSES`.

Order of arguments: a function of two networks takes the teacher first, everywhere in this package. A function
of the outputs of two networks takes the student's first: (input, target), as every loss of
`torch.nn.functional` does. Most are not symmetric: `kl` is KL(T ‖ S).
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from zskd.config.distillation import DistillConfig
from zskd.core.types import Logits

Loss = Callable[[Logits, Logits, DistillConfig], Tensor]
"""(student's logits (N, K), teacher's logits (N, K), settings) → scalar, averaged over the batch."""


def kl(student: Logits, teacher: Logits, config: DistillConfig) -> Tensor:
    """τ²·KL(softmax(T/τ) ‖ softmax(S/τ)) in nats  (Hinton et al. 2015; τ² only with `tau_squared`).

    Its gradient is that of the cross-entropy in the ZSKD paper; its value is 0 for S = T.
    """
    divergence = F.kl_div(
        F.log_softmax(student / config.tau, dim=1),
        F.log_softmax(teacher / config.tau, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return divergence * config.tau**2 if config.tau_squared else divergence


def l1(student: Logits, teacher: Logits, config: DistillConfig) -> Tensor:
    """Mean absolute difference of the logits  (DFAD, Fang et al. 2019, equation 3)."""
    return F.l1_loss(student, teacher)


def mse(student: Logits, teacher: Logits, config: DistillConfig) -> Tensor:
    """Mean squared difference of the logits  (Ba and Caruana 2014)."""
    return F.mse_loss(student, teacher)


def ce(student: Logits, teacher: Logits, config: DistillConfig) -> Tensor:
    """Cross-entropy with the class that the teacher predicts, in nats."""
    return F.cross_entropy(student, teacher.argmax(1))


def divergences(student: Logits, teacher: Logits) -> Tensor:
    """Return KL(T ‖ S) at τ = 1 of each image in nats (N,), at least 0."""
    log_s, log_t = F.log_softmax(student, dim=1), F.log_softmax(teacher, dim=1)
    return F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(1)
