"""Boundary pairs: two images on both sides of the teacher's decision, a short way apart.

Frank, Davis: "What Makes a Good Dataset for Knowledge Distillation?", CVPR 2025, arXiv:2411.12817. The steps
are those of Heo, Lee, Yun, Choi: "Knowledge Distillation with Adversarial Samples Supporting Decision
Boundary", AAAI 2019, arXiv:1805.05532, and of DeepFool (Moosavi-Dezfooli et al. 2016).
docs/methods/boundary.md lists every difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from zskd.config.synthesis import SynthesisConfig
from zskd.core.precision import computing_in
from zskd.core.types import Images, Labels, Logits, PerSample
from zskd.models.classifier import Classifier
from zskd.synthesis.inversion.lanes import InversionBatch
from zskd.synthesis.inversion.objective import ForwardPass, Objective, Term
from zskd.synthesis.methods.base import OF_DESCENT, OF_DIRICHLET, Method, no_targets
from zskd.synthesis.plan import PlanEntry

_LEAST = 1e-12
"""Least squared gradient that a step is divided by."""


@final
@dataclass(frozen=True)
class Margin(Term):
    """z_a − max_{j≠a} z_j, the lead of the predicted class a."""

    def __call__(self, forward: ForwardPass) -> PerSample:
        """Return the lead for each image (N,)."""
        return _margin(forward.logits, forward.logits.argmax(1))


@final
@dataclass(frozen=True, kw_only=True)
class Boundary(Method):
    """Images 2j and 2j + 1: start image j, moved just before the decision and just beyond it."""

    by_objective: ClassVar[bool] = False
    images_per_start: ClassVar[int] = 2
    differs_finely: ClassVar[bool] = True
    ignores: ClassVar[frozenset[str]] = OF_DESCENT | OF_DIRICHLET

    halvings: int = 4
    """How often the way between both images of a pair is halved, after the steps."""
    overshoot: float = 0.3
    """How much longer a step is than to the decision, if the teacher were linear, as a share."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        self.check_range("halvings", "overshoot", low=0)

    targets = no_targets

    def objective(self, config: SynthesisConfig) -> Objective:
        """Return the lead of the predicted class, which the steps lower below 0."""
        return 1 * Margin()

    def passes_of_start(self, config: SynthesisConfig) -> int:
        """Return the passes for a pair: those of `both_sides`."""
        return 2 * config.steps + 2 + self.halvings

    def make(
        self,
        teacher: Classifier,
        entries: Sequence[PlanEntry],
        batch: InversionBatch,
        config: SynthesisConfig,
        *,
        on_progress: Callable[[int], None] | None = None,
    ) -> tuple[Images, Tensor]:
        """Make both images of each pair once, in batches of one size, because bits depend on the size."""
        pairs = [entry.index // 2 for entry in entries]
        first = {pair: row for row, pair in reversed(list(enumerate(pairs)))}
        places = {pair: place for place, pair in enumerate(first)}
        parts = []
        for part in torch.split(batch.starts[list(first.values())], config.batch_size):
            padded = F.pad(part, (0, 0) * 3 + (0, config.batch_size - len(part)))
            with computing_in("float32"):  # as the labels of both sides are
                sides = self.both_sides(teacher, padded.to(teacher.device), config.steps)
            parts.append(torch.stack(sides, 1)[: len(part)].cpu())
        made = torch.cat(parts)[[places[pair] for pair in pairs], [entry.index % 2 for entry in entries]]
        if on_progress is not None:
            on_progress(len(made))
        return made, torch.full((len(made),), config.steps, dtype=torch.int32)

    def both_sides(self, teacher: Classifier, starts: Images, steps: int) -> tuple[Images, Images]:
        """Return each start image moved just before the teacher's decision, and just beyond it.

        The first of the two is of the class that is predicted for the start image. So is the second, where
        the steps do not reach the decision.

        Args:
            teacher: frozen, in evaluation mode.
            starts: (N, C, H, W) in the box.
            steps: of the way across.
        """
        low, high = teacher.spec.box
        starts = starts.clamp(low, high)
        own, beyond = teacher(starts).argmax(1), starts
        for _ in range(steps):
            leaf = beyond.detach().requires_grad_(True)
            with torch.enable_grad():
                margin = _margin(teacher(leaf), own)
                (gradient,) = torch.autograd.grad(margin.sum(), leaf)
            # a pixel at the end of the box that would leave it takes no part in the step
            held = torch.where(gradient > 0, beyond <= low, beyond >= high)
            gradient = torch.where(held, 0.0, gradient)
            length = (
                (1 + self.overshoot) * margin.detach() / gradient.square().sum((1, 2, 3)).clamp_min(_LEAST)
            )
            length = torch.where(margin.detach() < 0, 0.0, length)  # an image that is across stays
            beyond = (beyond - length.view(-1, 1, 1, 1) * gradient).clamp(low, high)
        before = starts
        across = (teacher(beyond).argmax(1) != own).view(-1, 1, 1, 1)
        for _ in range(self.halvings):
            middle = (before + beyond) / 2
            same = (teacher(middle).argmax(1) == own).view(-1, 1, 1, 1)
            before = torch.where(across & same, middle, before)
            beyond = torch.where(across & ~same, middle, beyond)
        return before, beyond


def _margin(logits: Logits, own: Labels) -> PerSample:
    """Return z_a − max_{j≠a} z_j for a class a of each image (N,)."""
    others = logits.scatter(1, own[:, None], -torch.inf).amax(1)
    return logits.gather(1, own[:, None])[:, 0] - others
