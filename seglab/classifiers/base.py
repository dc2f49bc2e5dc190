"""The seam between a decoder's feature map and the losses: one classifier, one typed output."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from seglab.types import Bands, Output


class Classifier(nn.Module):
    """A pixel classifier: ``forward(feature [B, C, h, w], target [B, H, W] | None) -> Output``.

    A subclass takes ``in_channels`` and ``num_classes`` first (the builder hands them on), declares its ``Output`` and
    fills the label-using fields only when it is given a target.
    """

    Output: ClassVar[type[Output]] = Output
    bands: ClassVar[bool] = False
    """Whether :meth:`in_bands` is right for it. Not inherited: a subclass may look beyond a pixel."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.num_classes = num_classes

    def forward(self, feature: Tensor, target: Tensor | None = None) -> Output:  # type: ignore[valid-type]
        raise NotImplementedError

    def takes_bands(self) -> bool:
        """Whether its class itself declares ``bands``, and no option of it looks beyond a pixel."""
        return bool(vars(type(self)).get("bands", False))

    def in_bands(self, bands: Bands, target: Tensor | None = None) -> Output:  # type: ignore[valid-type]
        """The output of a feature that comes in bands of rows; in evaluation.

        This is for a classifier that reads each pixel by itself: every field of its output is a map.
        """
        parts = [self(each) for each in bands]
        names = [f.name for f in fields(parts[0]) if isinstance(getattr(parts[0], f.name), Tensor)]
        joined: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts], 2) for name in names}
        return self.Output(**joined)
