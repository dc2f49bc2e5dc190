"""The seam between a decoder's feature map and the losses: one classifier, one typed output."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from seglab.types import Output


class Classifier(nn.Module):
    """A pixel classifier: ``forward(feature [B, C, h, w], target [B, H, W] | None) -> Output``.

    A subclass takes ``in_channels`` and ``num_classes`` first (the builder hands them on), declares its ``Output`` and
    fills the label-using fields only when it is given a target.
    """

    Output: ClassVar[type[Output]] = Output

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.num_classes = num_classes

    def forward(self, feature: Tensor, target: Tensor | None = None) -> Output:  # type: ignore[valid-type]
        raise NotImplementedError
