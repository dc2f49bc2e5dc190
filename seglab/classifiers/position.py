"""Where a pixel is, as a feature map: ``forward(feature [B, C, h, w]) -> [B or 1, C, h, w]``."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seglab.checks import one_of


class Learnable(nn.Module):
    """A learnt map of a fixed grid, stretched over the image; starts N(0, 0.02)."""

    def __init__(self, channels: int, grid: int = 16) -> None:
        super().__init__()
        self.map = nn.Parameter(torch.randn(1, channels, grid, grid) * 0.02)

    def forward(self, feature: Tensor) -> Tensor:
        return F.interpolate(self.map, feature.shape[-2:], mode="bilinear", align_corners=False)


class Sinusoidal(nn.Module):
    """Sines and cosines of geometric frequencies, half of the channels for y, half for x, over the image's extent."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        frequencies = math.ceil(channels / 4)
        exponent = torch.arange(frequencies) / max(frequencies, 1)
        self.register_buffer("frequency", 2 * math.pi / 10000**exponent, persistent=False)
        self.frequency: Tensor
        self.channels = channels

    def forward(self, feature: Tensor) -> Tensor:
        h, w = feature.shape[-2:]
        y, x = (self.encode(n).transpose(0, 1) for n in (h, w))
        both = torch.cat([y[:, :, None].expand(-1, h, w), x[:, None, :].expand(-1, h, w)])
        # Where C is no multiple of 4, the last channels are those that are left out of both axes alternately.
        order = torch.arange(len(both), device=both.device).reshape(2, -1).transpose(0, 1).flatten()
        return both[order[: self.channels]][None].to(feature.dtype)

    def encode(self, n: int) -> Tensor:
        """[n, 2 ceil(C / 4)] for n cells."""
        centre = (torch.arange(n, device=self.frequency.device) + 0.5) / n
        angle = centre[:, None] * self.frequency
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class NoPosition(nn.Module):
    """No position: zeros."""

    def forward(self, feature: Tensor) -> Tensor:
        return feature.new_zeros(1, *feature.shape[1:])


def position_encoding(kind: str, channels: int) -> nn.Module:
    """The encoding of a name; conditional is a depthwise 3x3 convolution of the feature itself.

    Raises:
        ConfigError: unknown name.
    """
    one_of("classifier.position", kind, ("conditional", "learnable", "sinusoidal", "none"))
    if kind == "conditional":
        return nn.Conv2d(channels, channels, kernel_size=3, padding=1, groups=channels)
    return {"learnable": Learnable, "sinusoidal": Sinusoidal}[kind](channels) if kind != "none" else NoPosition()
