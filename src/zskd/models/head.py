"""The head of a network: its last linear map, whose matrix holds one vector for each class.

A linear map is the head if the logits are a function of its outputs: of their mean over the positions, with a
scale and an offset, or a softmax of that. That is checked on images, so neither a hidden layer nor one of two
averaged heads can pass as the head.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zskd.core.errors import ZskdError
from zskd.core.types import Features, HeadWeight
from zskd.models.hooks import after_runs
from zskd.models.output import Kind, Output, answer_of, describe_answer, possible_outputs, two_classes
from zskd.models.products import Product, Recorder

_TOLERANCE = 2e-3
"""Largest part of the variation of the logits that may be left unexplained."""
_ROUNDING = 1e-6
"""Rounding of the logits, relative to their size."""
_TRACE = 10.0
"""Variation of the logits over the images, in units of rounding, that counts as none."""
_LEAST_LOGIT, _LARGEST_LOGIT = 60.0, 9.0
"""Logits of probabilities that are not rounded: of a softmax, and of a sigmoid."""
_LISTED = 12
"""Candidates that a message lists."""


@dataclass(frozen=True)
class Head:
    """The last linear map of a network, as it acts on the logits."""

    name: str
    """Dotted name of its layer."""
    weight: HeadWeight
    """Class vectors (K, D), scale included, on the CPU. Of one logit z: −w/2 and w/2."""
    bias: Tensor
    """(K,), on the CPU: logits = weight · features + bias, apart from what `how` names."""
    positions: int = 1
    """Positions of the image (pixels, tokens) that it is applied at, and whose mean is taken."""
    how: str = "Linear"
    """What was found, in words."""
    size: tuple[int, int] = (0, 0)
    """Rows and columns of the matrix, …"""
    place: int = 0
    """… and which of the network's linear maps of this size it is, in order of use."""


