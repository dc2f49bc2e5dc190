"""Two linear classifiers, the second of which is told where a pixel is: SSA-Seg's features without its prototypes.

Z = W dropout(X) + b,  F = position encoding of X,  R = V (X + F) + c
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from seglab.classifiers.linear import Linear
from seglab.classifiers.position import position_encoding
from seglab.types import Output


@dataclass(frozen=True, kw_only=True)
class LocatedOutput(Output):
    """``logits`` are the second classifier's."""

    coarse: Tensor
    """[B, K, h, w] logits of the first."""
    position: Tensor
    """[B or 1, C, h, w] the position encoding."""


class Located(Linear):
    """A :class:`Linear` classifier, and a second one on feature + position, which is the prediction.

    Args:
        position: conditional (depthwise convolution of the feature), learnable, sinusoidal or none.
        dropout: probability that a channel is zeroed, in front of the first convolution only.
        bias: whether the convolutions have one.

    Raises:
        ConfigError: an option out of range.
    """

    Output: ClassVar[type[Output]] = LocatedOutput

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        position: str = "conditional",
        dropout: float = 0.1,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, num_classes, dropout, bias)
        self.position = position_encoding(position, in_channels)
        self.second = Linear(in_channels, num_classes, dropout=0.0, bias=bias)

    def forward(self, feature: Tensor, target: Tensor | None = None) -> LocatedOutput:
        position = self.position(feature)
        return LocatedOutput(
            logits=self.second.static_logits(feature + position), coarse=self.static_logits(feature), position=position
        )
