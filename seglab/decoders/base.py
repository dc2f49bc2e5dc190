"""The seam between the backbone's maps and the classifier."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from torch import Tensor, nn

from seglab.types import Bands, Size


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What a decoder makes of the backbone's maps: a feature, or bands of one."""

    feature: Tensor | None = None
    """[B, C, h, w], what enters the pixel classifier (before its dropout)."""
    bands: Bands | None = None
    """In place of the feature, where that is too large to be held; only in evaluation."""
    pixels: Tensor | None = None
    """[B, h, w] int64, where the feature is of some pixels of each image only: their indices, row by row, at the
    ``size`` that was asked for. Only in training; None: of a grid over the whole image."""
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    """Its other branches by name (OCR's coarse logits, for one): those of ``branches`` that were wanted."""


class Decoder(nn.Module):
    """``forward(maps, wanted, size) -> Decoded``; publishes ``out_channels`` and ``stride`` of the decoded feature.

    ``wanted`` names the branches that somebody reads; a decoder computes no other. ``size`` is the [height, width] that
    the caller would resize the prediction to, for a decoder that can be asked at any resolution; such a decoder says so
    in ``any_size``.

    A subclass takes ``channels`` and ``strides`` of the maps (finest first) and ``num_classes`` first; the builder
    hands them on from the backbone and the dataset.
    """

    out_channels: int
    stride: int
    branches: Mapping[str, tuple[int, int]] = MappingProxyType({})
    """What it can add to the output beside the feature: name -> (channels, stride); stride 0 of what is one
    vector [B, channels] for the whole image."""
    any_size: bool = False
    """Whether its feature has the ``size`` that it is asked for, in evaluation."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.strides = tuple(strides)
        self.num_classes = num_classes

    def forward(
        self, maps: Sequence[Tensor], wanted: frozenset[str] = frozenset(), size: Size | None = None
    ) -> Decoded:
        raise NotImplementedError


def level_branches(channels: Sequence[int], strides: Sequence[int]) -> dict[str, tuple[int, int]]:
    """What a decoder of several levels publishes of them: ``decoder.0`` (the finest), ``decoder.1``, ….

    Heads and loss terms may read them as they read the backbone's maps ``backbone.0``, ….
    """
    return {f"decoder.{i}": pair for i, pair in enumerate(zip(channels, strides, strict=True))}


def wanted_levels(levels: Sequence[Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
    """Those of the levels, finest first, that somebody reads."""
    return {name: x for i, x in enumerate(levels) if (name := f"decoder.{i}") in wanted}
