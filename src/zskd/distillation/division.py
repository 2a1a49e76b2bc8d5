"""Which trainings several ranks can divide among them."""

from __future__ import annotations

from zskd.config.distillation import DistillConfig
from zskd.core.errors import ZskdError
from zskd.core.ranks import Ranks

_FEWEST = 2
"""Images of a rank's part of a batch: batch-norm takes no statistics of one."""


def check_division(config: DistillConfig, ranks: Ranks) -> None:
    """Refuse a training that several ranks cannot divide.

    Args:
        config: of the training.
        ranks: that are to train the student.

    Raises:
        ZskdError: images are made or chosen against the student in training, or a batch is too small.
    """
    if not ranks.several:
        return
    groups = (config.generator, config.image_bank, config.replay)
    against = [group.option("share") for group in groups if group.share]
    if against:
        raise ZskdError(
            f"{' and '.join(against)}: images that follow the student are not divided among processes: start "
            "zskd distill without torchrun"
        )
    if config.batch_size < _FEWEST * ranks.world:
        raise ZskdError(
            f"--distill.batch-size is {config.batch_size}: {ranks.world} processes need at least "
            f"{_FEWEST * ranks.world}"
        )
