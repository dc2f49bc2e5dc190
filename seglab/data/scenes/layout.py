"""What free ground an object may take."""

from __future__ import annotations

import math


class Free:
    """Circles already taken; keeps objects from standing in each other or in the camera."""

    def __init__(self) -> None:
        self._taken: list[tuple[float, float, float]] = []

    def claim(self, x: float, y: float, radius: float, reach: float = 0.0) -> bool:
        """Take a circle, or with ``reach`` three side by side over x - reach to x + reach; False if others are met."""
        circles = [(x + step, y, radius) for step in ((-reach, 0.0, reach) if reach else (0.0,))]
        if any(math.hypot(p - a, q - b) < radius + r for a, b, r in self._taken for p, q, _ in circles):
            return False
        self._taken += circles
        return True
