"""Named shapes. N images, C channels, H×W pixels, K classes, D penultimate features."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

Images = Float32[Tensor, "n c h w"]
"""Pixels in [0, 1]; normalisation belongs to the `Classifier`, never to the images."""
OfOneBatch = Float32[Tensor, "_ c h w"]
"""Images of one of several batches, whose sizes may differ: a check of one must not bind N for the next."""
Logits = Float32[Tensor, "n k"]
Features = Float32[Tensor, "n d"]
Labels = Int64[Tensor, "n"]
SoftLabels = Float32[Tensor, "n k"]
"""Rows on the probability simplex."""
PerSample = Float[Tensor, "n"]
HeadWeight = Float[Tensor, "k d"]
ClassVectors = Float64[np.ndarray, "k d"]
ClassValues = Float64[np.ndarray, "k"]
Similarity = Float64[np.ndarray, "k k"]
Concentration = Float64[np.ndarray, "k k"]
TargetsArray = Float32[np.ndarray, "n k"]
CorrectMask = Bool[np.ndarray, "_"]
"""Whether each test image is classified correctly, in the order of the test set. Lengths may differ."""
