"""Another form of a classifier's network, for a while: a compiled one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from zskd.models.classifier import Classifier


@contextmanager
def running(classifier: Classifier, network: nn.Module) -> Iterator[None]:
    """Let a classifier run another network in the block, wherever it would run the rewritten one as a whole.

    Copies of the classifier and exports do not know of it.

    Args:
        classifier: any.
        network: computes what the rewritten network does, with the same weights.
    """
    before, classifier.whole = classifier.whole, (network,)
    try:
        yield
    finally:
        classifier.whole = before
