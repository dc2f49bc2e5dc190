"""The camera: a pinhole that moves smoothly with time.

World: x ahead, y left, z up, metres. Camera: x right, y down, z along the optical axis. Pixel (0, 0) is the centre of
the upper left pixel, so that pixel (i, j) looks along ``inverse(intrinsics) @ (j, i, 1)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Camera:
    """Position and angles at time 0 and their rates per second; angles in radians."""

    position: tuple[float, float, float]
    yaw: float
    pitch: float
    roll: float
    field_of_view: float
    """Horizontal."""
    speed: float = 0.0
    """Metres per second along the heading."""
    turn: float = 0.0
    """Yaw rate."""
    sway: float = 0.0
    """Amplitude of a slow sideways and vertical motion in metres."""

    def pose(self, time: float) -> NDArray[np.float64]:
        """Camera-to-world matrix [4, 4] at ``time`` seconds."""
        yaw, pitch = self.yaw + self.turn * time, self.pitch
        forward = np.array((np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), np.sin(pitch)))
        level = np.array((np.sin(yaw), -np.cos(yaw), 0.0))
        plumb = np.cross(forward, level)
        right = np.cos(self.roll) * level + np.sin(self.roll) * plumb
        sideways = self.sway * np.sin(2 * time)
        heading = np.array((np.cos(self.yaw), np.sin(self.yaw), 0.0))
        pose = np.eye(4)
        pose[:3, 0], pose[:3, 1], pose[:3, 2] = right, np.cross(forward, right), forward
        pose[:3, 3] = self.position + heading * (self.speed * time) + sideways * level
        pose[2, 3] += 0.3 * self.sway * np.sin(5 * time)
        return pose

    def intrinsics(self, size: tuple[int, int]) -> NDArray[np.float64]:
        """Pinhole matrix [3, 3] for an image of ``size`` [H, W] in pixels."""
        height, width = size
        focal = width / (2 * np.tan(self.field_of_view / 2))
        return np.array(((focal, 0, (width - 1) / 2), (0, focal, (height - 1) / 2), (0, 0, 1)))
