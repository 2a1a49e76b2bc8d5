"""Scores that tell whether a network was trained on an image, from its outputs for the image.

Both are made of the confidence φ = log(p / (1 − p)), where p is the probability of the label: the logit
scaling of Carlini et al. 2022 ("Membership inference attacks from first principles", arXiv:2112.03570). The
loss is log(1 + exp(−φ)), so a threshold of φ is the threshold of the loss of Yeom et al. 2018 ("Privacy risk
in machine learning", arXiv:1709.01604), without the equal values of losses that are rounded to 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64

from zskd.core.artefact import Artefact, Fraction
from zskd.core.rng import numpy_stream
from zskd.core.types import Labels, Logits
from zskd.evaluation.roc import FALSE_POSITIVES, Area, area_under_curve, chance, true_positives
from zskd.evaluation.statistics import Share

_Values = Float64[np.ndarray, "n"]
_Mask = Bool[np.ndarray, "n"]
_Classes = Int64[np.ndarray, "n"]
_Some = Float64[np.ndarray, "_"]
Of = Literal["teacher", "student", "reference", "impressions"]
_ENOUGH = 10
"""Images of one class that its own distribution is fitted to."""
_SIGNIFICANT = 0.05
_LEAST_DEVIATION = 1e-3
"""Of a fitted distribution of confidences: equal ones have none."""


class MembershipTest(Artefact):
    """How well one score separates members from others."""

    of: Of
    by: Literal["loss", "likelihood", "pixels", "features"]
    area: Area
    """Under the ROC curve: the chance that a member has the larger score of a member and another."""
    found: Share | None
    """Of the members, those above the threshold that 1 % of the others exceed; None with under 100 others."""
    p: Fraction
    """Probability of such a separation if nothing leaks, corrected for the number of tests (Holm 1979)."""

    @property
    def is_reversed(self) -> bool:
        """Whether others have the larger scores, by more than chance."""
        by_threshold = self.found is not None and self.found.low > 100 * FALSE_POSITIVES
        return self.p < _SIGNIFICANT and self.area.area < 0.5 and not by_threshold

    @property
    def tells(self) -> bool:
        """Whether members have the larger scores, by more than chance."""
        return self.p < _SIGNIFICANT and not self.is_reversed

    def __str__(self) -> str:
        found = "" if self.found is None else f", found {str(self.found).partition(' of ')[0]}"
        return f"{self.by}: AUC {self.area}{found}, p = {self.p:.2g}"


def confidence(logits: Logits, labels: Labels) -> _Values:
    """Return φ = z_y − log Σ_{j≠y} exp(z_j) of each image (N,): the log of the odds of its label.

    Args:
        logits: (N, K), on the CPU.
        labels: class of each image (N,), 0 to K − 1.
    """
    scores = logits.double()
    own = scores.gather(1, labels[:, None])
    others = scores.scatter(1, labels[:, None], -torch.inf).logsumexp(1, keepdim=True)
    values: _Values = (own - others)[:, 0].numpy()
    return values


def likelihood_ratio(values: _Values, member: _Mask, labels: _Classes) -> tuple[_Some, _Mask]:
    """Return log N(φ; μ_in, σ_in) − log N(φ; μ_out, σ_out) of half of the images, fitted on the other half.

    It is the ratio of Carlini et al. 2022 (Algorithm 1), whose distributions are over many networks and
    belong to one image. With one network they are over images and belong to a class. A class with few images
    has the distributions of all classes. Members and others are halved at random, always in the same way. One
    half is tested, not each by the other: the two areas would depend on each other, and their common interval
    would be too narrow.

    Args:
        values: the confidence φ of each image (N,).
        member: whether the network was trained on it (N,); at least four images are, and four are not.
        labels: its class (N,).

    Returns:
        The ratio of the tested images (T,), and which images these are (N,).
    """
    tested = np.zeros(len(values), dtype=bool)
    for side in (member, ~member):
        rows = np.flatnonzero(side)
        tested[numpy_stream(0, "audit", 0).permutation(rows)[: (len(rows) + 1) // 2]] = True
    ratio = np.empty_like(values)
    of_all = [values[side & ~tested] for side in (member, ~member)]
    for label in np.unique(labels[tested]):
        of_class = [values[side & ~tested & (labels == label)] for side in (member, ~member)]
        inside, outside = of_class if min(map(len, of_class)) >= _ENOUGH else of_all
        rows = tested & (labels == label)
        ratio[rows] = _log_density(values[rows], inside) - _log_density(values[rows], outside)
    return ratio[tested], tested


def _log_density(values: _Some, fitted_to: _Some) -> _Some:
    """Return the log of a normal density, but for a constant."""
    deviation = max(float(fitted_to.std(ddof=1)), _LEAST_DEVIATION)
    density: _Some = -np.log(deviation) - ((values - fitted_to.mean()) / deviation) ** 2 / 2
    return density


def tests_of_networks(logits: Mapping[str, Logits], labels: Labels, member: _Mask) -> list[MembershipTest]:
    """Test each network by its loss, and teacher and student also by likelihood.

    With a reference the likelihood is φ − φ of the reference: what the offline test of Carlini et al. 2022
    compares when one network gives the mean of each image, and all have one variance. Watson et al. 2022
    (arXiv:2111.08440) subtract losses in the same way.

    Args:
        logits: (N, K) of each network, by name.
        labels: class of each image (N,).
        member: whether the teacher was trained on it (N,).
    """
    values = {name: confidence(one, labels) for name, one in logits.items()}
    reference = values.get("reference")
    tests = []
    for name, own in values.items():
        tests.append(separation(name, "loss", own, member))
        if reference is None:
            ratio, tested = likelihood_ratio(own, member, labels.numpy())
            tests.append(separation(name, "likelihood", ratio, member[tested]))
        elif name != "reference":
            tests.append(separation(name, "likelihood", own - reference, member))
    return tests


def separation(of: str, by: str, scores: _Values, member: _Mask) -> MembershipTest:
    """Return how well scores separate members from others; p is not corrected.

    Args:
        of: name of what gave them.
        by: how.
        scores: the larger, the more does an image look like a member (N,).
        member: whether it is one (N,).
    """
    area, found = area_under_curve(scores, member), true_positives(scores, member)
    p = chance(scores, member)
    return MembershipTest.model_validate({"of": of, "by": by, "area": area, "found": found, "p": p})
