"""The first thing that a network does: levels 0 to 255 of an image become numbers about 0.

x = (level - mean_c) / std_c        for each channel c of R, G, B, in float32
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from seglab.errors import ConfigError


class Normalise(nn.Module):
    """``forward(image [..., 3, H, W]) -> [..., 3, H, W]``: uint8 becomes normalised float32.

    A floating image is taken as normalised and returned as it is. Neither state dict nor buffers hold mean and std:
    they are configuration, and a network in half precision would round them.

    Args:
        mean: of each channel R, G, B, on the scale 0..255.
        std: likewise, above 0.

    Raises:
        ConfigError: not three finite numbers, or a std of 0 or less.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        for name, values, least in (("mean", mean, -math.inf), ("std", std, 0)):
            if len(values) != 3 or not all(math.isfinite(value) and value > least for value in values):
                above = " above 0" if name == "std" else ""
                raise ConfigError(
                    f"normalize.{name}={list(values)} — expected three numbers{above}, of R, G, B on the scale 0..255"
                    f" — set normalize.{name}, or choose another normalize="
                )
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        self._mean, self._std = self._tensors(torch.device("cpu"))

    def forward(self, image: Tensor) -> Tensor:
        if image.is_floating_point():
            return image
        return (image.float() - self._mean.to(image.device)) / self._std.to(image.device)

    def to_uint8(self, image: Tensor) -> Tensor:
        """A normalised image as it can be shown: the nearest level of each value; uint8 is returned as it is."""
        if not image.is_floating_point():
            return image
        levels = image.float() * self._std.to(image.device) + self._mean.to(image.device)
        return levels.round().clamp(0, 255).to(torch.uint8)

    @property
    def fill(self) -> tuple[int, int, int]:
        """The mean colour, rounded to 8 bits: what training pads images with, nearly 0 once normalised."""
        red, green, blue = (min(max(round(value), 0), 255) for value in self.mean)
        return red, green, blue

    def extra_repr(self) -> str:
        return f"mean={self.mean}, std={self.std}"

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """Move with the network; what it does to types is not followed."""
        # Made anew, because a network that comes from the meta device would bring none.
        self._mean, self._std = self._tensors(fn(self._mean).device)
        return super()._apply(fn, recurse)

    def _tensors(self, device: torch.device) -> list[Tensor]:
        return [torch.tensor(v, dtype=torch.float32, device=device).view(3, 1, 1) for v in (self.mean, self.std)]
