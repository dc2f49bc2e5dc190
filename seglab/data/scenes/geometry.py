"""Primitives of a scene and the builder that collects them.

Three kinds are enough: rectangles in space (faces of boxes, floors, billboards cut to a shape), upright round bodies
(cylinders, ellipsoids), and soft shadows on the ground. A box is turned into its six faces.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Shape(IntEnum):
    """Which part of a rectangle is there."""

    FULL = 0
    ELLIPSE = 1
    PERSON = 2
    TRIANGLE = 3
    DIAMOND = 4
    LEAVES = 5


class Place(NamedTuple):
    """Where an object stands: its own frame, its instance id (0: background), its tint and its velocity."""

    x: float
    y: float
    yaw: float = 0.0
    instance: int = 0
    tint: float = 1.0
    vx: float = 0.0
    vy: float = 0.0


class Windows(NamedTuple):
    """A grid of windows on the side of a box, metres."""

    pitch: float
    storey: float
    width: float
    height: float
    first: float
    """Height of the lowest sill above the foot."""


@dataclass(frozen=True)
class Marks:
    """What every primitive carries, one row each."""

    label: NDArray[np.int64]
    material: NDArray[np.int64]
    instance: NDArray[np.int64]
    tint: Array
    velocity: Array


@dataclass(frozen=True)
class Quads:
    """Rectangles: point = origin + a along + b up for 0 <= a <= extent[0], 0 <= b <= extent[1]; unit vectors."""

    origin: Array
    along: Array
    up: Array
    extent: Array
    shape: NDArray[np.int64]
    one_sided: NDArray[np.bool_]
    """Seen only from the side to which along x up points."""
    windows: Array
    """[n, 5] as in Windows; pitch 0: none."""
    marks: Marks


@dataclass(frozen=True)
class Rounds:
    """Upright bodies (x² + y²) + squash z² = radius² around the centre, cut at |z| <= half."""

    centre: Array
    radius: Array
    squash: Array
    half: Array
    marks: Marks


@dataclass(frozen=True)
class World:
    """All primitives of a scene at time 0."""

    quads: Quads
    rounds: Rounds
    shadows: Quads


_NO_WINDOWS = Windows(0, 1, 0, 0, 0)
# The faces of a unit box over [-1/2, 1/2]² x [0, 1], in the order +x, -x, +y, -y, top, bottom:
# corner, then the axes (indices and signs) that span the face with the normal outwards.
_CORNERS = np.array(
    ((0.5, -0.5, 0), (-0.5, 0.5, 0), (0.5, 0.5, 0), (-0.5, -0.5, 0), (-0.5, -0.5, 1), (-0.5, 0.5, 0)), float
)
_ALONG = np.array(((0, 1, 0), (0, -1, 0), (-1, 0, 0), (1, 0, 0), (1, 0, 0), (1, 0, 0)), float)
_UP = np.array(((0, 0, 1), (0, 0, 1), (0, 0, 1), (0, 0, 1), (0, 1, 0), (0, -1, 0)), float)


def _marks(rows: Array) -> Marks:
    """From columns label, material, instance, tint, vx, vy."""
    velocity = np.zeros((len(rows), 3))
    velocity[:, :2] = rows[:, 4:6]
    ids = rows[:, :3].astype(np.int64)
    return Marks(ids[:, 0], ids[:, 1], ids[:, 2], rows[:, 3], velocity)


def _table(rows: list[tuple[float, ...]], columns: int) -> Array:
    return np.array(rows, float).reshape(len(rows), columns)


class Builder:
    """Collects the primitives of a scene. ``at`` is an offset in the object's frame, its height that of the foot."""

    def __init__(self) -> None:
        self._quads: list[tuple[float, ...]] = []
        self._boxes: list[tuple[float, ...]] = []
        self._rounds: list[tuple[float, ...]] = []
        self._shadows: list[tuple[float, ...]] = []
        self._instances = 0

    def place(
        self, x: float, y: float, yaw: float = 0.0, tint: float = 1.0, velocity: tuple[float, float] = (0.0, 0.0)
    ) -> Place:
        """A place with a new instance id."""
        self._instances += 1
        return Place(x, y, yaw, self._instances, tint, *velocity)

    def box(
        self,
        place: Place,
        label: int,
        size: tuple[float, float, float],
        at: tuple[float, float, float] = (0, 0, 0),
        material: int | None = None,
        windows: Windows = _NO_WINDOWS,
        top: int | None = None,
    ) -> None:
        """A box of ``size`` [length, width, height], turned with its place; ``top`` is its upper face's material."""
        x, y = _world(place, at)
        material = label if material is None else material
        upper = material if top is None else top
        self._boxes.append((x, y, at[2], *size, place.yaw, upper, *windows, *_row(place, label, material)))

    def panel(
        self,
        place: Place,
        label: int,
        size: tuple[float, float],
        at: tuple[float, float, float] = (0, 0, 0),
        turn: float = 0.0,
        shape: Shape = Shape.FULL,
        material: int | None = None,
    ) -> None:
        """An upright rectangle of ``size`` [width, height], seen from both sides, facing the place's yaw + ``turn``."""
        x, y = _world(place, at)
        yaw = place.yaw + turn
        along = (-math.sin(yaw), math.cos(yaw))
        origin = (x - along[0] * size[0] / 2, y - along[1] * size[0] / 2, at[2])
        self._quad(origin, (*along, 0), (0, 0, 1), size, shape, _row(place, label, material))

    def slab(
        self,
        place: Place,
        label: int,
        size: tuple[float, float],
        at: tuple[float, float, float] = (0, 0, 0),
        shape: Shape = Shape.FULL,
        material: int | None = None,
    ) -> None:
        """A level rectangle of ``size`` [length, width], seen from both sides."""
        cos, sin = math.cos(place.yaw), math.sin(place.yaw)
        x, y = _world(place, (at[0] - size[0] / 2, at[1] - size[1] / 2, 0))
        self._quad((x, y, at[2]), (cos, sin, 0), (-sin, cos, 0), size, shape, _row(place, label, material))

    def cylinder(
        self,
        place: Place,
        label: int,
        radius: float,
        height: float,
        at: tuple[float, float, float] = (0, 0, 0),
        material: int | None = None,
    ) -> None:
        """An upright open cylinder."""
        x, y = _world(place, at)
        self._rounds.append((x, y, at[2] + height / 2, radius, 0.0, height / 2, *_row(place, label, material)))

    def ball(
        self,
        place: Place,
        label: int,
        radius: float,
        height: float,
        at: tuple[float, float, float] = (0, 0, 0),
        material: int | None = None,
    ) -> None:
        """An upright ellipsoid of revolution."""
        x, y = _world(place, at)
        half = height / 2
        self._rounds.append((x, y, at[2] + half, radius, (radius / half) ** 2, 2 * half, *_row(place, label, material)))

    def shadow(self, place: Place, length: float, width: float, height: float) -> None:
        """What a body of this size in the place's frame shades on the ground."""
        self._shadows.append((place.x, place.y, place.yaw, length, width, height, place.vx, place.vy))

    def build(self, sun: NDArray[np.float32]) -> World:
        """The primitives as arrays; shadows fall away from the ``sun`` (unit vector)."""
        boxes, quads = self._faces(), _table(self._quads, 24)
        rows = np.concatenate((quads, boxes))
        rounds = _table(self._rounds, 12)
        return World(
            _quads(rows),
            Rounds(rounds[:, :3], rounds[:, 3], rounds[:, 4], rounds[:, 5], _marks(rounds[:, 6:])),
            _quads(self._cast(sun)),
        )

    def _quad(
        self,
        origin: tuple[float, ...],
        along: tuple[float, ...],
        up: tuple[float, ...],
        size: tuple[float, float],
        shape: Shape,
        row: tuple[float, ...],
    ) -> None:
        self._quads.append((*origin, *along, *up, *size, shape, 0.0, *_NO_WINDOWS, *row))

    def _faces(self) -> Array:
        """Boxes as rows of rectangles, six each."""
        boxes = _table(self._boxes, 19)
        n = len(boxes)
        cos, sin = np.cos(boxes[:, 6]), np.sin(boxes[:, 6])
        frame = np.zeros((n, 3, 3))  # rows: the axes of the box in the world
        frame[:, 0, 0], frame[:, 0, 1], frame[:, 1, 0], frame[:, 1, 1], frame[:, 2, 2] = cos, sin, -sin, cos, 1
        size = boxes[:, None, 3:6]
        rows = np.zeros((n, 6, 24))
        rows[:, :, 0:3] = boxes[:, None, 0:3] + (_CORNERS * size) @ frame
        rows[:, :, 3:6] = _ALONG @ frame
        rows[:, :, 6:9] = _UP @ frame
        rows[:, :, 9] = (np.abs(_ALONG) * size).sum(-1)
        rows[:, :, 10] = (np.abs(_UP) * size).sum(-1)
        rows[:, :, 12] = 1
        rows[:, :4, 13:18] = boxes[:, None, 8:13]
        rows[:, :, 18:24] = boxes[:, None, 13:19]
        rows[:, 4, 19] = boxes[:, 7]
        return rows.reshape(n * 6, 24)

    def _cast(self, sun: NDArray[np.float32]) -> Array:
        """Shadows as rows of rectangles just above the ground, stretched away from the sun."""
        bodies = _table(self._shadows, 8)
        n = len(bodies)
        x, y, yaw, length, width, height = bodies[:, :6].T
        reach = height * min(float(np.hypot(sun[0], sun[1])) / float(sun[2]), 3.0)
        away = math.atan2(-sun[1], -sun[0])
        # Seen along the light a rectangle turned by yaw has these extents.
        cos, sin = np.abs(np.cos(away - yaw)), np.abs(np.sin(away - yaw))
        deep, broad = length * cos + width * sin, length * sin + width * cos
        margin = 0.15
        rows = np.zeros((n, 24))
        start, side = -deep / 2 - margin, -broad / 2 - margin
        rows[:, 0] = x + start * math.cos(away) - side * math.sin(away)
        rows[:, 1] = y + start * math.sin(away) + side * math.cos(away)
        rows[:, 2] = 0.012
        rows[:, 3:9] = (math.cos(away), math.sin(away), 0, -math.sin(away), math.cos(away), 0)
        rows[:, 9], rows[:, 10] = deep + reach + 2 * margin, broad + 2 * margin
        rows[:, 13:18] = _NO_WINDOWS
        rows[:, 22:24] = bodies[:, 6:8]
        return rows


def _world(place: Place, at: tuple[float, float, float]) -> tuple[float, float]:
    cos, sin = math.cos(place.yaw), math.sin(place.yaw)
    return place.x + cos * at[0] - sin * at[1], place.y + sin * at[0] + cos * at[1]


def _row(place: Place, label: int, material: int | None) -> tuple[float, ...]:
    return label, label if material is None else material, place.instance, place.tint, place.vx, place.vy


def _quads(rows: Array) -> Quads:
    return Quads(
        origin=rows[:, 0:3],
        along=rows[:, 3:6],
        up=rows[:, 6:9],
        extent=rows[:, 9:11],
        shape=rows[:, 11].astype(np.int64),
        one_sided=rows[:, 12] > 0,
        windows=rows[:, 13:18],
        marks=_marks(rows[:, 18:24]),
    )