def call_with_head(module: nn.Module, head: nn.Linear, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Run the module and return input (N, D) and output (N, K) of its head.

    Raises:
        ZskdError: the forward pass does not use the head.
    """
    calls: list[tuple[Tensor, Tensor]] = []

    def record(_layer: nn.Module, inputs: Tensor, output: Tensor) -> None:
        # copies, because an activation may change both in place
        calls.append((inputs.clone(), output.clone()))

    handle = after_runs(head, record)
    try:
        module(inputs)
    finally:
        handle.remove()
    if not calls:
        raise ZskdError("the named head is not used by the forward pass of the network: name another one")
    return calls[-1]


def call_with_features(module: nn.Module, head: Head, inputs: Tensor) -> tuple[Features, Any]:
    """Run the module and return the features (N, D) that enter its head, and what the module returned.

    Raises:
        ZskdError: the forward pass has no such linear map any more.
    """
    recorder = Recorder(module, len(inputs), {head.size[0]})
    with recorder:
        answer = module(inputs)
    products = [product for product in recorder.products if product.weight.shape == head.size]
    if head.place >= len(products):
        raise ZskdError(f"the head {head.name!r} is not used by this forward pass of the network")
    return products[head.place].features, answer


def plain_head(module: nn.Module, probe: Tensor) -> str | None:
    """Return the name of the linear layer whose output the module returns as it is; None if there is none.

    Args:
        module: any network.
        probe: an input (N, C, H, W), normalised.

    Raises:
        ZskdError: the module cannot take such an input.
    """
    outputs: dict[str, Tensor] = {}
    values: dict[str, Tensor] = {}

    def record_as(name: str) -> Any:
        def record(_layer: nn.Module, _inputs: Any, output: Tensor) -> None:
            outputs[name] = output
            values[name] = output.clone()

        return record

    linear = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    handles = [layer.register_forward_hook(record_as(name)) for name, layer in linear.items()]
    try:
        returned = answer_of(module, probe)
    finally:
        for handle in handles:
            handle.remove()
    # an in-place activation returns the same tensor with other values; NaN is reported elsewhere
    same = [
        name
        for name, output in outputs.items()
        if output is returned and torch.equal(output.nan_to_num(), values[name].nan_to_num())
    ]
    plain = len(same) == 1 and returned.ndim == 2 and returned.shape[1] > 1
    return same[0] if plain else None


def read_network(
    module: nn.Module, probe: Tensor, *, classes: int | None = None, named: str | None = None
) -> tuple[Output, Head | ZskdError]:
    """Find out how logits are read from what a network returns, and find its head.

    Args:
        module: any network.
        probe: different images (N, C, H, W), normalised.
        classes: number of classes, where it is known.
        named: dotted name of the head; None: find it.

    Returns:
        How the logits are read, and the head, or the error that there is none.

    Raises:
        ZskdError: the network cannot take such an input, returns nothing that can be class scores, or several
            that can be; or the named head is not its head.
    """
    widths = {one.width for one in possible_outputs(answer_of(module, probe), len(probe))}
    recorder = Recorder(module, len(probe), widths)
    with recorder:
        answer = answer_of(module, probe)
    search = _Search(module, recorder, answer, len(probe), named)
    output = search.output(classes)
    head = search.head(output)
    if named is not None and isinstance(head, ZskdError):
        raise head
    return output, head


@dataclass(frozen=True)
class _Search:
    """The search for a network's class scores and its head in one recorded forward pass."""

    module: nn.Module
    recorder: Recorder
    answer: Any
    count: int
    named: str | None

    def output(self, classes: int | None) -> Output:
        """Return what holds the class scores in the network's answer."""
        possible = possible_outputs(self.answer, self.count, self.recorder.computed)
        described = describe_answer(self.answer)
        if not possible:
            raise ZskdError(
                f"the network returns {described}, and not one row of class scores (K) for each of "
                f"{self.count} images: wrap it in a network that does"
            )
        left = [one for one in possible if classes in (None, one.classes)] or possible
        if len(left) > 1:
            found = {one: self.head(one) for one in left}
            left = [one for one in left if not self._is_feature(one, found.values())]
            heads = {one: head for one in left if isinstance(head := found[one], Head)}
            left = sorted(heads, key=lambda one: one.kind != "logits")
            if all(_same(head, heads[left[0]]) for head in heads.values()):  # logits, and their softmax
                left = left[:1]
        if len(left) != 1:
            raise ZskdError(
                f"the network returns {described}, and several of these can be its class scores: name its "
                f"head; {self._candidates({one.width for one in possible})}: take one with --head"
            )
        return left[0]

    def head(self, output: Output) -> Head | ZskdError:
        """Return the last linear map that alone determines an output, or the error that there is none."""
        candidates, widths = self._candidates({output.width}), self.recorder.widths
        if self.named is not None and self.named not in widths:
            return ZskdError(f"the head {self.named!r} is no linear layer of the network; {candidates}")
        if self.named is not None and output.width not in widths[self.named]:
            return ZskdError(
                f"the head {self.named!r} has {max(widths[self.named])} outputs and the network "
                f"{output.width}; {candidates}"
            )
        for product in reversed(self.recorder.products):
            fits = product.outputs.shape[1] == output.width and self.named in (None, product.name)
            head = self._fitted(product, output) if fits else None
            if head is not None:
                return head
        if partly := [name for name in self.recorder.partly if self.named in (None, name)]:
            return ZskdError(
                f"the layer {partly[0]!r} runs for a part of the images at a time, and no head can be read: "
                "give a network, or an ONNX file, that takes any number of images, or make images that need "
                "none (--method class_impressions)"
            )
        if self.named is not None:
            return ZskdError(
                f"the network's output is not computed from the head {self.named!r} alone; {candidates}"
            )
        return ZskdError(
            "no linear layer of the network alone determines its output, but class similarity and features "
            "need one: name its head where it is opened (--head of zskd run and teacher import), or make "
            f"images that need none (--method class_impressions); {candidates}"
        )

    def _is_feature(self, output: Output, heads: Iterable[Head | ZskdError]) -> bool:
        """Whether an output is what enters the head of another one."""
        values = output.values(self.answer, self.count)
        entered = [self._product(head).features for head in heads if isinstance(head, Head)]
        return any(one.shape == values.shape and torch.allclose(one, values) for one in entered)

    def _product(self, head: Head) -> Product:
        return [one for one in self.recorder.products if one.weight.shape == head.size][head.place]

    def _fitted(self, product: Product, output: Output) -> Head | None:
        """Return a linear map as the head of an output, if the output is a function of it."""
        logits = output.raw(self.answer, self.count).double()
        features, matrix = product.features.double(), product.weight.double()
        of_positions = product.outputs.double()
        for values, after in ((of_positions, ""), (of_positions.relu(), " after a ReLU")):
            found = _scale_and_offset(logits, values.mean(2), output.kind)
            if found is None and self.named is not None and _same_order(logits, values.mean(2)):
                found = torch.ones_like(logits[0]), torch.zeros_like(logits[0])
            if found is None:
                continue
            scale, offset = found
            bias = (of_positions.mean(2) - features @ matrix.T).mean(0) * scale + offset
            same_size = [one for one in self.recorder.products if one.weight.shape == product.weight.shape]
            return Head(
                name=product.name,
                weight=two_classes((matrix * scale[:, None]).T).T.float().cpu(),
                bias=two_classes(bias).float().cpu(),
                positions=product.outputs.shape[2],
                how=self._kind_of(product) + _described_scale(scale) + _described_mean(product) + after,
                size=(len(matrix), matrix.shape[1]),
                place=next(i for i, one in enumerate(same_size) if one is product),
            )
        return None

    def _kind_of(self, product: Product) -> str:
        layer = dict(self.module.named_modules()).get(product.name)
        return "matrix" if layer is None else type(layer).__name__

    def _candidates(self, widths: Collection[int]) -> str:
        """Return the linear maps of some widths, or all where there are none, in the order of definition."""
        names = [name for name, _ in self.module.named_modules()]
        listed = {
            name: width
            for name, own in self.recorder.widths.items()
            for width in sorted(own)
            if width in widths or not any(set(widths) & one for one in self.recorder.widths.values())
        }
        order = sorted(listed, key=lambda name: names.index(name) if name in names else len(names))
        some = ", ".join(f"{name} ({listed[name]} outputs)" for name in order[:_LISTED])
        more = f" and {len(order) - _LISTED} more" if len(order) > _LISTED else ""
        return f"candidates: {some or 'none'}{more}"


def _scale_and_offset(logits: Tensor, values: Tensor, kind: Kind) -> tuple[Tensor, Tensor] | None:
    """Return scale and offset (K,) with logits = scale · values + offset for all images, if there are.

    Where the network returns probabilities, logits are known up to one constant for each image, and no
    logit is known whose probability is rounded to 0 or 1.
    """
    known = torch.ones_like(logits)
    if kind == "probabilities":
        known = (logits > -_LEAST_LOGIT).double()
    elif kind == "sigmoids":
        known = (logits.abs() < _LARGEST_LOGIT).double()
    if kind in ("probabilities", "log-probabilities"):
        top = logits.argmax(1, keepdim=True)
        logits, values = logits - logits.gather(1, top), values - values.gather(1, top)
    total = known.sum(0).clamp_min(1)
    means = (logits * known).sum(0) / total, (values * known).sum(0) / total
    x, y = (values - means[1]) * known, (logits - means[0]) * known
    rounding = _ROUNDING * logits.numel() ** 0.5 * logits.abs().max()
    if y.norm() <= _TRACE * rounding:  # all images give the same logits
        same = torch.allclose(logits * known, values * known, rtol=1e-4, atol=float(rounding))
        return (torch.ones(len(means[0])).to(logits), torch.zeros_like(means[0])) if same else None
    common = (x * y).sum() / x.square().sum()
    scales = [common.expand(x.shape[1])]
    if kind == "logits":  # a batch-norm after the last layer has one for each class
        scales.append((x * y).sum(0) / x.square().sum(0))
    for scale in scales:
        fits = (y - scale * x).norm() <= _TOLERANCE * y.norm() + rounding
        if bool(fits) and bool((scale > 0).all()):
            near_one = bool(((scale - 1).abs() < 1e-4).all())
            scale = torch.ones_like(scale) if near_one else scale
            return scale, means[0] - scale * means[1]
    return None


def _same_order(logits: Tensor, values: Tensor) -> bool:
    """Whether the logits of each image are a rising function of the values: what may follow a named head.

    Two classes have too few orders to tell anything.
    """
    steps = logits.gather(1, values.argsort(1)).diff(dim=1)
    return logits.shape[1] > 2 and bool((steps >= 0).all()) and bool((steps > 0).double().mean() > 0.5)


def _same(one: Head, other: Head) -> bool:
    """Whether two outputs come from the same map with the same class vectors."""
    same_map = (one.size, one.place) == (other.size, other.place)
    return same_map and torch.allclose(one.weight, other.weight, rtol=1e-3)


def _described_scale(scale: Tensor) -> str:
    if bool((scale == scale[0]).all()):
        return "" if scale[0] == 1 else f", times {scale[0]:.4g}"
    return ", with a scale for each class"


def _described_mean(product: Product) -> str:
    positions = product.outputs.shape[2]
    return "" if positions == 1 else f", mean of {positions} positions"
