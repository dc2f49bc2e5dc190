"""FFNet's decoder: a small top-down branch, then all of its levels at the size of the finest.

Mehta et al., "Simple and Efficient Architectures for Semantic Segmentation", CVPR workshops 2022, arXiv 2206.08236.

    a_i = adapter_i(m_i)                                                    1x1, i = 0 (finest) ... 3
    x_3 = a_3,    x_i = up(reduction_{i+1}(x_{i+1})) + a_i                  1x1
    s_i = smooth_i(x_i)                                                     3x3
    feature = fuse([s_0, up(s_1), up(s_2), up(s_3)])                        3x3

m_i: the backbone's maps, finest first. Every convolution has batch normalisation and ReLU; nothing follows the sums.
``up`` resizes to the finer map, in the concatenation each level directly to the finest.

| here | published code |
|---|---|
| adapters | head.layers.0.adapter_conv |
| smooths 0, 1, 2, 3 | head.layers.1: fam_4, fam_8_sm, fam_16_sm, fam_32_sm |
| reductions 0, 1, 2 | head.layers.1: fam_8_up, fam_16_up, fam_32_up |
| fuse | head.layers.3.last_layer 0 to 2; its last convolution is the classifier |
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seglab.backbones.ffnet import residual_block
from seglab.checks import one_of
from seglab.decoders.base import Decoded, Decoder, level_branches, wanted_levels
from seglab.decoders.blocks import ConvNormAct, Norm
from seglab.errors import ConfigError
from seglab.types import Size

UP_HEADS = {
    "A": ((64, 128, 256, 512), (128, 128, 128, 128)),
    "B": ((64, 128, 128, 256), (96, 96, 64, 32)),
    "C": ((128, 128, 128, 128), (128, 16, 16, 16)),
}
"""Channels of the adapters, and of the smoothed levels, finest first."""
SEG_HEADS = {"A": 512, "B": 256, "C": 128}
"""Channels of the feature. The published last convolution is 1x1 in A and C, 3x3 in B (``classifier.kernel=3``)."""
UPSAMPLING: dict[str, bool | None] = {"bilinear": True, "nearest": None}
"""align_corners by mode."""


class TopDown(nn.Module):
    """``forward(maps) -> levels``: [B, C_i, h_i, w_i] of each of the four maps, with the context of the coarser ones.

    Args:
        up: A, B or C: how many channels.
        upsampling: bilinear (with align_corners, the published GPU networks) or nearest (the mobile ones).

    Raises:
        ConfigError: an unknown choice, or another number of maps than four.
    """

    def __init__(self, channels: Sequence[int], up: str, upsampling: str, norm: Norm) -> None:
        super().__init__()
        base, smoothed = UP_HEADS[one_of("decoder.up", up, tuple(UP_HEADS))]
        self.mode = one_of("decoder.upsampling", upsampling, tuple(UPSAMPLING))
        if len(channels) != len(base):
            raise ConfigError(
                f"FFNet's decoder on a backbone with {len(channels)} maps — expected 4: set backbone.out_indices, or "
                "choose another decoder="
            )
        self.channels = smoothed
        self.adapters = nn.ModuleList([ConvNormAct(c, b, 1, norm) for c, b in zip(channels, base, strict=True)])
        self.smooths = nn.ModuleList([ConvNormAct(b, s, 3, norm) for b, s in zip(base, smoothed, strict=True)])
        self.reductions = nn.ModuleList([ConvNormAct(base[i + 1], base[i], 1, norm) for i in range(len(base) - 1)])

    def up(self, x: Tensor, like: Tensor) -> Tensor:
        """A map at the size of another one."""
        if x.shape[-2:] == like.shape[-2:]:
            return x
        return F.interpolate(x, size=like.shape[-2:], mode=self.mode, align_corners=UPSAMPLING[self.mode])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        adapted = [adapter(x) for adapter, x in zip(self.adapters, maps, strict=True)]
        x = adapted[-1]
        levels = [self.smooths[-1](x)]
        for i in range(len(adapted) - 2, -1, -1):
            x = self.up(self.reductions[i](x), adapted[i]) + adapted[i]
            levels.insert(0, self.smooths[i](x))
        return levels


def initialise(module: nn.Module) -> None:
    """As the published code: weights of convolutions N(0, 0.01), their biases 1e-4."""
    for each in module.modules():
        if isinstance(each, nn.Conv2d):
            nn.init.normal_(each.weight, std=0.01)
            if each.bias is not None:
                nn.init.constant_(each.bias, 1e-4)


class FFNet(Decoder):
    """Decoded feature at the finest stride, [B, 512, 256 or 128, h, w] for the seg-head A, B or C.

    The branches ``decoder.i`` are the smoothed levels s_i.

    Args:
        up: the up-head: A, B or C.
        seg: the seg-head: A, B or C.
        upsampling: bilinear or nearest.

    Raises:
        ConfigError: an unknown choice, or another number of maps than four.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        up: str = "B",
        seg: str = "B",
        upsampling: str = "bilinear",
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__(channels, strides, num_classes)
        self.out_channels = SEG_HEADS[one_of("decoder.seg", seg, tuple(SEG_HEADS))]
        self.stride = self.strides[0]
        self.top_down = TopDown(self.channels, up, upsampling, norm)
        self.fuse = ConvNormAct(sum(self.top_down.channels), self.out_channels, 3, norm, bias=True)
        self.branches = level_branches(self.top_down.channels, self.strides)
        initialise(self)

    def forward(
        self, maps: Sequence[Tensor], wanted: frozenset[str] = frozenset(), size: Size | None = None
    ) -> Decoded:
        levels = self.top_down(maps)
        joined = torch.cat([self.top_down.up(x, levels[0]) for x in levels], dim=1)
        return Decoded(feature=self.fuse(joined), extra=wanted_levels(levels, wanted))


