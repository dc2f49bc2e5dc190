"""Pairs of boundary maps for the inverse-transformation network: a true tile, and one that was warped and degraded.

A window of the label map, wider than a tile, becomes a boundary map; its middle is the true tile. The other tile is
sampled from the window along the warp theta, so that what lies beside the tile enters, and no border does::

    other(x) = window(theta x),   x over the tile

What a network predicts is softer than a label, thinner or thicker, noisy and has gaps: so is the other tile.
The publications say little of how the network was trained; this recipe is our own (docs/inverseform.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from seglab.checks import within
from seglab.errors import ConfigError
from seglab.models.inverse_net import Transformations
from seglab.ops.boundaries import boundary_map

REACH = 3
"""A Gaussian is cut off at this many standard deviations."""
GAPS = 8
"""Cells along a side of a tile, of which some are left out."""


class Draw(NamedTuple):
    """Random numbers of N pairs: what happens to each of them."""

    vector: Tensor
    """[N, P] the transformation."""
    contrast: Tensor
    """[N] factor."""
    blur: Tensor
    """[N] standard deviation in pixels."""
    thickness: Tensor
    """[N] -1 thinner, 0, 1 thicker by a pixel on each side."""
    noise: Tensor
    """[N, t, t] added."""
    kept: Tensor
    """[N, GAPS, GAPS] 1 where boundaries stay, 0 in a gap."""

    @classmethod
    def joined(cls, draws: Sequence[Draw]) -> Self:
        """All pairs of several draws."""
        return cls(*(torch.cat(list(values)) for values in zip(*draws, strict=True)))

    def to(self, device: torch.device) -> Draw:
        """The same on another device."""
        return Draw(*(values.to(device) for values in self))


class Pairs:
    """Makes pairs of windows of label maps.

    Args:
        radius: of the boundaries, as of the loss term that the network is for.
        window: side of the window, in tiles.
        identity: share of the pairs that are not warped.
        near: share of the others that are drawn from a smaller range: a loss works near the identity.
        near_range: that range, as a fraction of the whole.
        contrast: smallest factor; the largest is 1.
        blur: largest standard deviation, in pixels.
        thickness: share of the pairs whose boundaries are thinner or thicker by a pixel on each side.
        noise: largest standard deviation of noise.
        gaps: largest share of a tile's cells in which boundaries are left out.

    Raises:
        ConfigError: an option out of range.
    """

    def __init__(
        self,
        radius: int = 2,
        window: float = 1.5,
        identity: float = 0.1,
        near: float = 0.5,
        near_range: float = 0.25,
        contrast: float = 0.5,
        blur: float = 1.5,
        thickness: float = 0.67,
        noise: float = 0.1,
        gaps: float = 0.2,
    ) -> None:
        shares = {"identity": identity, "near": near, "near_range": near_range, "contrast": contrast,
                  "thickness": thickness, "noise": noise, "gaps": gaps}  # fmt: skip
        for name, value in shares.items():
            within(f"task.pairs.{name}", value, 0, 1)
        self.radius = int(within("task.pairs.radius", radius, 1))
        self.window = within("task.pairs.window", window, 1)
        self.blur = within("task.pairs.blur", blur, 0, 8)
        self.identity, self.near, self.near_range = identity, near, near_range
        self.contrast, self.thickness, self.noise, self.gaps = contrast, thickness, noise, gaps

    def side(self, tile: int) -> int:
        """Side of a window in pixels."""
        return round(self.window * tile)

    def draw(self, number: int, parameters: int, tile: int, generator: torch.Generator | None = None) -> Draw:
        """Random numbers of some pairs, on the CPU."""

        def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
            return low + (high - low) * torch.rand(shape, generator=generator)

        near = (uniform(number, 1) < self.near) * (1 - self.near_range)
        vector = uniform(number, parameters, low=-1) * (1 - near) * (uniform(number, 1) >= self.identity)
        sign = torch.where(uniform(number) < 0.5, -1.0, 1.0)
        return Draw(
            vector=vector,
            contrast=uniform(number, low=self.contrast),
            blur=uniform(number, high=self.blur),
            thickness=sign * (uniform(number) < self.thickness),
            noise=torch.randn(number, tile, tile, generator=generator) * uniform(number, 1, 1, high=self.noise),
            kept=(uniform(number, GAPS, GAPS) >= uniform(number, 1, 1, high=self.gaps)).float(),
        )

    def windows(self, label: Tensor, tile: int, number: int) -> Tensor:
        """``number`` windows [number * B, s, s] of each of B label maps [B, H, W], at random places.

        Raises:
            ConfigError: maps that are smaller.
        """
        side = self.side(tile)
        height, width = label.shape[-2:]
        if min(height, width) < side:
            raise ConfigError(
                f"label maps of {height}x{width} (height x width) hold no window of {side}x{side} for tiles of {tile} "
                f"— expected larger ones; set augment.crop=[{side},{side}] or more, or a smaller inverse_net.tile"
            )
        count = number * len(label)
        tops, lefts = (torch.randint(n - side + 1, (count,)).tolist() for n in (height, width))
        places = enumerate(zip(tops, lefts, strict=True))
        return torch.stack([label[i // number, y : y + side, x : x + side] for i, (y, x) in places])

    def make(self, windows: Tensor, draw: Draw, transformations: Transformations, tile: int) -> Tensor:
        """Tiles [N, 2, t, t] from 0 to 1 of label windows [N, s, s]: the degraded one, and the true one."""
        draw = draw.to(windows.device)
        # The window's own border is none of the image's.
        boundaries = boundary_map(windows, self.radius, frame=False).float()[:, None]
        start = (boundaries.shape[-1] - tile) // 2
        true = boundaries[..., start : start + tile, start : start + tile]
        other = warped(boundaries, transformations.matrix(draw.vector), tile)
        return torch.cat([degraded(other, draw, max(1, math.ceil(REACH * self.blur))), true], 1)


def warped(boundaries: Tensor, theta: Tensor, tile: int) -> Tensor:
    """Tiles [N, 1, t, t] of windows [N, 1, s, s] whose point x shows the window's point theta x, seen from its middle.

    Args:
        theta: [N, 3, 3], of points (x, y, 1) from -1 to 1 over the tile.
    """
    side = boundaries.shape[-1]
    centres = (torch.arange(tile, device=theta.device, dtype=theta.dtype) * 2 + 1) / tile - 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], -1).view(-1, 3) @ theta.mT  # [N, t * t, 3]
    moved = points[..., :2] / points[..., 2:]
    # The middle of a window of which the tile leaves an odd number of pixels is half a pixel off.
    offset = (2 * ((side - tile) // 2) + tile) / side - 1
    grid = (moved * (tile / side) + offset).unflatten(1, (tile, tile))
    return F.grid_sample(boundaries, grid, padding_mode="border", align_corners=False)


def degraded(tiles: Tensor, draw: Draw, reach: int) -> Tensor:
    """Tiles [N, 1, t, t] as a network might predict them; ``reach`` of the blur, in pixels."""
    thin, thick = -F.max_pool2d(-tiles, 3, 1, 1), F.max_pool2d(tiles, 3, 1, 1)
    kind = draw.thickness[:, None, None, None]
    tiles = thin.where(kind < 0, thick.where(kind > 0, tiles))
    tiles = tiles * F.interpolate(draw.kept[:, None], tiles.shape[-2:], mode="nearest")
    tiles = blurred(tiles, draw.blur, reach) * draw.contrast[:, None, None, None]
    return (tiles + draw.noise[:, None]).clamp(0, 1)


def blurred(tiles: Tensor, deviation: Tensor, reach: int) -> Tensor:
    """Tiles [N, 1, t, t], each after a Gaussian of its own standard deviation [N], cut off after ``reach`` pixels."""
    number = len(tiles)
    x = torch.arange(-reach, reach + 1, device=tiles.device, dtype=tiles.dtype)
    kernel = (-(x**2) / (2 * deviation[:, None].clamp(min=0.1) ** 2)).exp()
    kernel = kernel / kernel.sum(1, keepdim=True)
    stacked = tiles.transpose(0, 1)  # one group for each tile
    rows = F.conv2d(F.pad(stacked, (0, 0, reach, reach), mode="replicate"), kernel[:, None, :, None], groups=number)
    both = F.conv2d(F.pad(rows, (reach, reach, 0, 0), mode="replicate"), kernel[:, None, None], groups=number)
    return both.transpose(0, 1)
