"""The importance of the channels of a group, and the widths of its layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zskd.models.narrow.groups import LAYERS, Group, Member, width_of, width_of_parameter


class Makers:
    """The layers of a network, their widths and the importance of their channels."""

    def __init__(self, network: nn.Module) -> None:
        self.modules = dict(network.named_modules())
        self.parameters = dict(network.named_parameters())

    def width(self, member: Member) -> int:
        """Return the number of channels of a member."""
        if (value := self.parameters.get(member.name)) is not None:
            return width_of_parameter(value)
        return width_of(self.modules[member.name], member.side)

    def importance(self, group: Group) -> Tensor:
        """Return the importance of each channel of a group (size,): the mean over the layers that make it,
        each on the scale on which its channels have the mean 1."""
        total, count = torch.zeros(group.size), torch.zeros(group.size)
        for one in group.members:
            module = self.modules.get(one.name)
            if module is None or one.side == "in" or not isinstance(module, LAYERS):
                continue
            norms = _norms(module).float().cpu()
            norms = norms / norms.mean().clamp_min(1e-12)
            total.index_add_(0, one.roots, norms[one.indices])
            count.index_add_(0, one.roots, torch.ones(len(one.roots)))
        return total / count.clamp_min(1)


def _norms(module: nn.Module) -> Tensor:
    """Return the L2 norm of the weights of each output channel (C,); ones where they are not in memory."""
    layer = module.out_proj if isinstance(module, nn.MultiheadAttention) else module
    weight = getattr(layer, "weight", None)
    assert isinstance(weight, Tensor)
    weight = torch.ones(weight.shape) if weight.is_meta else weight.detach()
    if getattr(layer, "transposed", False):
        weight = weight.transpose(0, 1)
    norms: Tensor = weight.flatten(1).norm(dim=1)
    return norms
