"""A network as a classifier of images in [0, 1].

The wrapper holds the input specification of the network (mean, standard deviation, size, box). No other part
of the project normalises images.
"""

from __future__ import annotations

import copy as copying
import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from zskd.core.artefact import LARGEST_IMAGE
from zskd.core.errors import ZskdError
from zskd.core.extras import Declarations
from zskd.core.passes import count_pass
from zskd.core.rng import keep_global_rng
from zskd.core.types import Features, HeadWeight, Images, Logits
from zskd.models.class_names import check_names
from zskd.models.fusion import HowRun, fuse_layers, is_exported
from zskd.models.head import Head
from zskd.models.output import Output
from zskd.models.preparation import (
    copied,
    different_images,
    in_single_precision,
    set_layout,
    state_of,
    without_graphs,
)
from zskd.models.reading import Reading

if TYPE_CHECKING:
    from zskd.models.factory import Architecture
else:  # `factory` is above this file
    Architecture = Any


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
        for name in ("shape", "mean", "std", "box"):  # lists and NumPy numbers change fingerprints
            own = (one.item() if hasattr(one, "item") else one for one in getattr(self, name))
            object.__setattr__(self, name, tuple(own))
        if not all(abs(value) <= 1e6 for value in (*self.mean, *self.std)):  # also for NaN
            raise ZskdError("mean and std must be finite numbers of at most a million")
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ZskdError(
                f"input shape {self.shape}: it must be channels, height and width, each at least 1"
            )
        if math.prod(self.shape) > LARGEST_IMAGE:
            raise ZskdError(f"input shape {self.shape}: an image has at most {LARGEST_IMAGE:,} numbers")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.shape[0]):
                raise ZskdError(
                    f"{name} has {len(values)} values for {self.shape[0]} channels: give one, or one each"
                )
        if min(self.std) < 1e-6:
            raise ZskdError(f"std {self.std} must be above 0, at least 1e-6")
        low, high = self.box
        if not 0 <= low < high <= 1:
            raise ZskdError(f"box {self.box} must be two increasing numbers inside [0, 1]")


