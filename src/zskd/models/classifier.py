"""A network as a classifier of images in [0, 1].

The wrapper holds the input specification of the network (mean, standard deviation, size, box). No other part
of the project normalises images.
"""

from __future__ import annotations

import copy as copying
import hashlib
import math
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor, nn

from zskd.core.errors import ZskdError, one_line
from zskd.core.rng import keep_global_rng
from zskd.core.types import Features, HeadWeight, Images, Logits
from zskd.models.fusion import fuse_layers
from zskd.models.head import call_with_head, find_head
from zskd.models.modes import in_mode


def check_classes(classifier: Classifier, names: tuple[str, ...]) -> None:
    """Check that classifier and data have the same classes.

    Args:
        classifier: any.
        names: class names of the data.

    Raises:
        ZskdError: another number of classes, or the same names in another order.
    """
    own = classifier.class_names
    if len(own) != len(names):
        raise ZskdError(
            f"the network has {len(own)} classes and the data {len(names)}: choose data with the same classes"
        )
    if own != names and sorted(own) == sorted(names):
        raise ZskdError(
            f"the network's classes are {', '.join(own)}, but the data has them in another order: "
            f"{', '.join(names)}"
        )


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """Input of a network: size, normalisation and pixel range."""

    shape: tuple[int, int, int] = (1, 32, 32)
    """Channels, height, width."""
    mean: tuple[float, ...] = (0.0,)
    """Subtracted from pixels in [0, 1]: one value, or one per channel."""
    std: tuple[float, ...] = (1.0,)
    """Divides the pixels afterwards: one value, or one per channel. 0.00392157 makes 0–255 of [0, 1]."""
    box: tuple[float, float] = (0.0, 1.0)
    """Least and largest pixel value of a valid image, inside [0, 1]."""

    def __post_init__(self) -> None:
        """Check all values.

        Raises:
            ZskdError: a value is invalid.
        """
        if not all(map(math.isfinite, (*self.mean, *self.std))):
            raise ZskdError(f"mean {self.mean} and std {self.std} must be finite numbers")
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ZskdError(
                f"input shape {self.shape}: it must be channels, height and width, each at least 1"
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.shape[0]):
                raise ZskdError(
                    f"{name} has {len(values)} values for {self.shape[0]} channels: give one, or one each"
                )
        if min(self.std) <= 0:
            raise ZskdError(f"std {self.std} must be above 0")
        low, high = self.box
        if not 0 <= low < high <= 1:
            raise ZskdError(f"box {self.box} must be two increasing numbers inside [0, 1]")


class HowRun(TypedDict):
    """Choices that change only speed and rounding of a network."""

    layout: Literal["channels_first", "channels_last"]
    """Memory layout of the convolutions."""
    merged: tuple[str, ...]
    """Convolutions that other layers were fused into."""


