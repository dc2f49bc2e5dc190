"""What the surfaces of one scene look like: every scene draws a colour and a texture for each class anew.

``variation`` is the probability that a class takes its looks from one distribution shared by all classes instead of its
own typical looks: at 0 colour tells the class, at 1 colour says nothing across scenes and only context does.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seglab.data.scenes.classes import Label
from seglab.data.scenes.textures import Pattern

# Materials beyond one per class: parts of objects that look alike in every scene.
GLASS, RUBBER, BARK, ROOF, SKIN = range(len(Label), len(Label) + 5)
COUNT = len(Label) + 5

# Typical hue, saturation, value and patterns.
_TYPICAL: dict[Label, tuple[float, float, float, tuple[Pattern, ...]]] = {
    Label.OVERHEAD: (0.58, 0.30, 0.90, (Pattern.PLAIN,)),
    Label.GROUND: (0.11, 0.25, 0.60, (Pattern.TILES, Pattern.SPOTS)),
    Label.PATH: (0.65, 0.08, 0.33, (Pattern.PLAIN,)),
    Label.WALL: (0.07, 0.40, 0.65, (Pattern.BRICKS, Pattern.PLAIN)),
    Label.WINDOW: (0.57, 0.35, 0.40, (Pattern.PLAIN,)),
    Label.DOOR: (0.06, 0.60, 0.40, (Pattern.TILES,)),
    Label.VEGETATION: (0.28, 0.60, 0.45, (Pattern.SPOTS,)),
    Label.VEHICLE: (0.00, 0.75, 0.65, (Pattern.PLAIN,)),
    Label.FURNITURE: (0.08, 0.55, 0.50, (Pattern.STRIPES_V, Pattern.PLAIN)),
    Label.PERSON: (0.60, 0.60, 0.55, (Pattern.PLAIN,)),
    Label.POLE: (0.60, 0.05, 0.45, (Pattern.PLAIN,)),
    Label.SIGN: (0.14, 0.85, 0.90, (Pattern.CHECKS,)),
}
_COMMON = (
    Pattern.PLAIN,
    Pattern.PLAIN,
    Pattern.STRIPES_U,
    Pattern.STRIPES_V,
    Pattern.CHECKS,
    Pattern.BRICKS,
    Pattern.TILES,
    Pattern.SPOTS,
    Pattern.SPOTS,
)
_LARGE = {Label.OVERHEAD, Label.GROUND, Label.PATH, Label.WALL}
_CANDIDATES = 4


@dataclass(frozen=True)
class Materials:
    """One row per material; colours are linear light, periods and sizes metres."""

    base: NDArray[np.float32]
    accent: NDArray[np.float32]
    trim: NDArray[np.float32]
    """Of the frames of windows, doors and signs."""
    pattern: tuple[int, ...]
    period: tuple[float, ...]
    grain: NDArray[np.float32]
    """Amplitude of the noise on the brightness."""
    grain_size: NDArray[np.float32]


def _rgb(hue: float, saturation: float, value: float) -> NDArray[np.float64]:
    return np.array(colorsys.hsv_to_rgb(hue % 1, min(max(saturation, 0), 1), min(max(value, 0), 1)))


def _shared_colour(rng: np.random.Generator) -> NDArray[np.float64]:
    hue, saturation, value = rng.random(3).tolist()
    return _rgb(hue, 0.75 * saturation**1.5, 0.18 + 0.77 * value)


def draw_materials(rng: np.random.Generator, variation: float, outdoors: bool) -> Materials:
    """The materials of one scene; ``outdoors`` paths are roads and may have a dashed line."""
    base, accent, trim = np.zeros((COUNT, 3)), np.zeros((COUNT, 3)), np.zeros((COUNT, 3))
    pattern, period = [int(Pattern.PLAIN)] * COUNT, [1.0] * COUNT
    grain, grain_size = np.full(COUNT, 0.25), np.full(COUNT, 2.0)
    chosen: list[int] = []
    for label in rng.permutation(len(Label)).tolist():
        hue, saturation, value, patterns = _TYPICAL[Label(label)]
        if rng.random() < variation:
            # Of a few candidates the one least like the classes already drawn: within one image classes should differ.
            candidates = np.array([_shared_colour(rng) for _ in range(_CANDIDATES)])
            distance = ((candidates[:, None] - base[chosen]) ** 2).sum(-1).min(1, initial=3.0)
            colour = candidates[int(distance.argmax())]
            patterns = _COMMON
        else:
            jitter = rng.normal(0, (0.03, 0.08, 0.08))
            colour = _rgb(hue + jitter[0], saturation + jitter[1], value + jitter[2])
        base[label] = colour
        chosen.append(label)
        toward = _shared_colour(rng) if rng.random() < 0.3 else np.full(3, float(rng.random() < 0.5))
        accent[label] = colour + rng.uniform(0.25, 0.6) * (toward - colour)
        trim[label] = np.full(3, rng.uniform(0.8, 0.95) if colour.mean() < 0.5 else rng.uniform(0.05, 0.25))
        pattern[label] = int(patterns[int(rng.integers(len(patterns)))])
        large = label in _LARGE
        period[label] = float(np.exp(rng.uniform(np.log(0.3), np.log(1.5)))) * (1.0 if large else 0.4)
        grain[label] = rng.uniform(0.1, 0.7)
        grain_size[label] = rng.uniform(2, 8) if large else rng.uniform(0.8, 3)
    # Leaves, whatever their colour, are coarse.
    grain[Label.VEGETATION], grain_size[Label.VEGETATION] = rng.uniform(1.0, 1.6), rng.uniform(1.0, 2.5)
    if outdoors and rng.random() < 0.6:
        pattern[Label.PATH], period[Label.PATH] = int(Pattern.LANE), rng.uniform(3, 6)
        accent[Label.PATH] = np.full(3, 0.85) if base[Label.PATH].mean() < 0.6 else np.full(3, 0.2)
    base[GLASS] = accent[GLASS] = (0.16, 0.2, 0.25)
    base[RUBBER] = accent[RUBBER] = (0.1, 0.1, 0.1)
    base[BARK] = accent[BARK] = _rgb(rng.uniform(0.04, 0.12), rng.uniform(0.1, 0.5), rng.uniform(0.15, 0.5))
    base[ROOF] = accent[ROOF] = base[Label.WALL] * rng.uniform(0.3, 0.8)
    base[SKIN] = accent[SKIN] = _rgb(0.06, 0.45, rng.uniform(0.3, 0.9))
    return Materials(
        base=(base**2).astype(np.float32),
        accent=(accent**2).astype(np.float32),
        trim=(trim**2).astype(np.float32),
        pattern=tuple(pattern),
        period=tuple(period),
        grain=grain.astype(np.float32),
        grain_size=grain_size.astype(np.float32),
    )
