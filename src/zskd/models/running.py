"""Another form of a classifier's network, for a while: a compiled one, or the one that was given."""

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


@contextmanager
def running_original(classifier: Classifier) -> Iterator[None]:
    """Let a classifier run its original network in the block, not the rewritten one: hooks see each layer."""
    before, classifier.rewrite = classifier.rewrite, False
    try:
        yield
    finally:
        classifier.rewrite = before
