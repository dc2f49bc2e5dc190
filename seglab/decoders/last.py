"""No decoder: the backbone's last map is what the classifier reads, as in a linear probe."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from seglab.decoders.base import Decoded, Decoder
from seglab.types import Size


class LastMap(Decoder):
    """The coarsest map as it is, at its own stride; without parameters."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> None:
        super().__init__(channels, strides, num_classes)
        self.out_channels = self.channels[-1]
        self.stride = self.strides[-1]

    def forward(
        self, maps: Sequence[Tensor], wanted: frozenset[str] = frozenset(), size: Size | None = None
    ) -> Decoded:
        return Decoded(feature=maps[-1])
