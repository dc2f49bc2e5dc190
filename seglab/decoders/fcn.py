"""FCN head (Long et al., CVPR 2015) in the form that baselines report: convolutions on one stage of a dilated backbone.

    y = conv_n(... conv_1(x)),   feature = conv_cat([x, y])

x: a backbone map; every conv is 3x3 with normalisation and ReLU; ``conv_cat`` only with ``concat_input``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from seglab.decoders.base import Decoded, Decoder
from seglab.decoders.blocks import ConvNormAct, Norm
from seglab.errors import ConfigError
from seglab.types import Size


class FCN(Decoder):
    """Decoded feature at the stride of ``stage``.

    Args:
        width: channels of the convolutions.
        num_convs: 0 with ``concat_input=False`` passes the stage on as it is (the bare classifier).
        stage: which of the backbone's maps, counted as in a list.

    Raises:
        ConfigError: a stage that the backbone does not have; fewer than 0 convolutions.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        width: int = 512,
        num_convs: int = 2,
        concat_input: bool = True,
        stage: int = -1,
        kernel_size: int = 3,
        dilation: int = 1,
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__(channels, strides, num_classes)
        if not -len(self.channels) <= stage < len(self.channels):
            raise ConfigError(
                f"stage {stage} of a backbone with {len(self.channels)} maps — expected {-len(self.channels)} to "
                f"{len(self.channels) - 1}: set stage under decoder or heads"
            )
        if num_convs < 0:
            raise ConfigError(f"num_convs={num_convs} — expected 0 or more: set num_convs under decoder or heads")
        self.stage = stage
        self.stride = self.strides[stage]
        in_channels = self.channels[stage]
        widths = [in_channels] + [width] * num_convs
        self.convs = nn.Sequential(*(ConvNormAct(a, b, kernel_size, norm, dilation) for a, b in pairwise(widths)))
        self.conv_cat = ConvNormAct(in_channels + widths[-1], width, kernel_size, norm) if concat_input else None
        self.out_channels = width if concat_input else widths[-1]

    def forward(
        self, maps: Sequence[Tensor], wanted: frozenset[str] = frozenset(), size: Size | None = None
    ) -> Decoded:
        x = maps[self.stage]
        feature = self.convs(x)
        if self.conv_cat is not None:
            feature = self.conv_cat(torch.cat([x, feature], dim=1))
        return Decoded(feature=feature)
