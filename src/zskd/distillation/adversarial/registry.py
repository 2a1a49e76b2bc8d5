"""Generator methods by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from zskd.core.types import Logits
from zskd.distillation.adversarial.dfad import dfad
from zskd.distillation.adversarial.zskt import zskt

Rule = Callable[[Logits, Logits], Tensor]
"""(student's logits, teacher's logits) → what a generator that plays against the student makes small."""
GENERATOR_METHODS: dict[str, Rule] = {"dfad": dfad, "zskt": zskt}
