"""The order in which a student is shown its transfer set: by the teacher's confidence, or by shard.

Bengio et al. 2009, "Curriculum learning", begin with easy images; Hacohen and Weinshall 2019,
arXiv:1904.03626, draw from a share of the sorted images that grows (equation 1, linear pace).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from zskd.config.distillation import DistillConfig
from zskd.core.rng import torch_stream
from zskd.training.batches import Order, RowOrder
from zskd.transfer_set.dataset import TransferSet

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


class ByShard:
    """Orders of the images in which only a window of neighbouring shards is needed at any time.

    For each pass the shards are put in a new random order. As many of them as fit into the window come first,
    with their images mixed, then the next ones. webdataset and tf.data mix streams in a similar way.
    """

    def __init__(self, sizes: Sequence[int], window: int, seed: int) -> None:
        """Create the orders.

        Args:
            sizes: images of each shard, in the order of their rows.
            window: images that are mixed with each other; a larger shard is a window of its own.
            seed: of the orders.
        """
        self._rows = torch.split(torch.arange(sum(sizes)), list(sizes))
        self._window, self._seed = window, seed

    @property
    def most_shards(self) -> int:
        """Largest number of shards in a window."""
        ends = torch.tensor(sorted(map(len, self._rows))).cumsum(0)
        return max(1, int((ends <= self._window).sum()))

    def __call__(self, number: int) -> Tensor:
        """Return the rows of all images (N,) in the order of a pass."""
        stream = torch_stream(self._seed, "shards", number)
        windows: list[list[Tensor]] = []
        room = 0
        for shard in torch.randperm(len(self._rows), generator=stream).tolist():
            rows = self._rows[shard]
            if not windows or len(rows) > room:
                windows.append([])
                room = self._window
            windows[-1].append(rows)
            room -= len(rows)
        together = [torch.cat(window) for window in windows]
        return torch.cat([rows[torch.randperm(len(rows), generator=stream)] for rows in together])


def order_of(
    transfer_set: TransferSet | None, config: DistillConfig, seed: int, steps: int
) -> RowOrder | None:
    """Return the order of a set that the settings name; None: the usual one of a training.

    Args:
        transfer_set: None where a generator makes all images.
        config: order, window and batch size.
        seed: of the order.
        steps: of the training.
    """
    if transfer_set is None or config.order == "shuffled":
        return None
    batch, images = config.batch_size, len(transfer_set)
    if config.order == "by_shard":
        return Order(batch, images, seed, _by_shard(transfer_set, config, seed))
    ranked = rank((one["logits"] for one in transfer_set.stored()), hard_first=config.order == "hard_first")
    return Graded(Order(batch, images, seed), ranked, steps=steps)


def in_windows(transfer_set: TransferSet | None, config: DistillConfig) -> TransferSet | None:
    """Return a set that keeps no more shards mapped than the order of the settings needs at once."""
    if transfer_set is None or config.order != "by_shard":
        return transfer_set
    return transfer_set.keeping(_by_shard(transfer_set, config, 0).most_shards)


def _by_shard(transfer_set: TransferSet, config: DistillConfig, seed: int) -> ByShard:
    image = transfer_set.image_bytes // len(transfer_set)
    return ByShard(transfer_set.shard_sizes, config.window_mb * 10**6 // image, seed)


def rank(logits: Iterable[Tensor], *, hard_first: bool) -> Tensor:
    """Return rows (N,) in the order of the teacher's confidence, the largest of its probabilities.

    Args:
        logits: of the teacher, those of some images (M, K) or of one (K,) at a time.
        hard_first: whether the least confident come first.
    """
    largest = [F.softmax(part.double(), dim=-1).amax(-1).reshape(-1) for part in logits]
    return torch.cat(largest).argsort(descending=not hard_first, stable=True)
