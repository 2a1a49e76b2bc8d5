"""A student that begins with its teacher's weights, thinned to its own widths.

What a student learns on made images leaves open what it says about real ones. One that is a narrower copy of
its teacher need not start from nothing: of each layer it takes the channels that the teacher would miss
most, and its weights are then fitted, layer by layer, so that from its own channels it says what the
teacher's say. Pruned networks are repaired so on real images (He et al. 2017, arXiv:1707.06168; Luo et al.
2017, arXiv:1707.06342), and small networks start with chosen weights of large ones (Xu et al. 2024,
arXiv:2311.18823). Here the images are those of the transfer set.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from zskd.augment import augment
from zskd.classifier import Classifier
from zskd.config import Augment, Distill
from zskd.errors import ZskdError
from zskd.models.layers import Layer, in_a_row, read_layers
from zskd.models.modes import in_mode
from zskd.progress import Progress
from zskd.streams import torch_stream
from zskd.transfer_set import TransferSet
from zskd.types import Images

_WIDTHS = {"in_channels", "out_channels", "in_features", "out_features", "num_features"}
_FITTED_ON = 2000
"""Images that layers are fitted on, …"""
_FITTED_VALUES = 2**26
"""… if they have no more values together."""
_PLACES = 15
"""Places of each image, chosen at random, that a convolution is fitted on."""
_RIDGE = 1e-3
"""Weight of the squared distance from the teacher's weights, in mean squares of what enters the layer."""
_TOGETHER = 100
"""Images that go through the networks at once."""
_TRIED = 32
"""Up to so many channels are left out by trying; among more one stands in for another anyway."""
_TRIED_ON = 300
"""Images that the teacher is asked about at each try."""
_TAU = 2.0
"""Temperature at which answers are compared."""
_ATTEMPTS = 4
"""Attempts to take over, of which the best one stays."""

_Weighted = nn.Conv2d | nn.Linear


