"""Street scenes: a road along x, pavements, rows of buildings or gardens, and what stands and moves between them."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from seglab.data.scenes import objects
from seglab.data.scenes.camera import Camera
from seglab.data.scenes.classes import Label
from seglab.data.scenes.geometry import Builder, Place, Windows
from seglab.data.scenes.layout import Free

_REACH = 75.0


def street(rng: np.random.Generator) -> tuple[Builder, Camera]:
    """The primitives of a street and the camera in it."""
    b, free = Builder(), Free()
    half = rng.uniform(2.8, 5.2)  # of the road's width
    pavement = rng.uniform(2.2, 4.5)
    camera = _camera(rng, half, pavement)
    for step in range(3):
        free.claim(camera.position[0] + 1.6 * step * math.cos(camera.yaw),
                   camera.position[1] + 1.6 * step * math.sin(camera.yaw), 1.3)  # fmt: skip
    b.slab(Place(0, 0), Label.GROUND, (600, 600))
    b.slab(Place(0, 0), Label.PATH, (600, 2 * half), (0, 0, 0.01))
    crossing = rng.uniform(14, 45) if rng.random() < 0.35 else None
    if crossing is not None:
        b.slab(Place(crossing, 0, math.pi / 2), Label.PATH, (600, 2 * half), (0, 0, 0.005))
    for side in (-1, 1):
        _row(b, rng, free, side, half, pavement, crossing, built=rng.random() < 0.75)
    if rng.random() < 0.4:  # the road ends at a building
        width, height = rng.uniform(20, 60), rng.uniform(5, 16)
        objects.building(b, rng, Place(rng.uniform(35, 70) + 5, 0, math.pi), (10, width, height), _windows(rng))
    _cars(b, rng, free, half, crossing)
    _kerb(b, rng, free, half, pavement)
    return b, camera


def _camera(rng: np.random.Generator, half: float, pavement: float) -> Camera:
    y = rng.uniform(-0.7, 0.7) * half if rng.random() < 0.65 else rng.choice((-1, 1)) * (half + 0.4 * pavement)
    toward = -0.06 * y  # from the pavement one looks towards the road
    return Camera(
        position=(0.0, float(y), float(rng.uniform(1.3, 2.6))),
        yaw=float(toward + rng.normal(0, 0.16)),
        pitch=float(rng.normal(-0.03, 0.05)),
        roll=float(rng.normal(0, 0.02)),
        field_of_view=float(np.radians(rng.uniform(50, 75))),
        speed=float(rng.uniform(0, 6)),
        turn=float(rng.normal(0, 0.08)),
        sway=float(rng.uniform(0, 0.05)),
    )


def _windows(rng: np.random.Generator) -> Windows:
    pitch, storey = rng.uniform(1.8, 3.5), rng.uniform(2.7, 3.6)
    return Windows(pitch, storey, pitch * rng.uniform(0.35, 0.75), storey * rng.uniform(0.35, 0.6), rng.uniform(0.9, 3))


def _row(
    b: Builder,
    rng: np.random.Generator,
    free: Free,
    side: int,
    half: float,
    pavement: float,
    crossing: float | None,
    built: bool,
) -> None:
    """Buildings with gaps, or gardens with walls, hedges and trees, along one side of the road."""
    line = half + pavement
    facing = -side * math.pi / 2
    windows, x = _windows(rng), rng.uniform(-12, -4)
    setback = rng.uniform(0, 1.5)
    while x < _REACH:
        length = rng.uniform(6, 14)
        middle = x + length / 2
        x += length + (rng.uniform(0, 0.5) if rng.random() < 0.6 else rng.uniform(2, 6))
        if crossing is not None and abs(middle - crossing) < half + pavement * 0.5 + length / 2:
            continue
        if built or rng.random() < 0.2:
            depth, height = 8.0, rng.uniform(3.5, 14)
            place = Place(middle, side * (line + setback + depth / 2), facing, tint=objects.tint(rng))
            if rng.random() < 0.25:
                windows = _windows(rng)
            objects.building(b, rng, place, (depth, length, height), windows)
            continue
        fence = rng.random()
        place = b.place(middle, side * (line + 0.3), facing, objects.tint(rng))
        if fence < 0.4:
            b.box(place._replace(instance=0), Label.WALL, (0.25, length, rng.uniform(0.6, 2.0)))
        elif fence < 0.75:
            b.box(place, Label.VEGETATION, (0.8, length, rng.uniform(0.7, 2.2)))
        for _ in range(int(rng.integers(0, 3))):
            tx, ty = middle + rng.uniform(-0.5, 0.5) * length, side * (line + rng.uniform(2.5, 9))
            if free.claim(tx, ty, 1.2):
                objects.tree(b, rng, b.place(tx, ty, rng.uniform(0, 3), objects.tint(rng)))


def _cars(b: Builder, rng: np.random.Generator, free: Free, half: float, crossing: float | None) -> None:
    """Parked along the kerbs, driving in both lanes, sometimes crossing."""
    for side in (-1, 1):
        if half > 3.3 and rng.random() < 0.85:
            x = rng.uniform(4.5, 9)
            while x < 45:
                y = side * (half - 1.0)
                if rng.random() < 0.65 and free.claim(x, y, 1.1, reach=2):
                    yaw = 0.0 if rng.random() < 0.5 else math.pi
                    objects.car(b, rng, b.place(x, y, yaw + rng.normal(0, 0.03), objects.tint(rng)))
                x += rng.uniform(5.5, 9)
        for _ in range(int(rng.integers(0, 4))):
            x, y = 5.5 + 30 * rng.random() ** 1.7, side * half * 0.45
            ahead = -side  # right-hand traffic
            if free.claim(x, y, 1.0, reach=2):
                place = b.place(x, y, 0.0 if ahead > 0 else math.pi, objects.tint(rng), (ahead * rng.uniform(3, 10), 0))
                objects.car(b, rng, place)
    if crossing is not None and rng.random() < 0.7:
        y, way = rng.uniform(-6, 6), float(rng.choice((-1, 1)))
        place = b.place(crossing, y, way * math.pi / 2, objects.tint(rng), (0, way * rng.uniform(2, 8)))
        objects.car(b, rng, place)


def _kerb(b: Builder, rng: np.random.Generator, free: Free, half: float, pavement: float) -> None:
    """Lamp posts and wires, trees, signs, people and street furniture on the pavements."""
    for side in (-1, 1):
        kerb, facing = side * (half + 0.5), -side * math.pi / 2
        if rng.random() < 0.7:
            step, height, x = rng.uniform(9, 16), rng.uniform(4, 7), rng.uniform(4, 12)
            posts = []
            while x < 50:
                if free.claim(x, kerb, 0.25):
                    objects.lamp_post(b, rng, b.place(x, kerb, facing), height)
                    posts.append((x, kerb))
                x += step
            if rng.random() < 0.5:
                for start, end in pairwise(posts):
                    objects.wire(b, start, end, height - 0.4)
        if rng.random() < 0.5:
            step, x = rng.uniform(6, 12), rng.uniform(5, 12)
            while x < 45:
                if free.claim(x, kerb, 0.4):
                    objects.tree(b, rng, b.place(x, kerb + side * 0.3, rng.uniform(0, 3), objects.tint(rng)))
                x += step
        for _ in range(int(rng.integers(0, 4))):
            x = 4 + 16 * rng.random() ** 1.5
            if free.claim(x, kerb, 0.5):
                objects.sign(b, rng, b.place(x, kerb, math.pi + rng.normal(0, 0.25), objects.tint(rng)))
        for _ in range(int(rng.integers(1, 6))):
            x, y = _ahead(rng), side * (half + rng.uniform(0.3, pavement))
            if free.claim(x, y, 0.45):
                way = float(rng.choice((-1, 1)))
                turn = math.pi + rng.normal(0, 0.5)
                objects.person(b, rng, b.place(x, y, turn, objects.tint(rng), (way * rng.uniform(0, 1.5), 0)))
        for _ in range(int(rng.integers(0, 4))):
            x, y = _ahead(rng), side * (half + pavement - rng.uniform(0.5, 1.0))
            if free.claim(x, y, 0.8):
                kind = objects.bush if rng.random() < 0.25 else objects.street_furniture
                kind(b, rng, b.place(x, y, facing + rng.normal(0, 0.1), objects.tint(rng)))
    if rng.random() < 0.4:  # somebody crosses
        x, y = rng.uniform(5, 14), rng.uniform(-1, 1) * half
        if free.claim(x, y, 0.5):
            way = float(rng.choice((-1, 1)))
            objects.person(b, rng, b.place(x, y, math.pi + rng.normal(0, 0.4), objects.tint(rng), (0, way)))


def _ahead(rng: np.random.Generator) -> float:
    """A distance at which small things are still seen, nearer ones more often."""
    return float(3.2 + 18 * rng.random() ** 1.8)
