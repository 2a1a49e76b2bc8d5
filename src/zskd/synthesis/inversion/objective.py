"""What is minimised: the loss of each image and its gradient."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from zskd.config.synthesis import SynthesisConfig
from zskd.core.types import Images, PerSample
from zskd.data.transforms import affine_matrices, warp
from zskd.models.classifier import Classifier
from zskd.synthesis.inversion.lanes import Lanes


def loss_and_gradient(teacher: Classifier, lanes: Lanes, config: SynthesisConfig) -> tuple[PerSample, Images]:
    """Return KL(y ‖ answer) of every lane, and the gradient of its loss with respect to its image."""
    targets, uniform = lanes.targets, lanes.warps
    leaf = lanes.images.detach().requires_grad_(True)
    with torch.enable_grad():
        shown = leaf
        if uniform is not None:
            shown = warp(leaf, affine_matrices(uniform, config.warp), teacher.spec.box[0])
        loss = -(targets * F.log_softmax(teacher(shown) / config.tau, dim=1)).sum(1)
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    if config.l2:
        gradient = gradient + config.l2 * lanes.images
    return loss.detach() - torch.special.entr(targets).sum(1), gradient
