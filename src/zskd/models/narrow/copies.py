"""Narrower and less deep copies of teachers: as networks, and as architectures for a card."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import dropwhile
from typing import Any, get_args

import torch
from torch import Tensor, nn

from zskd.config.sizes import Share, ShareKind
from zskd.core.errors import ZskdError
from zskd.models.chain import in_a_row, read_layers
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import Architecture, Layers, Narrowed
from zskd.models.modes import let_learn
from zskd.models.narrow.changes import find_changes
from zskd.models.narrow.depth import drop_blocks
from zskd.models.narrow.plan import CannotCut, read_logits
from zskd.models.narrow.search import narrow_network
from zskd.models.narrow.tracing import Read
from zskd.models.preparation import copied, different_images, in_single_precision

_LARGE = 128 * 128
"""Pixels above which a network is tried on fewer images."""


@dataclass(frozen=True)
class Copy:
    """A copy of a teacher with fewer channels or blocks."""

    network: nn.Module
    """With the weights of the teacher that it kept."""
    architecture: Narrowed | None
    """For a card; None where the teacher's own architecture is not known."""
    how: str
    """What is missing, in words: "all channels", "channels inside blocks", "3 residual blocks"."""


def narrow(
    network: nn.Module,
    share: float = 0.5,
    kind: ShareKind = "narrow",
    *,
    shape: tuple[int, int, int] | None = None,
) -> nn.Module:
    """Return a smaller copy of any network, with the weights that it keeps.

    `narrow`, `params` and `width` cut channels: the same share of each layer, those with the smallest
    weights, together with all that they are joined to (Fang et al. 2023, arXiv:2301.12900). `depth` leaves
    out the residual blocks without which the outputs change least. The copy was run, and computes what the
    network does without those channels.

    Args:
        network: a network for images, or a `Classifier`; left as it is.
        share: above 0, at most 1: what at most is left.
        kind: `narrow` for a share of the multiply-adds, `params` of the parameters, `width` of each layer's
            channels, `depth` of the multiply-adds.
        shape: channels, height, width of its images; for a `Classifier` it is known.

    Returns:
        The copy in float32, whose layers learn, also those that are frozen in the network; a `Classifier` for
        a `Classifier`.

    Raises:
        ZskdError: no such copy can be made; the message says why.
    """
    if not 0 < share <= 1:
        raise ZskdError(f"a copy of {share:g} of the size cannot be made: give a share above 0 and at most 1")
    if kind not in get_args(ShareKind):
        raise ZskdError(f"{kind!r} is no kind of share: give one of {', '.join(get_args(ShareKind))}")
    if isinstance(network, Classifier):
        made = copy_teacher(network, Share(kind, share))
        smaller = Classifier(
            let_learn(made.network),
            spec=network.spec,
            copy=False,
            **{"class_names": network.class_names} | read_as(network, made.network),
        )
        smaller.rewrite, smaller.architecture = network.rewrite, made.architecture
        return smaller
    if shape is None:
        raise ZskdError("the shape of the images is not known: give shape=(3, 224, 224) or a Classifier")
    network = in_single_precision(copied(network))
    return let_learn(_copy(network, probes(InputSpec(shape=shape), network), share, kind, read_logits)[0])


def copy_teacher(teacher: Classifier, size: Share) -> Copy:
    """Return a smaller copy of a teacher, and its architecture if that of the teacher is known.

    Args:
        teacher: left as it is.
        size: what it is reduced to.

    Raises:
        ZskdError: no such copy can be made; the message names another student.
    """
    of, network = _described(teacher)
    read = _reader(teacher) if network is teacher.module else read_logits
    made, how = _copy(network, probes(teacher.spec, network), size.share, size.kind, read)
    architecture = None
    if of is not None:
        architecture = Narrowed(student=size.name, of=of, changes=find_changes(network, made))
    return Copy(made, architecture, how)


def probes(spec: InputSpec, network: nn.Module) -> Tensor:
    """Return different images (N, C, H, W), normalised, to try a network with."""
    _, height, width = spec.shape
    device = next((value.device for value in network.parameters()), torch.device("cpu"))
    images = different_images(spec.shape, spec.box, each=1 if height * width > _LARGE else 2)
    mean, std = (torch.tensor(one).view(1, -1, 1, 1) for one in (spec.mean, spec.std))
    return ((images - mean) / std).to(device)


def read_as(teacher: Classifier, student: nn.Module) -> dict[str, Any]:
    """Return how logits are read from a copy of a teacher that returns more, or other values, than those.

    Args:
        teacher: of which the head is known, or what is returned.
        student: a copy of its network, or any other, of which nothing is known.

    Returns:
        Arguments of `Classifier`.
    """
    if type(student) is not type(teacher.module) or (teacher.reads_whole and teacher.returned.part is None):
        return {}
    head = None if teacher.reads_whole else teacher.head_name
    # many networks are an nn.Sequential, which tells nothing of their layers
    if head is not None and _from(head, student) != _from(head, teacher.module):
        return {}
    return {"class_names": teacher.class_names, "head": head}


def _from(head: str, network: nn.Module) -> list[tuple[str, type[nn.Module]]]:
    """Return names and kinds of a layer and of those behind it in its module; nothing where it is absent."""
    around = head.rpartition(".")[0]
    beside = [(name, type(one)) for name, one in network.named_modules() if name.rpartition(".")[0] == around]
    return list(dropwhile(lambda one: one[0] != head, beside))


def _described(teacher: Classifier) -> tuple[Architecture | None, nn.Module]:
    """Return the architecture of a teacher, None if it is not known, and the network that it builds."""
    if teacher.architecture is not None:
        return teacher.architecture, teacher.module
    try:
        chain = copied(in_a_row(teacher.module))
        return Layers(layers=tuple(read_layers(teacher.module))), chain
    except ZskdError:  # it branches
        return None, teacher.module


def _reader(teacher: Classifier) -> Read:
    """Return what reads the class scores of a teacher and its copies, which may be among several outputs."""
    returned = teacher.returned
    if returned.part is None:
        return read_logits
    return lambda network, images: returned.values(network(images), len(images))


def _copy(
    network: nn.Module, images: Tensor, share: float, kind: ShareKind, read: Read
) -> tuple[nn.Module, str]:
    """Return a copy, and what is missing, in words."""
    try:
        if kind == "depth":
            made = drop_blocks(network, images, share, read)
            count = len(find_changes(network, made).dropped)
            return made, f"{count} residual block{'s' * (count != 1)}"
        cut = narrow_network(network, images, share, kind, read=read)
    except CannotCut as error:
        raise CannotCut(f"no {kind}:{share:g} of this network can be made, because {error}") from error
    return cut.network, cut.how
