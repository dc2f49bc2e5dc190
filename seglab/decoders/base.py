"""The seam between the backbone's maps and the classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What a decoder makes of the backbone's maps. Decoders with more to say add typed optional fields here."""

    feature: Tensor
    """[B, C, h, w], what enters the pixel classifier (before its dropout)."""
    auxiliary: Tensor | None = None
    """[B, K, h', w'] logits of a head inside the decoder (OCR's first stage, for one)."""


class Decoder(nn.Module):
    """``forward(maps) -> Decoded``; publishes ``out_channels`` and ``stride`` of the decoded feature.

    A subclass takes ``channels`` and ``strides`` of the maps (finest first) and ``num_classes`` first; the builder
    hands them on from the backbone and the dataset.
    """

    out_channels: int
    stride: int

    def __init__(self, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.strides = tuple(strides)
        self.num_classes = num_classes

    def forward(self, maps: Sequence[Tensor]) -> Decoded:
        raise NotImplementedError