class Classifier(nn.Module):
    """Any `nn.Module` that ends in a linear layer, with its input specification and class names.

    The classifier holds a copy of the module. Changes of the classifier (training, freezing, device, memory
    layout) do not change the given module, and later changes of that module do not change the classifier.
    Device, modes, `requires_grad` and hooks are copied; gradients are not.

    Args:
        module: maps normalised images (N, C, H, W) to one row of class scores (K,) per image.
        spec: input specification; one grey channel of 32×32 pixels in [0, 1] when absent.
        class_names: one name per class; "0", "1", … when absent.
        head: dotted name of the last linear layer; found automatically when absent.
        copy: False to use the module itself, if only this classifier uses it. Its memory layout is then
            changed, and device and modes follow the classifier.

    Raises:
        ZskdError: the head cannot be found or is ambiguous (the candidates are listed), the class names
            do not fit, there is only one class, the module does not accept such an input, or it cannot be
            copied.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        module: nn.Module,
        *,
        spec: InputSpec | None = None,
        class_names: tuple[str, ...] | None = None,
        head: str | None = None,
        copy: bool = True,
    ) -> None:
        super().__init__()
        module = _copied(module) if copy else module
        self.module = module
        self.spec = spec or InputSpec()
        device = next((p.device for p in module.parameters()), torch.device("cpu"))
        for name, values in (("mean", self.spec.mean), ("std", self.spec.std)):
            per_channel = torch.tensor(values, device=device).view(1, -1, 1, 1)
            self.register_buffer(name, per_channel, persistent=False)
        self.rewrite = True
        """Whether to run the faster, equivalent network instead of the module."""
        probe = self._probe()
        with keep_global_rng():  # the module's forward pass may draw random numbers
            _set_layout(module, probe)
            fused, self.merged = fuse_layers(module, probe)
            # in a tuple, so that its parameters are not registered twice
            self._fused = (fused,)
            self.head_name, self._output_is_logits = find_head(module, probe, head)
        classes = self.head.out_features
        if classes < 2:
            raise ZskdError(
                f"the head {self.head_name!r} has one output: zero-shot distillation needs at least two "
                "classes, for the similarities of their class vectors"
            )
        self.class_names = class_names or tuple(str(k) for k in range(classes))
        if len(self.class_names) != classes:
            raise ZskdError(f"{len(self.class_names)} class names for {classes} classes of the network")

    @property
    def head(self) -> nn.Linear:
        """The last linear layer."""
        layer = self.module.get_submodule(self.head_name)
        assert isinstance(layer, nn.Linear)
        return layer

    @property
    def head_weight(self) -> HeadWeight:
        """Class vectors, one per row (K, D), detached, on the CPU."""
        return self.head.weight.detach().cpu()

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self.mean.device

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return len(self.class_names)

    @property
    def layout(self) -> Literal["channels_first", "channels_last"]:
        """Memory layout of the convolutions, which changes speed and rounding."""
        filters = [p for p in self.module.parameters() if p.ndim == 4 and p.shape[1] > 1]
        last = any(p.is_contiguous(memory_format=torch.channels_last) for p in filters)
        return "channels_last" if last else "channels_first"

    def how_run(self) -> HowRun:
        """Return the choices that change only speed and rounding, for a manifest."""
        return {"layout": self.layout, "merged": tuple(self.merged) if self.rewrite else ()}

    @property
    def parameters_count(self) -> int:
        """Number of trainable values in the network."""
        return sum(p.numel() for p in self.module.parameters())

    def normalise(self, images: Images) -> Images:
        """Return images (N, C, H, W) in [0, 1], normalised for the module.

        Always a new tensor, so that an in-place network cannot change the given images.
        """
        return (images - self.mean) / self.std

    def forward(self, images: Images) -> Logits:
        """Return logits (N, K) of images (N, C, H, W) in [0, 1]."""
        if self._output_is_logits:
            logits: Tensor = self._network(self.normalise(images))
            return logits
        return call_with_head(self._network, self.head, self.normalise(images))[1]

    def features(self, images: Images) -> Features:
        """Return the penultimate features (N, D): the input of the head."""
        return call_with_head(self._network, self.head, self.normalise(images))[0]

    @property
    def _network(self) -> nn.Module:
        return self._fused[0] if self.rewrite else self.module

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle by the arguments of the constructor."""
        return _rebuilt, (
            self.module,
            self.spec,
            self.class_names,
            self.head_name,
            self.rewrite,
            self.training,
        )

    def freeze(self) -> Classifier:
        """Switch this classifier, not the given module, permanently to evaluation mode without gradients.

        Functions of this package need no such call: they freeze a classifier while they use it and restore it
        (`zskd.models.modes.frozen`).

        Returns:
            The classifier itself.
        """
        self.eval()
        self.requires_grad_(False)
        return self

    def fingerprint(self) -> str:
        """Return a SHA-256 over weights, buffers, input specification, class names and head."""
        digest = hashlib.sha256(repr((self.spec, self.head_name, self.class_names)).encode())
        for name, tensor in sorted(self.module.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
        return digest.hexdigest()

    def _probe(self) -> Images:
        """Return two different grey images, normalised, to test the network with."""
        low, high = self.spec.box
        ramp = torch.linspace(low, high, 2, device=self.device).view(2, 1, 1, 1)
        return self.normalise(ramp.expand(2, *self.spec.shape).contiguous())


def _copied(module: nn.Module) -> nn.Module:
    try:
        return copying.deepcopy(module)
    except Exception as error:  # the user's network may raise any exception
        raise ZskdError(
            f"the network cannot be copied ({one_line(error)}): use Classifier(network, copy=False), which "
            "changes the network itself"
        ) from error


def _rebuilt(
    module: nn.Module,
    spec: InputSpec,
    class_names: tuple[str, ...],
    head: str,
    rewrite: bool,
    training: bool,
) -> Classifier:
    classifier = Classifier(module, spec=spec, class_names=class_names, head=head, copy=False)
    classifier.rewrite, classifier.training = rewrite, training
    return classifier


def _set_layout(module: nn.Module, probe: Tensor) -> None:
    """Store convolutions channels-last where the network allows it; this halves the time of a step on a CPU.

    `x.view(len(x), -1)` after a convolution needs channels first.
    """
    try:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.no_grad(), in_mode(module, training=False):
            module(probe)
    except Exception:  # `find_head` reports other errors
        module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
