"""Class similarity of the teacher's last layer, and the Dirichlet concentration computed from it."""

from __future__ import annotations

from typing import Literal

import numpy as np

from zskd.core.errors import ZskdError
from zskd.core.types import Concentration, HeadWeight, Similarity


def class_similarity(head_weight: HeadWeight) -> Similarity:
    """Return the cosine between the weight vectors of each pair of classes.

    C[k, j] = w_k·w_j / (|w_k| |w_j|)  (ZSKD, Nayak et al. 2019, equation 2)

    Args:
        head_weight: weights of the last layer, one class vector per row (K, D).

    Returns:
        Symmetric (K, K) float64 in [-1, 1] with a unit diagonal.

    Raises:
        ZskdError: fewer than two classes, a zero vector, or values that are not finite.
    """
    weight = head_weight.detach().cpu().numpy().astype(np.float64)
    if len(weight) < 2:
        raise ZskdError("class similarity needs at least two classes: give a teacher with more")
    norms = np.linalg.norm(weight, axis=1, keepdims=True)
    if not np.isfinite(norms).all() or (norms == 0).any():
        bad = int(np.flatnonzero(~np.isfinite(norms) | (norms == 0))[0])
        raise ZskdError(
            f"the weight vector of class {bad} in the last layer is zero or not finite: give another "
            "teacher, or name its head where it is opened (--head of zskd run and teacher import)"
        )
    unit = weight / norms
    similarity = np.clip(unit @ unit.T, -1, 1)
    np.fill_diagonal(similarity, 1)
    return np.asarray(similarity)


def concentration(
    similarity: Similarity, *, normalise: Literal["row", "matrix"] = "row", floor: float = 0.0
) -> Concentration:
    """Return the Dirichlet concentration of each class before it is scaled by β.

    a_k = (C_k − min C_k) / (max C_k − min C_k) + floor  (ZSKD, section 3.2)

    Args:
        similarity: class similarity (K, K).
        normalise: "row": min-max of each row, as in the paper; "matrix": min-max of the whole matrix, then of
            each row, as in the authors' release. The second undoes the first, so that both give the same
            numbers up to rounding.
        floor: added to every entry, at least 0; with two classes, only a floor gives mixed targets.

    Returns:
        (K, K) float64 in [floor, 1 + floor].

    Raises:
        ZskdError: a row is constant.
    """
    values = _row_min_max(_min_max(similarity)) if normalise == "matrix" else _row_min_max(similarity)
    return np.asarray(values + floor)


def _min_max(values: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = (values - values.min()) / _spread(values.max() - values.min())
    return scaled


def _row_min_max(values: np.ndarray) -> np.ndarray:
    low, high = values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True)
    scaled: np.ndarray = (values - low) / _spread(high - low)
    return scaled


def _spread(width: np.ndarray | float) -> np.ndarray:
    if np.min(width) <= 0:
        raise ZskdError(
            "a class of the teacher is equally similar to all classes, so that there is no class similarity: "
            "give --method class_impressions"
        )
    return np.asarray(width)
