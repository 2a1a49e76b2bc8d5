"""The losses of a training, checked where they are of somebody's own code, and read in groups.

To read a number from a device waits for all work given to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from reprlib import repr as short

import torch
from torch import Tensor

from zskd.core.errors import ZskdError
from zskd.core.ranks import Ranks


class Losses:
    """The loss of each step, of which the last ones may not have been read yet.

    Args:
        known: of the steps before this training went on.
        ranks: of the training; all read after the same steps.
        share: of this rank in a batch.
    """

    def __init__(self, known: Sequence[float], ranks: Ranks, share: float) -> None:
        self.known = list(known)
        """Of the steps until the last reading."""
        self._ranks, self._share = ranks, share
        self._unread: list[Tensor] = []

    def add(self, loss: Tensor) -> None:
        """Keep the loss of a step, a scalar on any device, without reading it."""
        self._unread.append(loss.detach())

    def read(self) -> int | None:
        """Read the losses that were added since the last reading; all ranks call it together.

        Returns:
            How many steps before the last one the first loss that is not finite was added; None where all
            are finite. Then they are known.
        """
        unread, self._unread = self._unread, []
        own = [self._share * value for value in torch.stack(unread).cpu().tolist()]
        values = self._ranks.sum(own)
        bad = next((at for at, value in enumerate(values) if not math.isfinite(value)), None)
        if bad is not None:
            return len(values) - 1 - bad
        self.known += values
        return None

    @property
    def last(self) -> float:
        """The last loss that is known; not a number before the first."""
        return self.known[-1] if self.known else math.nan


def checked_loss(loss: object, whose: str, *, learns: bool = True) -> Tensor:
    """Return a loss that somebody's own code computed.

    Args:
        loss: what the code returned.
        whose: its name, for messages.
        learns: whether the network that it is of can be trained.

    Raises:
        ZskdError: it is no single number, or has no gradient though the network learns.
    """
    if isinstance(loss, Tensor) and not loss.ndim and loss.requires_grad >= learns:
        return loss
    what = f"a tensor {tuple(loss.shape)}" if isinstance(loss, Tensor) else short(loss)
    without = " without a gradient" if isinstance(loss, Tensor) and not loss.requires_grad else ""
    raise ZskdError(
        f"{whose} is {what}{without}: it must be one number with a gradient, such as the mean over the images"
    )