def begin_with_teacher(
    student: nn.Module,
    teacher: Classifier,
    transfer_set: TransferSet,
    config: Augment | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> bool:
    """Let a student take over what it can, before it is distilled.

    Args:
        student: changed in place where it is a narrower copy of a teacher that is a plain chain of layers, as
            `half` makes them, and left as it is elsewhere. It goes to the teacher's device.
        teacher: asked as it is in evaluation.
        transfer_set: images that the layers are fitted on.
        config: how they are changed at random before; as `Distill` does it if None.
        seed: of the choice of images and of these changes.
        progress: told what the student begins with.

    Returns:
        Whether it took anything over.
    """
    config, numbers = config or Distill().augment, torch_stream(seed, "inheritance", 0)
    count = min(_FITTED_ON, _FITTED_VALUES // math.prod(teacher.spec.shape))

    def draw() -> Images:
        stored = transfer_set.images(torch.randint(len(transfer_set), (count,), generator=numbers))
        return augment(stored.to(teacher.device), config, teacher.spec.box, numbers)

    inherited = inherit(Classifier(student, spec=teacher.spec).to(teacher.device), teacher, draw, numbers)
    own = "weights of its own, being no narrower copy"
    first = "what it can take over from the teacher" if inherited else own
    (progress or Progress()).say(f"distill: the student begins with {first}")
    return inherited


@torch.no_grad()
def inherit(student: Classifier, teacher: Classifier, draw: Callable[[], Images], numbers: Generator) -> bool:
    """Set a student's weights to what it can take over from its teacher.

    It is tried several times, each on other images, and what comes nearest to the teacher's answers stays.

    Args:
        student: changed in place, or left as it is.
        teacher: on the same device.
        draw: makes images that the layers can be fitted on (N, C, H, W), in [0, 1], on that device, each
            time others; 2,000 are plenty.
        numbers: for the choice of places in them.

    Returns:
        Whether it could: both are plain chains of the same layers, and none of the student's is wider.
    """
    try:
        small, large = in_a_row(student.module), in_a_row(teacher.module)
        if not _is_narrower(read_layers(small), read_layers(large)):
            return False
    except ZskdError:  # one of them is no plain chain
        return False
    with in_mode(small, training=False), in_mode(large, training=False):
        judged = teacher.normalise(draw())
        found: list[tuple[float, dict[str, Tensor]]] = []
        for _ in range(_ATTEMPTS):
            _take_over(small, large, teacher.normalise(draw()), numbers)
            parts = torch.split(judged, _TOGETHER)
            distance = sum(len(part) * _distance(small(part), large(part)) for part in parts)
            found.append((distance, {name: value.clone() for name, value in small.state_dict().items()}))
        small.load_state_dict(min(found, key=lambda one: one[0])[1])
    return True


def _take_over(small: nn.Sequential, large: nn.Sequential, inputs: Tensor, numbers: Generator) -> None:
    kept = torch.arange(inputs.shape[1], device=inputs.device)
    for place, (mine, its) in enumerate(zip(small, large, strict=True)):
        if isinstance(mine, _Weighted):
            heard, kept = kept, _choose(large, place, len(mine.weight), inputs, numbers)
            _copy_channels(mine, its, kept, heard)
            _fit(small, large, place, kept, inputs, numbers)
        else:  # a batch-norm has values of each channel; others have none
            own = mine.state_dict()
            for name, values in its.state_dict().items():
                own[name].copy_(values[kept] if values.ndim else values)


def _distance(said: Tensor, wanted: Tensor) -> float:
    """Return the mean Kullback–Leibler divergence of answers from those wanted, in nats."""
    said, wanted = (F.log_softmax(logits / _TAU, 1) for logits in (said, wanted))
    return float(F.kl_div(said, wanted, log_target=True, reduction="batchmean"))


def _is_narrower(small: list[Layer], large: list[Layer]) -> bool:
    """Whether channels of the one can stand for channels of the other, layer by layer."""
    if [name for name, _ in small] != [name for name, _ in large]:
        return False
    flat, widths = False, (1, 1)
    for (name, mine), (_, its) in zip(small, large, strict=True):
        same = all(mine[key] == its[key] for key in mine.keys() - _WIDTHS)
        fits = all(mine[key] <= its[key] for key in mine.keys() & _WIDTHS)
        if not same or not fits or mine.get("groups", 1) > 1:
            return False
        flat = flat or (name == "Flatten" and mine == {"start_dim": 1, "end_dim": -1})
        if name == "Linear" and not flat:
            return False
        if name in ("Conv2d", "Linear"):
            fed, out = (
                ("in_channels", "out_channels") if name == "Conv2d" else ("in_features", "out_features")
            )
            # behind a flatten a channel is several features, of both networks as many
            if mine[fed] * widths[1] != its[fed] * widths[0]:
                return False
            widths = mine[out], its[out]
    return widths[0] == widths[1]


def _choose(large: nn.Sequential, place: int, count: int, inputs: Tensor, numbers: Generator) -> Tensor:
    """Return the channels of a layer that a student with so many takes over, in order."""
    width = len(_weighted(large, place).weight)
    if count == width:
        return torch.arange(width, device=inputs.device)
    following = next(i for i in range(place + 1, len(large)) if isinstance(large[i], _Weighted))
    layers = list(large)
    before, behind = nn.Sequential(*layers[:following]), nn.Sequential(*layers[following:])
    if width <= _TRIED:
        kept = _least_missed(before, behind, width, count, inputs, numbers)
    else:
        kept = _most_telling(before, behind, width, count, inputs)
    return torch.tensor(kept, device=inputs.device)


def _least_missed(
    before: nn.Sequential, behind: nn.Sequential, width: int, count: int, inputs: Tensor, numbers: Generator
) -> list[int]:
    """Leave out one channel after the other: the one without which the teacher's answers change least, when
    the layer behind has been fitted to the others."""
    layer = _weighted(behind, 0)
    square, _ = _products(layer, before, nn.Sequential(*before, layer), inputs, numbers)
    weight = _as_rows(layer)
    entering = before(inputs[:_TRIED_ON])
    wanted = behind(entering)
    fitted = copy.deepcopy(layer)

    def change(rest: list[int]) -> float:
        rows = _rows_of(rest, width, layer)
        within = square[rows][:, rows]
        values = torch.zeros_like(weight)
        values[rows] = weight[rows] + _solve(within, square[rows] @ weight - within @ weight[rows])
        _set_rows(fitted, values)
        return _distance(behind[1:](fitted(entering)), wanted)

    kept = list(range(width))
    while len(kept) > count:
        kept = min(([one for one in kept if one != out] for out in kept), key=change)
    return kept


def _most_telling(
    before: nn.Sequential, behind: nn.Sequential, width: int, count: int, inputs: Tensor
) -> list[int]:
    """Take one channel after the other, for what it tells beyond those before it: the covariance of what is
    unknown, seen through the weights of the layer behind, shrinks most."""
    products, sums, values = inputs.new_zeros(width, width), inputs.new_zeros(width), 0
    for some in torch.split(inputs, _TOGETHER):
        channels = before(some).reshape(len(some), width, -1).transpose(0, 1).flatten(1)
        products += channels @ channels.T
        sums += channels.sum(1)
        values += channels.shape[1]
    mean = sums.double() / values
    unknown = products.double() / values - mean.outer(mean)
    weight = _weighted(behind, 0).weight
    heard = weight.double().reshape(len(weight), width, -1).transpose(0, 1).flatten(1)
    least = 1e-9 * unknown.diagonal().mean() + torch.finfo(unknown.dtype).tiny
    chosen: list[int] = []
    for _ in range(count):
        told = (heard.T @ unknown).square().sum(0) / unknown.diagonal().clamp_min(least)
        told[chosen] = -1.0
        best = int(told.argmax())
        chosen.append(best)
        unknown = unknown - unknown[:, best].outer(unknown[best]) / unknown[best, best].clamp_min(least)
    return sorted(chosen)


def _copy_channels(mine: _Weighted, its: nn.Module, kept: Tensor, heard: Tensor) -> None:
    """Take over the weights of the kept channels, for the channels of the layer before that were kept."""
    assert isinstance(its, _Weighted)
    into = its.weight[kept]
    fed = into.shape[1] * len(heard) // mine.weight.shape[1]  # channels of the teacher's layer before
    mine.weight.copy_(into.reshape(len(kept), fed, -1)[:, heard].reshape(mine.weight.shape))
    if mine.bias is not None:
        assert its.bias is not None
        mine.bias.copy_(its.bias[kept])


def _fit(
    small: nn.Sequential, large: nn.Sequential, place: int, kept: Tensor, inputs: Tensor, numbers: Generator
) -> None:
    """Change a layer's weights, no more than needed, so that it says what the teacher's kept channels say."""
    layer = _weighted(small, place)

    def wanted(some: Tensor) -> Tensor:
        said: Tensor = large[: place + 1](some)[:, kept]
        return said

    square, towards = _products(layer, small[:place], wanted, inputs, numbers)
    _set_rows(layer, _as_rows(layer) + _solve(square, towards))


def _products(
    layer: _Weighted,
    before: nn.Module,
    wanted: Callable[[Tensor], Tensor],
    inputs: Tensor,
    numbers: Generator,
) -> tuple[Tensor, Tensor]:
    """Return the products of what enters a layer with itself, and with what it lacks of what is wanted.

    A layer's values are taken as rows, one for each value that enters and one for its bias.
    """
    size = layer.weight[0].numel() + (layer.bias is not None)
    square = inputs.new_zeros(size, size, dtype=torch.double)
    towards = inputs.new_zeros(size, len(layer.weight), dtype=torch.double)
    for some in torch.split(inputs, _TOGETHER):
        rows = before(some)
        missing = wanted(some) - layer(rows)
        if isinstance(layer, nn.Conv2d):
            rows, missing = _patches(layer, rows, missing, numbers)
        if layer.bias is not None:
            rows = torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
        square += rows.T @ rows
        towards += rows.T @ missing
    return square, towards


def _solve(square: Tensor, towards: Tensor) -> Tensor:
    """Return the least change by ridge regression."""
    ridge = _RIDGE * square.diagonal().mean() + torch.finfo(square.dtype).tiny
    change: Tensor = torch.linalg.solve(square + ridge * torch.eye(len(square)).to(square), towards)
    return change


def _as_rows(layer: _Weighted) -> Tensor:
    rows = layer.weight.flatten(1).T
    return (rows if layer.bias is None else torch.cat([rows, layer.bias[None]])).double()


def _set_rows(layer: _Weighted, rows: Tensor) -> None:
    layer.weight.copy_(rows[: layer.weight[0].numel()].T.reshape(layer.weight.shape))
    if layer.bias is not None:
        layer.bias.copy_(rows[-1])


def _rows_of(channels: list[int], width: int, layer: _Weighted) -> Tensor:
    """Return which rows are these channels' of the layer before, out of so many, and the bias."""
    size = layer.weight[0].numel()
    rows = torch.arange(size, device=layer.weight.device).view(width, -1)[channels].flatten()
    return rows if layer.bias is None else torch.cat([rows, rows.new_tensor([size])])


def _weighted(chain: nn.Sequential, place: int) -> _Weighted:
    layer = chain[place]
    assert isinstance(layer, _Weighted)
    return layer


def _patches(layer: nn.Conv2d, given: Tensor, said: Tensor, numbers: Generator) -> tuple[Tensor, Tensor]:
    """Return what a convolution sees at some places, one row each, and what is said there."""
    if layer.padding == "same":
        spans = [step * (size - 1) for size, step in zip(layer.kernel_size, layer.dilation, strict=True)]
        around = [side for span in reversed(spans) for side in (span // 2, span - span // 2)]
    else:
        amounts = (0, 0) if isinstance(layer.padding, str) else layer.padding
        around = [amount for amount in reversed(amounts) for _ in range(2)]
    seen = F.pad(given, around)
    for axis in (0, 1):
        span = layer.dilation[axis] * (layer.kernel_size[axis] - 1) + 1
        seen = seen.unfold(2 + axis, span, layer.stride[axis])
    seen = seen[..., :: layer.dilation[0], :: layer.dilation[1]]  # still a view: (N, C, H, W, kernel)
    height, width = said.shape[2:]
    places = torch.randperm(height * width, generator=numbers)[:_PLACES].to(said.device)
    down, across = places // width, places % width
    rows = seen[:, :, down, across].transpose(1, 2).flatten(0, 1).flatten(1)
    return rows, said[:, :, down, across].transpose(1, 2).flatten(0, 1)
