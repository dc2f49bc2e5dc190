"""Auxiliary head: a small FCN with a plain classifier on an inner stage, there for the gradient it sends."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from seglab.decoders.blocks import Norm
from seglab.decoders.fcn import FCN


class AuxiliaryFCN(nn.Module):
    """``forward(maps) -> logits [B, K, h', w']`` at the stride of ``stage``.

    Args:
        dropout: probability with which a channel is left out before the classifier.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        stage: int = -2,
        width: int = 256,
        num_convs: int = 1,
        dropout: float = 0.1,
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.decoder = FCN(channels, strides, num_classes, width, num_convs, concat_input=False, stage=stage, norm=norm)
        self.stride = self.decoder.stride
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(self.decoder.out_channels, num_classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.classifier(self.dropout(self.decoder(maps).feature))
