"""A network as it runs after export, where its weights do not change any more."""

from __future__ import annotations

from zskd.models.classifier import Classifier
from zskd.models.fused_conv import fix_filters
from zskd.models.preparation import copied


def deployed(classifier: Classifier) -> Classifier:
    """Return a frozen copy on the CPU as it runs after export: fused, batch-norm folded, layout chosen.

    Where nothing can be fused, the copy runs the network as it is.

    Args:
        classifier: not changed; its `rewrite` has no influence.
    """
    network = fix_filters(copied(classifier.fused).cpu().eval())
    copy = Classifier(
        network,
        spec=classifier.spec,
        class_names=classifier.class_names,
        head=classifier.head_name,
        copy=False,
    )
    copy.rewrite = False
    return copy.freeze()
