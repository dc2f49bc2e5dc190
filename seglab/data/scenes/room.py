"""Room scenes: floor, walls with doors, windows and posters, furniture along the walls and in the middle."""

from __future__ import annotations

import math

import numpy as np

from seglab.data.scenes import objects
from seglab.data.scenes.camera import Camera
from seglab.data.scenes.classes import Label
from seglab.data.scenes.geometry import Builder, Place, Shape
from seglab.data.scenes.layout import Free


def room(rng: np.random.Generator) -> tuple[Builder, Camera, tuple[float, float, float]]:
    """The primitives of a room over [0, length] x [-width/2, width/2], the camera in it, and its size."""
    b, free = Builder(), Free()
    length, width, height = rng.uniform(4.5, 10), rng.uniform(3.6, 7.5), rng.uniform(2.4, 3.4)
    camera = _camera(rng, length, width)
    x, y, _ = camera.position
    free.claim(x, y, 0.8)
    free.claim(x + 0.8 * math.cos(camera.yaw), y + 0.8 * math.sin(camera.yaw), 0.7)
    middle = Place(length / 2, 0)
    b.slab(middle, Label.GROUND, (length, width))
    b.slab(middle, Label.OVERHEAD, (length, width), (0, 0, height))
    if rng.random() < 0.75:
        size = (length * rng.uniform(0.35, 0.7), width * rng.uniform(0.35, 0.7))
        place = Place(length * rng.uniform(0.45, 0.6), width * rng.uniform(-0.1, 0.1), rng.normal(0, 0.15))
        b.slab(place, Label.PATH, size, (0, 0, 0.01), Shape.ELLIPSE if rng.random() < 0.3 else Shape.FULL)
    # Each wall: the place of its middle, facing inwards, and its width.
    walls = (
        (Place(length, 0, math.pi), width),
        (Place(length / 2, width / 2, -math.pi / 2), length),
        (Place(length / 2, -width / 2, math.pi / 2), length),
        (Place(0, 0, 0), width),
    )
    for place, wide in walls:
        b.panel(place, Label.WALL, (wide, height))
        _hang(b, rng, free, place, wide, height)
    _middle(b, rng, free, length, width, height)
    for place, wide in walls[:3]:
        _line(b, rng, free, place, wide)
    for _ in range(int(rng.integers(0, 5))):
        x, y = rng.uniform(0.3, 0.9) * length, rng.uniform(-0.42, 0.42) * width
        if free.claim(x, y, 0.4):
            drift = (float(rng.normal(0, 0.3)), float(rng.normal(0, 0.3)))
            objects.person(b, rng, b.place(x, y, math.pi + camera.yaw + rng.normal(0, 0.5), objects.tint(rng), drift))
    return b, camera, (length, width, height)


def _camera(rng: np.random.Generator, length: float, width: float) -> Camera:
    x, y = rng.uniform(0.3, 1.2), rng.uniform(-0.38, 0.38) * width
    toward = math.atan2(rng.uniform(-0.25, 0.25) * width - y, length * rng.uniform(0.5, 0.9) - x)
    return Camera(
        position=(float(x), float(y), float(rng.uniform(1.1, 1.9))),
        yaw=float(toward),
        pitch=float(rng.normal(-0.12, 0.09)),
        roll=float(rng.normal(0, 0.025)),
        field_of_view=float(np.radians(rng.uniform(58, 82))),
        speed=float(rng.uniform(0, 0.6)),
        turn=float(rng.normal(0, 0.15)),
        sway=float(rng.uniform(0, 0.08)),
    )