class Classifier(nn.Module):
    """Any `nn.Module` that scores classes, with its input specification and class names.

    The classifier holds a copy of the module. Changes of the classifier (training, freezing, device, memory
    layout) do not change the given module, and later changes of that module do not change the classifier.
    Device, modes, `requires_grad` and hooks are copied; gradients are not. Weights in half or double
    precision become float32.

    The module may return logits, log-probabilities or probabilities, one logit or one probability for two
    classes, or any of these in a tuple, a mapping or an object with `logits`: `output` says what was found.
    Its last linear map, the head, is looked for only where class vectors or features are read.

    The classifier runs a faster, equivalent network, but exports the module itself: `torch.export.export`,
    `torch.onnx.export` and `torch.jit.trace` leave the number of images open where the module does.

    Args:
        module: maps normalised images (N, C, H, W) to class scores (N, K), (N, K, 1, 1), (N, 1) or (N,).
        spec: input specification; one grey channel of 32×32 pixels in [0, 1] when absent.
        class_names: one name per class; "0", "1", … when absent.
        head: dotted name of the last linear layer; found automatically when absent. The output of a named
            `nn.Linear` is taken as the logits, before a softmax, a scale or an activation that follows.
        copy: False to use the module itself, if only this classifier uses it. Its memory layout and precision
            are then changed, and device and modes follow the classifier.

    Raises:
        ZskdError: the module does not accept such an input, returns no class scores or several (the
            candidates are listed), the named head is not its head, the class names do not fit, weights do not
            fit into float32, or the module cannot be copied.
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
        module = in_single_precision(copied(module) if copy else module)
        self.module = module
        self.spec = spec or InputSpec()
        device = next((p.device for p in module.parameters()), torch.device("cpu"))
        for name, values in (("mean", self.spec.mean), ("std", self.spec.std)):
            per_channel = torch.tensor(values, device=device).view(1, -1, 1, 1)
            self.register_buffer(name, per_channel, persistent=False)
        self.architecture: Architecture | None = None
        """How the module is built again; None where nobody told."""
        self.rewrite = True
        """Whether to run the faster, equivalent network instead of the module."""
        self.whole: tuple[nn.Module, ...] = ()
        """What runs instead of the rewritten network, inside a block of `models/running.py`."""
        probe = self._probe()
        with keep_global_rng():  # the module's forward pass may draw random numbers
            set_layout(module, probe)
            fused, self.merged = fuse_layers(module, probe)
            self._fused = (fused,)  # in a tuple, so that its parameters are not registered twice
            self._reading = Reading(
                module,
                probe,
                self._different_images,
                classes=None if class_names is None else len(class_names),
                named=head,
            )
        self.class_names = tuple(class_names or map(str, range(self._reading.classes)))
        check_names(self.class_names, self._reading.classes)

    @property
    def head_name(self) -> str | None:
        """Name of the head where it was given, or where the network returns the output of a linear layer."""
        return self._reading.head_name

    @property
    def head(self) -> nn.Linear:
        """The last linear layer.

        Raises:
            ZskdError: the head is no `nn.Linear` whose output gives the logits.
        """
        layer = self._reading.linear
        if layer is None:
            raise ZskdError("the network's output is not that of a linear layer: read head_weight instead")
        return layer

    def find_head(self) -> Head | ZskdError:
        """Return the last linear map with the class vectors, or the error that there is none."""
        return self._reading.find_head()

    @property
    def head_weight(self) -> HeadWeight:
        """Class vectors, one per row (K, D), detached, on the CPU: of one logit z, −w/2 and w/2.

        Raises:
            ZskdError: no linear map alone determines the output; the candidates are listed.
        """
        return self._reading.head().weight

    @property
    def head_bias(self) -> Tensor:
        """Bias of each class (K,), detached, on the CPU; zeros where the head has none.

        Raises:
            ZskdError: as `head_weight` does.
        """
        return self._reading.head().bias

    @property
    def output(self) -> str:
        """What the module returns and how logits are made of it, in words."""
        return self._reading.words

    @property
    def returned(self) -> Output:
        """What the module returns: where its values are, how many, and whether they are probabilities."""
        return self._reading.returned

    @property
    def reads_whole(self) -> bool:
        """Whether the logits are what the module returns, and not the output of a named layer in it."""
        return self._reading.runs_whole

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
        inputs = self.normalise(images)
        network = self.whole[0] if self.whole and self.runs_whole else self._network
        return count_pass(self, inputs, self._reading.logits(network, inputs))

    def features(self, images: Images) -> Features:
        """Return the penultimate features (N, D): the input of the head, averaged over its positions.

        Raises:
            ZskdError: there is no head; the candidates are listed.
        """
        features, _ = self.features_if_any(images)
        if isinstance(features, ZskdError):
            raise features
        return features

    def features_if_any(self, images: Images) -> tuple[Features | ZskdError, Logits]:
        """Return the features (N, D), or the error that there is no head, and the logits (N, K)."""
        inputs = self.normalise(images)
        features, logits = self._reading.features_if_any(self._network, inputs)
        return features, count_pass(self, inputs, logits)

    @property
    def fused(self) -> nn.Module:
        """The faster, equivalent network; the module itself where nothing can be fused."""
        return self._fused[0]

    @property
    def runs_whole(self) -> bool:
        """Whether `forward` runs the rewritten network, and reads none of its layers."""
        return self.rewrite and self._reading.runs_whole and not is_exported()

    @property
    def _network(self) -> nn.Module:
        return self.fused if self.rewrite and not is_exported() else self.module

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle by the arguments of the constructor."""
        return _rebuilt, (
            Declarations(),
            self.module,
            self.spec,
            self.class_names,
            self.head_name,
            self.rewrite,
            self.training,
            self.architecture,
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Classifier:
        """Copy as `copied` does."""
        rebuilt, arguments = self.__reduce__()
        memo.update(without_graphs(self.module))
        made: Classifier = rebuilt(*copying.deepcopy(arguments, memo))
        return made

    def __dir__(self) -> list[str]:
        """Leave out what raises an error where there is no head: torch.jit.trace reads every name."""
        absent = () if self._reading.linear is not None else ("head", "head_weight", "head_bias")
        return [name for name in super().__dir__() if name not in absent]  # type: ignore[no-untyped-call]

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
        for name, tensor in sorted(state_of(self.module).items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).numpy().tobytes())
        return digest.hexdigest()

    def _different_images(self) -> Images:
        return self.normalise(different_images(self.spec.shape, self.spec.box).to(self.device))

    def _probe(self) -> Images:
        """Return two different grey images, normalised, to test the network with."""
        low, high = self.spec.box
        ramp = torch.linspace(low, high, 2, device=self.device).view(2, 1, 1, 1)
        return self.normalise(ramp.expand(2, *self.spec.shape).contiguous())


def _rebuilt(
    _: Declarations,
    module: nn.Module,
    spec: InputSpec,
    class_names: tuple[str, ...],
    head: str | None,
    rewrite: bool,
    training: bool,
    architecture: Architecture | None,
) -> Classifier:
    classifier = Classifier(module, spec=spec, class_names=class_names, head=head, copy=False)
    classifier.rewrite, classifier.training, classifier.architecture = rewrite, training, architecture
    return classifier
