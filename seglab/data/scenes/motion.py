"""Exact optical flow between two times of a scene.

What pixel p sees at time t0 is a point X = eye(t0) + z ray(p) of a surface with velocity v. At t1 it is at
X + (t1 - t0) v, whose projection in the camera of t1 is p + flow. Of the sky, infinitely far, only the direction
counts. The point is seen at t1 where the nearest pixel sees the same surface there, and a round body this side of it;
elsewhere it is hidden, or has left the image, and the flow is NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seglab.data.scenes.renderer import Ids, View, Visible, look
from seglab.data.scenes.scene import Scene

_NEAR = 1e-6
"""Least depth (metres) that is projected."""


def flow(scene: Scene, time: float, other: float, size: tuple[int, int]) -> NDArray[np.float32]:
    """[H, W, 2] (dx, dy) in pixels from the frame at ``time`` to the one at ``other``, both of ``size`` [H, W].

    NaN where what the pixel shows is hidden at ``other`` or outside the image.
    """
    world, intrinsics = scene.world, scene.camera.intrinsics(size)
    here, there = (View(scene.camera.pose(t), intrinsics, size) for t in (time, other))
    seen, later = look(world, here, time), look(world, there, other)
    count, bodies = len(world.quads.extent), len(world.rounds.centre)
    owner = surfaces(seen, count)
    velocity = np.concatenate((world.quads.marks.velocity, world.rounds.marks.velocity, np.zeros((1, 3))))[owner]
    sky = owner == count + bodies
    rays = np.moveaxis(here.rays, 0, -1)  # [H, W, 3]
    points = here.origin + np.where(sky, 0, seen.depth)[..., None] * rays + (other - time) * velocity
    camera = np.where(sky[..., None], rays @ there.axes, there.to_camera(points))
    ahead = camera[..., 2] > _NEAR
    place = np.where(ahead[..., None], camera, 1) @ intrinsics.T
    place = place[..., :2] / place[..., 2:]

    height, width = size
    column, row = (np.rint(place[..., axis]) for axis in (0, 1))
    visible = ahead & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    at = tuple(np.where(visible, values, 0).astype(np.int64) for values in (row, column))
    visible &= surfaces(later, count)[at] == owner
    if bodies:
        visible &= _this_side(scene, there, other, points, owner - count, bodies)
    y, x = np.mgrid[:height, :width]
    moved = place - np.stack((x, y), -1)
    return np.where(visible[..., None], moved, np.nan).astype(np.float32)


def surfaces(seen: Visible, count: int) -> Ids:
    """[H, W] number of the surface among all ``count`` rectangles, then the round bodies, then the sky."""
    bodies = len(seen.centres)
    return np.concatenate((seen.index, count + np.arange(bodies + 1))).take(seen.owner)


def _this_side(
    scene: Scene, view: View, time: float, points: NDArray[np.float64], body: Ids, bodies: int
) -> NDArray[np.bool_]:
    """Which world points [H, W, 3], each on the round body of that number [H, W], face the camera; all others do."""
    rounds = scene.world.rounds
    on = (body >= 0) & (body < bodies)
    own = np.where(on, body, 0)
    normal = points - (rounds.centre + time * rounds.marks.velocity)[own]
    normal[..., 2] *= rounds.squash[own]
    return ~on | ((normal * (view.origin - points)).sum(-1) > 0)
