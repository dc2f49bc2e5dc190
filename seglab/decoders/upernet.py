"""UPerNet (Xiao et al., "Unified Perceptual Parsing for Scene Understanding", ECCV 2018), its segmentation head.

    p_4 = pyramid_pooling(m_4),   p_i = lateral_i(m_i) + up(p_{i+1}),   feature = fuse([smooth_1(p_1), ..., up(p_4)])

m_i: the backbone's maps, finest first; lateral is 1x1, smooth and fuse are 3x3, each with normalisation and ReLU. The
coarsest level is not smoothed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seglab.decoders.base import Decoded, Decoder, level_branches, wanted_levels
from seglab.decoders.blocks import ConvNormAct, Norm, PyramidPooling, resize_to
from seglab.types import Size


class UPerNet(Decoder):
    """Decoded feature at the finest stride; the branches ``decoder.i`` are the levels that are fused, before."""

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        width: int = 512,
        bins: Sequence[int] = (1, 2, 3, 6),
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__(channels, strides, num_classes)
        self.pooling = PyramidPooling(self.channels[-1], width, bins, norm)
        self.laterals = nn.ModuleList([ConvNormAct(c, width, 1, norm) for c in self.channels[:-1]])
        self.smooths = nn.ModuleList([ConvNormAct(width, width, 3, norm) for _ in self.channels[:-1]])
        self.fuse = ConvNormAct(len(self.channels) * width, width, 3, norm)
        self.out_channels = width
        self.stride = self.strides[0]
        self.branches = level_branches([width] * len(self.channels), self.strides)

    def forward(
        self, maps: Sequence[Tensor], wanted: frozenset[str] = frozenset(), size: Size | None = None
    ) -> Decoded:
        levels = [lateral(x) for lateral, x in zip(self.laterals, maps[:-1], strict=True)]
        levels.append(self.pooling(maps[-1]))
        for i in range(len(levels) - 2, -1, -1):
            levels[i] = levels[i] + resize_to(levels[i + 1], levels[i])
        levels[:-1] = [smooth(x) for smooth, x in zip(self.smooths, levels[:-1], strict=True)]
        feature = self.fuse(torch.cat([resize_to(x, levels[0]) for x in levels], dim=1))
        return Decoded(feature=feature, extra=wanted_levels(levels, wanted))
