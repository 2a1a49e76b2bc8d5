"""How logits, features and class vectors are read from a network.

Most networks return the output of their last linear layer, and it is their logits as it is. Of all others it
is found out what they return.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from zskd.core.device import use_threads
from zskd.core.errors import ZskdError
from zskd.core.precision import present_precision
from zskd.core.rng import keep_global_rng
from zskd.core.types import Features, Logits
from zskd.models.head import Head, call_with_features, call_with_head, plain_head, read_network
from zskd.models.output import Output, first_rows, two_classes


class Reading:
    """What a network returns, and which linear map is its head.

    Args:
        module: the network, which may change later.
        probe: an input (N, C, H, W), normalised.
        different_images: returns images of all kinds, normalised, on the network's device.
        classes: number of classes, where it is known.
        named: dotted name of the head; None: find it.

    Raises:
        ZskdError: as `read_network` does.
    """

    def __init__(
        self,
        module: nn.Module,
        probe: Tensor,
        different_images: Callable[[], Tensor],
        *,
        classes: int | None,
        named: str | None,
    ) -> None:
        self._module, self._images = module, different_images
        self._found: tuple[tuple[int, ...], Head | ZskdError] | None = None
        plain = plain_head(module, probe)
        self._each_position = False
        self._as_it_is = plain is not None and named in (None, plain)
        self.head_name = plain if self._as_it_is else named
        """Name of the head where it was given, or where the network returns the output of a linear layer."""
        if self._as_it_is:
            layer = self.linear
            assert layer is not None
            self._output = Output(None, "logits", layer.out_features)
            return
        self._output, head = self._read(classes)
        self._found = self._state(), head
        self._each_position = isinstance(head, Head) and head.positions > 1

    @property
    def returned(self) -> Output:
        """What the network returns."""
        return self._output

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return self._output.classes

    @property
    def linear(self) -> nn.Linear | None:
        """The layer whose output is taken as the logits; None where they are read otherwise."""
        if self.head_name is None or self._each_position:
            return None
        layer = dict(self._module.named_modules()).get(self.head_name)
        return layer if isinstance(layer, nn.Linear) else None

    @property
    def words(self) -> str:
        """What the network returns and how logits are made of it."""
        if self.linear is not None and not self._as_it_is:
            return f"the output of the layer {self.head_name}, before what follows it"
        return self._output.words

    @property
    def runs_whole(self) -> bool:
        """Whether `logits` runs a network as a whole, and reads none of its layers."""
        return self._as_it_is or self.linear is None

    def logits(self, network: nn.Module, inputs: Tensor) -> Logits:
        """Return logits (N, K).

        Args:
            network: the module, or a faster one that returns the same.
            inputs: normalised images (N, C, H, W).
        """
        with self._precision(inputs.device):
            if self._as_it_is:
                answer = network(inputs)
                # in training mode, there may be further outputs behind it
                logits = answer if isinstance(answer, Tensor) else first_rows(answer, len(inputs))
            elif (layer := self.linear) is not None:
                logits = two_classes(call_with_head(network, layer, inputs)[1])
            else:
                # not len(): an export would keep the number of images
                logits = self._output.logits(network(inputs), inputs.shape[0])
        return logits.float()

    def _precision(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the precision of the block that runs a network.

        A probability near 1 is 1 in bfloat16, and log(p / (1 − p)) is then not what it was.
        """
        in_full = self.linear is None and self._output.kind == "sigmoids"
        return nullcontext() if in_full else _precision(device)

    def features_if_any(self, network: nn.Module, inputs: Tensor) -> tuple[Features | ZskdError, Logits]:
        """Return the features (N, D), or the error that there is no head, and the logits (N, K).

        Args:
            network: the module, or a faster one that returns the same.
            inputs: normalised images (N, C, H, W).
        """
        layer = self.linear
        if layer is not None:
            with self._precision(inputs.device):
                features, values = call_with_head(network, layer, inputs)
            return features.float(), two_classes(values.float())
        # which map is the head does not change with the weights
        head = self.find_head() if self._found is None else self._found[1]
        if isinstance(head, ZskdError):
            return head, self.logits(network, inputs)
        # the module as written: a rewritten one may have other linear maps
        with self._precision(inputs.device):
            features, answer = call_with_features(self._module, head, inputs)
            logits = self._output.logits(answer, inputs.shape[0])
        return features.float(), logits.float()

    def head(self) -> Head:
        """Return the head.

        Raises:
            ZskdError: no linear map alone determines the output; the candidates are listed.
        """
        found = self.find_head()
        if isinstance(found, ZskdError):
            raise found
        return found

    def find_head(self) -> Head | ZskdError:
        """Return the head with the present class vectors, or the error that there is none."""
        layer, name = self.linear, self.head_name
        # a weight that is computed from others, by weight norm, is known only when it is used
        if layer is not None and name is not None and "weight" in layer._parameters:
            weight = layer.weight.detach().cpu()
            bias = torch.zeros(len(weight)) if layer.bias is None else layer.bias.detach().cpu()
            return Head(name, two_classes(weight.T).T, two_classes(bias))
        state = self._state()
        if self._found is None or self._found[0] != state:
            self._found = state, self._read(self.classes)[1]
        return self._found[1]

    def _read(self, classes: int | None) -> tuple[Output, Head | ZskdError]:
        """Read the network on one thread, so that every process finds the same bits."""
        with keep_global_rng(), use_threads(1):
            return read_network(self._module, self._images(), classes=classes, named=self.head_name)

    def _state(self) -> tuple[int, ...]:
        """Return what changes whenever a weight or a buffer does."""
        tensors = (*self._module.parameters(), *self._module.buffers())
        return tuple(number for one in tensors for number in (one.data_ptr(), one._version))


def _precision(device: torch.device) -> AbstractContextManager[object]:
    """Return the block around a forward pass on a device; in single precision it does nothing."""
    if present_precision() == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)
