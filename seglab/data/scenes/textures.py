"""Procedural textures: functions of surface coordinates in metres, band-limited by the footprint of a pixel.

Legend: u, v surface coordinates [n] in metres; fu, fv footprint of one pixel along them in metres. Every pattern gives
values in 0..1 and goes to its mean where the footprint nears its period, so that distance blurs instead of aliasing.
"""

from __future__ import annotations

from enum import IntEnum
from functools import cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

TILE = 256
_LEVELS = 9


class Pattern(IntEnum):
    """Which function draws the accent colour over the base colour."""

    PLAIN = 0
    STRIPES_U = 1
    STRIPES_V = 2
    CHECKS = 3
    BRICKS = 4
    TILES = 5
    SPOTS = 6
    LANE = 7  # a road's dashed line in the middle (v = 0)


@cache
def _noise_pyramid() -> tuple[Array, NDArray[np.int32]]:
    """A periodic 1/f noise tile and its box-filtered halvings, flat, with the start of each level."""
    white = np.fft.rfft2(np.random.default_rng(20230211).standard_normal((TILE, TILE)))
    frequency = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)[None]) * TILE
    tile = np.fft.irfft2(white / np.maximum(frequency, 2.0) ** 1.2, s=(TILE, TILE))
    tile = np.clip(0.5 + 0.22 * (tile - tile.mean()) / tile.std(), 0, 1)
    levels = [tile]
    for _ in range(_LEVELS - 1):
        half = levels[-1]
        levels.append((half[::2, ::2] + half[1::2, ::2] + half[::2, 1::2] + half[1::2, 1::2]) / 4)
    starts = np.cumsum([0] + [level.size for level in levels[:-1]]).astype(np.int32)
    return np.concatenate([level.ravel() for level in levels]).astype(np.float32), starts


def noise(u: Array, v: Array, footprint: Array) -> Array:
    """1/f noise in 0..1, mean 0.5, of period 1 in u and v; ``footprint`` picks the level of the pyramid."""
    values, starts = _noise_pyramid()
    # The exponent of frexp is a logarithm for the price of reading bits.
    level = np.clip(np.frexp(footprint * np.float32(TILE))[1], 0, _LEVELS - 1)
    start = starts[level]
    side = TILE >> level
    x, y = u * side, v * side
    x0, y0 = np.floor(x), np.floor(y)
    fx, fy = x - x0, y - y0
    wrap = side - 1
    i, j = x0.astype(np.int32), y0.astype(np.int32)
    left, right = i & wrap, (i + 1) & wrap
    top = start + (j & wrap) * side
    bottom = start + ((j + 1) & wrap) * side
    upper = values[top + left]
    upper += (values[top + right] - upper) * fx
    lower = values[bottom + left]
    lower += (values[bottom + right] - lower) * fx
    return upper + (lower - upper) * fy


def wave(x: Array, footprint: Array, duty: float) -> Array:
    """A filtered square wave of period 1 that is 1 on a part ``duty`` of it, centred at x = 0.5."""
    distance = np.abs(x - np.floor(x) - np.float32(0.5))
    value = np.clip((np.float32(duty / 2) - distance) / np.maximum(footprint, np.float32(1e-3)) + np.float32(0.5), 0, 1)
    return value + (np.float32(duty) - value) * np.clip(2 * footprint - np.float32(0.5), 0, 1)


def draw(pattern: int, u: Array, v: Array, fu: Array, fv: Array, period: float, grain: Array) -> Array | None:
    """The weight of the accent colour, [n] in 0..1; None for a plain surface. ``grain`` is its noise."""
    p = np.float32(1 / period)
    match pattern:
        case Pattern.STRIPES_U:
            return wave(u * p, fu * p, 0.5)
        case Pattern.STRIPES_V:
            return wave(v * p, fv * p, 0.5)
        case Pattern.CHECKS:
            a, b = wave(u * p, fu * p, 0.5), wave(v * p, fv * p, 0.5)
            return a + b - 2 * a * b
        case Pattern.BRICKS:
            row = v * (2 * p)
            shifted = u * p + np.float32(0.5) * (np.floor(row) % 2)
            return 1 - wave(shifted, fu * p, 0.92) * wave(row, fv * (2 * p), 0.84)
        case Pattern.TILES:
            return 1 - wave(u * p, fu * p, 0.92) * wave(v * p, fv * p, 0.92)
        case Pattern.SPOTS:
            return np.clip((grain - np.float32(0.52)) * 6 + np.float32(0.5), 0, 1)
        case Pattern.LANE:
            middle: Array = np.clip(1 - (np.abs(v) - np.float32(0.08)) / np.maximum(fv, np.float32(1e-3)), 0, 1)
            middle *= np.float32(0.16) / np.maximum(fv, np.float32(0.16))
            return middle * wave(u * p, fu * p, 0.5)
    return None
