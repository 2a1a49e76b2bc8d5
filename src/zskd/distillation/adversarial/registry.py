"""Generator methods by name."""

from __future__ import annotations

from zskd.distillation.adversarial.base import GeneratorMethod
from zskd.distillation.adversarial.dfad import DFAD
from zskd.distillation.adversarial.zskt import ZSKT

GENERATOR_METHODS: dict[str, type[GeneratorMethod]] = {"dfad": DFAD, "zskt": ZSKT}
