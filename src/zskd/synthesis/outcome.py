"""The outcome of a synthesis: how many images were optimised, how many of them missed, how many are noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.manifest import PICTURES, REAL


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Counts of a set, and facts of its optimised images alone: those of noise are right by definition."""

    optimised: int
    """Images that were optimised, dropped ones included."""
    missed: int
    """Of these, images that took all their steps without meeting their target."""
    dropped: int
    """Of these, images that were dropped."""
    others: int
    """Images that were not optimised."""
    kind: str
    """What the others are: noise or real."""
    mean_kl: float | None
    """Mean KL(y ‖ softmax(T(x)/τ)) of the optimised images in the set, in nats; None without any."""
    anchor_match: float | None
    """Share of these for which the teacher predicts the class that they were made for."""

    @property
    def all_missed(self) -> bool:
        """Whether every optimised image missed its target."""
        return 0 < self.optimised == self.missed

    @property
    def words(self) -> str:
        """The counts: "100 optimised, 100 missed; 400 noise"."""
        parts = []
        if self.optimised:
            dropped = f", {self.dropped:,} dropped" if self.dropped else ""
            parts.append(f"{self.optimised:,} optimised, {self.missed:,} missed{dropped}")
        if self.others or not parts:
            parts.append(f"{self.others:,} {self.kind}")
        return "; ".join(parts)


def outcome_of(made: TransferSet) -> Outcome:
    """Return the outcome of a complete set."""
    manifest = made.manifest
    dropped = manifest.dropped or 0
    optimised = made.column("steps") > 0
    kl = made.column("kl")[optimised]
    predicted = torch.cat([shard["logits"].argmax(1) for shard in made.stored()])  # logits may need gigabytes
    right = (predicted == made.labels)[optimised].float()
    return Outcome(
        optimised=len(kl) + dropped,
        missed=manifest.missed or 0,
        dropped=dropped,
        others=len(made) - len(kl),
        kind="real" if manifest.method in (REAL, PICTURES) else "noise",
        mean_kl=float(kl.mean()) if len(kl) else None,
        anchor_match=float(right.mean()) if len(kl) else None,
    )
