"""Light, air and sensor of one scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Light:
    """A sun (``lamp`` None) or a lamp, ambient light, fog and the camera's response."""

    sun: Vector
    """Unit vector towards the sun; in a room, the direction from which shadows fall (straight up)."""
    lamp: Vector | None
    """Position of the lamp in metres."""
    direct: Vector
    ambient: Vector
    fog: float
    """Extinction per metre."""
    haze: Vector
    """Colour of the fog and of the horizon (linear)."""
    clouds: float
    gain: Vector
    """Exposure times colour cast, per channel."""


def _tint(rng: np.random.Generator, warmth: float) -> NDArray[np.float64]:
    return np.array((1 + warmth, 1.0 + rng.normal(0, 0.03), 1 - warmth))


def outdoor(rng: np.random.Generator, sky: NDArray[np.float32]) -> Light:
    """A sun somewhere above 20 degrees, from clear to overcast; ``sky`` is the sky's colour (linear)."""
    azimuth, elevation = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(20, 70))
    strength = rng.uniform(0.15, 1.0)
    horizon = np.cos(elevation)
    sun = np.array((np.cos(azimuth) * horizon, np.sin(azimuth) * horizon, np.sin(elevation)), np.float32)
    return Light(
        sun=sun,
        lamp=None,
        direct=(strength * _tint(rng, rng.uniform(0, 0.25))).astype(np.float32),
        ambient=((0.85 - 0.45 * strength) * _tint(rng, rng.uniform(-0.15, 0.05))).astype(np.float32),
        fog=float(rng.choice((0.0, 0.004, 0.012, 0.03)) * rng.uniform(0.5, 1)),
        haze=(sky + (1 - sky) * np.float32(rng.uniform(0.2, 0.7))).astype(np.float32),
        clouds=float(rng.choice((0.0, 0.4, 0.9))),
        gain=_gain(rng),
    )


def indoor(rng: np.random.Generator, size: tuple[float, float, float]) -> Light:
    """A lamp below the ceiling of a room of ``size`` [length, width, height]."""
    lamp = (rng.uniform(0.25, 0.75) * size[0], rng.uniform(-0.3, 0.3) * size[1], size[2] - rng.uniform(0.2, 0.7))
    warmth = rng.uniform(-0.05, 0.3)
    return Light(
        sun=np.array((0, 0, 1), np.float32),
        lamp=np.array(lamp, np.float32),
        direct=(rng.uniform(0.4, 1.1) * _tint(rng, warmth)).astype(np.float32),
        ambient=(rng.uniform(0.3, 0.6) * _tint(rng, warmth / 2)).astype(np.float32),
        fog=0.0,
        haze=np.ones(3, np.float32),
        clouds=0.0,
        gain=_gain(rng),
    )


def _gain(rng: np.random.Generator) -> Vector:
    cast = 1 + rng.normal(0, 0.07, 3)
    return (np.exp(rng.uniform(-0.5, 0.35)) * cast).astype(np.float32)
