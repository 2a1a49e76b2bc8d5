"""Start images that are balanced as the teacher sees them: more are drawn than are needed, some are kept.

Frank, Davis: "What Makes a Good Dataset for Knowledge Distillation?", CVPR 2025, arXiv:2411.12817, choose
pictures so that the teacher's predictions have equal shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from zskd.config.synthesis import SynthesisConfig
from zskd.core.types import Images, SoftLabels
from zskd.models.classifier import Classifier
from zskd.models.many_images import logits_in_batches
from zskd.synthesis.inversion.initial import draw_initial
from zskd.synthesis.plan import PlanEntry


def draw_starts(
    teacher: Classifier, entries: Sequence[PlanEntry], config: SynthesisConfig, *, seed: int
) -> Images:
    """Return one start image per entry (N, C, H, W).

    With more than one candidate for each, the images of all entries are chosen together, so that the teacher
    predicts for as many of them as possible the class of their entry. Those that are chosen are drawn again
    instead of being kept: many do not fit into the memory.

    Args:
        teacher: frozen, in evaluation mode.
        entries: the plan of the images; with more than one candidate, of a whole shard.
        config: kind of start image, number of candidates, and batch size.
        seed: of the set.
    """
    box, indices = teacher.spec.box, [entry.index for entry in entries]
    draw = partial(draw_initial, config.start, seed=seed, shape=teacher.spec.shape, box=box)
    if config.candidates == 1:
        return draw(indices)
    outputs = [
        logits_in_batches(teacher, draw(indices, candidate=number).clamp(*box), config.batch_size).softmax(1)
        for number in range(config.candidates)
    ]
    chosen = choose(torch.cat(outputs), torch.tensor([entry.anchor for entry in entries]))
    images = torch.empty(len(entries), *teacher.spec.shape)
    for number in range(config.candidates):
        rows = (chosen // len(entries) == number).nonzero()[:, 0]
        if len(rows):
            own = [indices[row] for row in (chosen[rows] % len(entries)).tolist()]
            images[rows] = draw(own, candidate=number)
    return images


def choose(outputs: SoftLabels, wanted: Tensor) -> Tensor:
    """Return which candidate becomes each image (N,): none of them twice.

    First each class receives candidates that the teacher predicts to be of it, the most confident ones first.
    Images for which there is none receive, one after the other, the candidate that is left with the highest
    probability of their class.

    Args:
        outputs: probabilities of M ≥ N candidates (M, K).
        wanted: the class of each image (N,), int64.
    """
    confidence, predicted = outputs.max(1)
    chosen = torch.full((len(wanted),), -1)
    for k in range(outputs.shape[1]):
        places, own = (wanted == k).nonzero()[:, 0], (predicted == k).nonzero()[:, 0]
        own = own[confidence[own].argsort(descending=True, stable=True)][: len(places)]
        chosen[places[: len(own)]] = own
    left = torch.ones(len(outputs), dtype=torch.bool)
    left[chosen[chosen >= 0]] = False
    for place in (chosen < 0).nonzero()[:, 0].tolist():
        best = torch.where(left, outputs[:, wanted[place]], -1.0).argmax()
        chosen[place], left[best] = best, False
    return chosen
