"""SegFormer's head (Xie et al., NeurIPS 2021), as its public training code builds it.

    feature = fuse([up(project_1(m_1)), ..., up(project_4(m_4))])

m_i: the backbone's maps, finest first; project and fuse are 1x1 convolutions with normalisation and ReLU (the paper's
projections are bare linear layers; the published segmentation results come from this form).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seglab.decoders.base import Decoded, Decoder
from seglab.decoders.blocks import ConvNormAct, Norm, resize_to
from seglab.types import Size


class MLP(Decoder):
    """Decoded feature at the finest stride."""

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        width: int = 256,
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__(channels, strides, num_classes)
        self.projections = nn.ModuleList([ConvNormAct(c, width, 1, norm) for c in self.channels])
        self.fuse = ConvNormAct(len(self.channels) * width, width, 1, norm)
        self.out_channels = width
        self.stride = self.strides[0]

    def forward(
        self, maps: Sequence[Tensor], wanted: frozenset[str] = frozenset(), size: Size | None = None
    ) -> Decoded:
        levels = [project(x) for project, x in zip(self.projections, maps, strict=True)]
        return Decoded(feature=self.fuse(torch.cat([resize_to(x, levels[0]) for x in levels], dim=1)))
