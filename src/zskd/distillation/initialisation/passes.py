"""Images on their way through a chain of layers, kept at the layer that was reached last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from zskd.core.memory import available_memory

_SHARE_OF_MEMORY = 8
"""One part in so many of the free memory may hold kept values; where more are needed, layers run again."""


class Passes:
    """The inputs of one layer of a chain after the other, for the same images.

    Whether values are kept or computed again does not change a bit of them, as the parts are the same.

    Args:
        chain: layers, in evaluation mode; the weights of those that were not reached yet may change.
        parts: normalised images (N, C, H, W), in as many parts as go through the layers at once.
    """

    def __init__(self, chain: nn.Sequential, parts: Sequence[Tensor]) -> None:
        self._layers, self._kept, self._reached = list(chain), list(parts), 0
        self._room = available_memory(parts[0].device) // _SHARE_OF_MEMORY

    def at(self, index: int) -> Iterator[Tensor]:
        """Yield the inputs of layer `index`, part by part; they are not to be changed."""
        yield from self._from(self._reached, index)

    def advance(self, index: int) -> None:
        """Keep the inputs of layer `index`, at or after the one that was reached, where there is room."""
        if index <= self._reached:
            return
        kept: list[Tensor] = []
        for part in self.at(index):
            kept.append(part)
            if part.nbytes * len(self._kept) > self._room:
                return
        self._kept, self._reached = kept, index

    def _from(self, first: int, last: int) -> Iterator[Tensor]:
        layers = self._layers[first:last]
        in_place = any(getattr(layer, "inplace", False) for layer in layers)
        for part in self._kept:
            values = part.clone() if in_place else part
            for layer in layers:
                values = layer(values)
            yield values