def _hang(b: Builder, rng: np.random.Generator, free: Free, wall: Place, wide: float, height: float) -> None:
    """Doors, windows and posters side by side on a wall; the space before a door stays free."""
    at = -wide / 2 + rng.uniform(0.3, 1.0)
    while at < wide / 2 - 0.6:
        room_left = wide / 2 - 0.2 - at
        kind = rng.random()
        size = (0.0, 0.0)
        if kind < 0.25:
            size = (rng.uniform(0.8, 1.1), rng.uniform(1.95, 2.15))
            if size[0] < room_left:
                b.panel(wall, Label.DOOR, size, (0.02, at + size[0] / 2, 0))
                x, y = _front(wall, at + size[0] / 2, 0.5)
                free.claim(x, y, 0.5)
        elif kind < 0.6:
            size, sill = (rng.uniform(0.8, 1.9), rng.uniform(0.9, 1.3)), rng.uniform(0.8, 1.0)
            if size[0] < room_left:
                b.panel(wall, Label.WINDOW, size, (0.02, at + size[0] / 2, sill))
        elif kind < 0.88:
            size = (rng.uniform(0.45, 1.2), rng.uniform(0.45, 0.9))
            if size[0] < room_left:
                low = min(rng.uniform(1.2, 1.6), height - size[1] - 0.1)
                poster = b.place(wall.x, wall.y, wall.yaw, objects.tint(rng))
                b.panel(poster, Label.SIGN, size, (0.03, at + size[0] / 2, low))
        at += size[0] + rng.uniform(0.3, 1.2)


def _front(wall: Place, along: float, away: float) -> tuple[float, float]:
    """The point ``along`` a wall and ``away`` from it."""
    cos, sin = math.cos(wall.yaw), math.sin(wall.yaw)
    return wall.x + cos * away - sin * along, wall.y + sin * away + cos * along


def _line(b: Builder, rng: np.random.Generator, free: Free, wall: Place, wide: float) -> None:
    """Furniture, plants and lamps along a wall."""
    at = -wide / 2 + rng.uniform(0.3, 1.0)
    while at < wide / 2 - 0.4:
        x, y = _front(wall, at, 0.5)
        kind, tint = rng.random(), objects.tint(rng)
        if free.claim(x, y, 0.75 if kind < 0.45 else 0.35):
            place = b.place(x, y, wall.yaw + rng.normal(0, 0.03), tint)
            if kind < 0.3:
                objects.cabinet(b, rng, place)
            elif kind < 0.45:
                objects.sofa(b, rng, place)
            elif kind < 0.68:
                objects.potted_plant(b, rng, place)
            elif kind < 0.85:
                objects.floor_lamp(b, rng, place)
            else:
                objects.chair(b, rng, place)
        at += rng.uniform(0.6, 1.6)


def _middle(b: Builder, rng: np.random.Generator, free: Free, length: float, width: float, height: float) -> None:
    """A table with chairs, columns, hanging lamps and things on the floor."""
    for _ in range(int(rng.integers(0, 3))):
        x, y = rng.uniform(0.35, 0.75) * length, rng.uniform(-0.25, 0.25) * width
        if free.claim(x, y, 0.75):
            yaw = rng.uniform(-0.3, 0.3) + float(rng.choice((0, math.pi / 2)))
            objects.table(b, rng, b.place(x, y, yaw, objects.tint(rng)))
            for _ in range(int(rng.integers(0, 4))):
                angle = rng.uniform(0, 2 * math.pi)
                cx, cy = x + 1.05 * math.cos(angle), y + 1.05 * math.sin(angle)
                if free.claim(cx, cy, 0.26):
                    objects.chair(b, rng, b.place(cx, cy, angle + math.pi, objects.tint(rng)))
    if rng.random() < 0.3:
        for y in (-0.28, 0.28):
            x = rng.uniform(0.4, 0.8) * length
            if free.claim(x, y * width, 0.25):
                column = b.place(x, y * width)
                b.cylinder(column, Label.POLE, rng.uniform(0.1, 0.18), height)
                b.shadow(column, 0.2, 0.2, 0.1)
    for _ in range(int(rng.integers(0, 3))):
        place = b.place(rng.uniform(0.35, 0.85) * length, rng.uniform(-0.3, 0.3) * width)
        objects.pendant(b, rng, place, height)
    for _ in range(int(rng.integers(0, 3))):
        x, y = rng.uniform(0.25, 0.9) * length, rng.uniform(-0.4, 0.4) * width
        if free.claim(x, y, 0.35):
            kind = objects.ball if rng.random() < 0.5 else objects.crates
            kind(b, rng, b.place(x, y, rng.uniform(0, 3), objects.tint(rng)))
