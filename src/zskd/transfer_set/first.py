"""Which images of a set are shown to people: the first of each class, not chosen ones."""

from __future__ import annotations

from itertools import islice

import torch
from torch import Tensor

from zskd.transfer_set.dataset import TransferSet


def first_of_classes(made: TransferSet, per_class: int, *, most: int, only: int | None = None) -> Tensor:
    """Return the rows of the first images of each class (M,), in turns: of optimised ones, if there are any.

    Args:
        made: a complete set.
        per_class: images of each class, at most.
        most: images in all, at most.
        only: index of the only class; None: all classes.
    """
    optimised = made.column("steps") > 0
    fits = (optimised if bool(optimised.any()) else torch.ones_like(optimised)).tolist()
    by_class: dict[int, list[int]] = {
        k: [] for k in (range(len(made.class_names)) if only is None else [only])
    }
    for row, label in enumerate(made.labels.tolist()):
        of_class = by_class.get(label) if fits[row] else None
        if of_class is not None and len(of_class) < per_class:
            of_class.append(row)
    longest = max(map(len, by_class.values()), default=0)
    turns = (rows[turn] for turn in range(longest) for rows in by_class.values() if turn < len(rows))
    return torch.tensor(list(islice(turns, most)), dtype=torch.int64)
