"""A light top-down decoder after FPN (Lin et al., CVPR 2017).

    p_n = smooth_n(lateral_n(m_n)),   p_i = smooth_i(lateral_i(m_i) + up(p_{i+1})),   feature = p_1

m_i: the backbone's maps, finest first; lateral is a 1x1 convolution, smooth a 3x3 one with normalisation and ReLU.
Unlike semantic FPN it keeps only the finest level: most of the price is one 3x3 convolution there.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from seglab.decoders.base import Decoded, Decoder, level_branches, wanted_levels
from seglab.decoders.blocks import ConvNormAct, Norm, resize_to
from seglab.types import Size


class FPN(Decoder):
    """Decoded feature at the finest stride; the branches ``decoder.i`` are the levels p_i."""

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        width: int = 96,
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__(channels, strides, num_classes)
        self.laterals = nn.ModuleList([nn.Conv2d(c, width, 1) for c in self.channels])
        self.smooths = nn.ModuleList([ConvNormAct(width, width, 3, norm) for _ in self.channels])
        self.out_channels = width
        self.stride = self.strides[0]
        self.branches = level_branches([width] * len(self.channels), self.strides)

    def forward(
        self, maps: Sequence[Tensor], wanted: frozenset[str] = frozenset(), size: Size | None = None
    ) -> Decoded:
        x = self.smooths[-1](self.laterals[-1](maps[-1]))
        levels = [x]
        for i in range(len(maps) - 2, -1, -1):
            lateral = self.laterals[i](maps[i])
            x = self.smooths[i](lateral + resize_to(x, lateral))
            levels.insert(0, x)
        return Decoded(feature=x, extra=wanted_levels(levels, wanted))