class FFNetCategory(Decoder):
    """What FFNets are pretrained with on ImageNet: the top-down branch, then fine to coarse (for task=classification).

        y_0 = expansion_0(s_0),   y_i = expansion_i(s_i) + downsampling_i(y_{i-1}),   feature = final(y_3)

    expansion: a bottleneck block; downsampling: 3x3 of stride 2; final: 1x1. The feature [B, width, h, w] has the
    stride of the coarsest map; its mean over the image is what the published linear layer reads.

    Args:
        up: the up-head: A, B or C.
        upsampling: bilinear or nearest.
        width: channels of the feature, 2048 as published; y_0 to y_3 have a 16th to half of them.

    Raises:
        ConfigError: an unknown choice, another number of maps than four, maps that do not halve from one to the next.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        up: str = "B",
        upsampling: str = "bilinear",
        width: int = 2048,
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__(channels, strides, num_classes)
        self.out_channels = width
        self.stride = self.strides[-1]
        self.top_down = TopDown(self.channels, up, upsampling, norm)
        if any(coarse != 2 * fine for fine, coarse in pairwise(self.strides)):
            raise ConfigError(
                f"FFNet's classification decoder on maps of strides {self.strides} — expected each to be twice the one "
                "before: set backbone.output_stride=null, or choose decoder=last"
            )
        widths = [max(4, width // share) for share in (16, 8, 4, 2)]  # a bottleneck of 4 channels has one inside
        self.expansions = nn.ModuleList(
            [
                residual_block(c, w, bottleneck=True, norm=norm)
                for c, w in zip(self.top_down.channels, widths, strict=True)
            ]
        )
        self.downsamplings = nn.ModuleList(
            [ConvNormAct(a, b, 3, norm, stride=2, bias=True) for a, b in pairwise(widths)]
        )
        self.final = ConvNormAct(widths[-1], width, 1, norm, bias=True)
        initialise(self)

    def forward(
        self, maps: Sequence[Tensor], wanted: frozenset[str] = frozenset(), size: Size | None = None
    ) -> Decoded:
        levels = [expand(x) for expand, x in zip(self.expansions, self.top_down(maps), strict=True)]
        x = levels[0]
        for level, downsample in zip(levels[1:], self.downsamplings, strict=True):
            x = level + downsample(x)
        return Decoded(feature=self.final(x))
