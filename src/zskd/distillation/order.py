"""The order in which a student is shown its transfer set, by how sure the teacher is of each image.

Bengio et al. 2009, "Curriculum learning", begin with easy images; Hacohen and Weinshall 2019,
arXiv:1904.03626, draw from a share of the sorted images that grows (equation 1, linear pace).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from zskd.training.batches import Order

_FIRST = 0.25
"""Share of the images that the first batches are drawn from."""
_ALL_AFTER = 0.5
"""Share of the training after which they are drawn from all images."""


class Graded:
    """Draws from a growing share of the ranked images, and from all of them in the second half."""

    def __init__(self, order: Order, ranked: Tensor, *, steps: int) -> None:
        """Create an order of the same length.

        Args:
            order: of all images.
            ranked: rows of the set (N,), those first that come first.
            steps: of the training.
        """
        self._order, self._ranked, self._steps = order, ranked, steps

    def rows(self, step: int) -> Tensor:
        """Return the rows (B,) of the batch of a step; independent of earlier calls."""
        share = min(1.0, _FIRST + (1 - _FIRST) * step / (_ALL_AFTER * self._steps))
        rows = self._order.rows(step)
        # a row of all N is a place among the first share of N; in the second half it is each place once
        return self._ranked[(rows.double() * share).long()]


def rank(logits: Tensor, *, hard_first: bool) -> Tensor:
    """Return rows (N,) in the order of the teacher's confidence, the largest of its probabilities.

    Args:
        logits: of the teacher (N, K).
        hard_first: whether the least confident come first.
    """
    confidence = F.softmax(logits.double(), dim=1).amax(1)
    return confidence.argsort(descending=not hard_first, stable=True)
