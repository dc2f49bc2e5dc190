"""Things that stand in streets and rooms, each built of primitives in its own frame (x ahead, foot at z = 0)."""

from __future__ import annotations

import math

import numpy as np

from seglab.data.scenes.classes import Label
from seglab.data.scenes.geometry import Builder, Place, Shape, Windows
from seglab.data.scenes.materials import BARK, GLASS, ROOF, RUBBER


def tint(rng: np.random.Generator) -> float:
    """A slight difference in brightness between the objects of a class."""
    return float(rng.uniform(0.85, 1.15))


def building(
    b: Builder, rng: np.random.Generator, place: Place, size: tuple[float, float, float], windows: Windows
) -> None:
    """A block with a window grid and a flat or stepped roof; its facade is the face at +x."""
    length, width, height = size
    b.box(place, Label.WALL, size, windows=windows, top=ROOF)
    if rng.random() < 0.4:
        b.box(place, Label.WALL, (length * 0.9, width * 0.9, 0.5), (0, 0, height), ROOF)
    if windows.pitch:
        for _ in range(int(rng.integers(1, 3))):
            at = (length / 2 + 0.03, rng.uniform(-0.4, 0.4) * width, 0.0)
            b.panel(place, Label.DOOR, (rng.uniform(1.1, 2.2), rng.uniform(2.1, 2.7)), at)


def car(b: Builder, rng: np.random.Generator, place: Place) -> None:
    """Body, glazed cabin, wheels, or a tall van or lorry; along x."""
    kind = rng.random()
    if kind < 0.65:
        length, width, height, belt = rng.uniform(3.6, 4.8), 1.8, rng.uniform(1.4, 1.65), 0.85
        b.box(place, Label.VEHICLE, (length, width, belt - 0.3), (0, 0, 0.3))
        shift = rng.uniform(-0.35, 0.05)
        b.box(place, Label.VEHICLE, (length * 0.52, width * 0.86, height - belt - 0.06), (shift, 0, belt), GLASS)
        b.box(place, Label.VEHICLE, (length * 0.46, width * 0.82, 0.07), (shift, 0, height - 0.06))
    else:
        length, width, height = rng.uniform(5, 8.5), rng.uniform(2.0, 2.4), rng.uniform(2.2, 3.2)
        b.box(place, Label.VEHICLE, (length, width, height - 0.4), (0, 0, 0.4))
        for side in (-1, 1):
            b.panel(place, Label.VEHICLE, (width * 0.85, height * 0.25), (side * (length / 2 + 0.02), 0, height * 0.58),
                    material=GLASS)  # fmt: skip
            b.panel(place, Label.VEHICLE, (length * 0.25, height * 0.25),
                    (length * 0.32, side * (width / 2 + 0.02), height * 0.58), math.pi / 2, material=GLASS)  # fmt: skip
    for end in (-1, 1):
        for side in (-1, 1):
            at = (end * length * 0.31, side * (width / 2 + 0.03), 0.0)
            b.panel(place, Label.VEHICLE, (0.66, 0.66), at, math.pi / 2, Shape.ELLIPSE, RUBBER)
    b.shadow(place, length, width, height * 0.8)


def person(b: Builder, rng: np.random.Generator, place: Place) -> None:
    """A billboard cut to an outline, facing the place's yaw."""
    height = rng.uniform(1.5, 1.9)
    b.panel(place, Label.PERSON, (height * 0.36, height), shape=Shape.PERSON)
    b.shadow(place, 0.2, 0.45, height)


def tree(b: Builder, rng: np.random.Generator, place: Place) -> None:
    """A trunk and a crown of ellipsoids, or a conifer cut from two crossed billboards."""
    trunk, height, spread = rng.uniform(1.6, 2.6), rng.uniform(2.5, 5), rng.uniform(1.1, 2.1)
    b.cylinder(place, Label.VEGETATION, rng.uniform(0.12, 0.2), trunk + 0.6, material=BARK)
    if rng.random() < 0.7:
        b.ball(place, Label.VEGETATION, spread, height, (0, 0, trunk))
        for _ in range(2):
            angle, size = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 0.75)
            at = (0.6 * spread * math.cos(angle), 0.6 * spread * math.sin(angle), trunk + height * rng.uniform(0, 0.4))
            b.ball(place, Label.VEGETATION, spread * size, height * size, at)
    else:
        for turn in (0.0, math.pi / 2):
            b.panel(place, Label.VEGETATION, (2 * spread, height + 1), (0, 0, trunk - 0.6), turn, Shape.TRIANGLE)
    b.shadow(place, 1.2 * spread, 1.2 * spread, trunk + height)


def bush(b: Builder, rng: np.random.Generator, place: Place) -> None:
    """A low ellipsoid."""
    radius = rng.uniform(0.5, 1.0)
    b.ball(place, Label.VEGETATION, radius, radius * rng.uniform(1.4, 2), (0, 0, -0.15))
    b.shadow(place, 1.5 * radius, 1.5 * radius, radius)


def lamp_post(b: Builder, rng: np.random.Generator, place: Place, height: float) -> None:
    """A mast with an arm towards +x and a lantern."""
    b.cylinder(place, Label.POLE, rng.uniform(0.09, 0.16), height)
    b.box(place, Label.POLE, (1.6, 0.09, 0.09), (0.75, 0, height - 0.1))
    b.box(place, Label.POLE, (0.7, 0.3, 0.16), (1.5, 0, height - 0.2))
    b.shadow(place, 0.15, 0.15, height)


def wire(b: Builder, start: tuple[float, float], end: tuple[float, float], height: float) -> None:
    """A thin taut cable between two points at ``height``."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    place = b.place((start[0] + end[0]) / 2, (start[1] + end[1]) / 2, math.atan2(dy, dx))
    b.panel(place, Label.POLE, (math.hypot(dx, dy), 0.07), (0, 0, height), math.pi / 2)


def sign(b: Builder, rng: np.random.Generator, place: Place) -> None:
    """A plate on a thin post, facing the place's yaw."""
    low, side = rng.uniform(1.7, 2.3), rng.uniform(0.8, 1.3)
    shape = (Shape.FULL, Shape.ELLIPSE, Shape.TRIANGLE, Shape.DIAMOND)[int(rng.integers(4))]
    wide = side * rng.uniform(1, 1.5) if shape is Shape.FULL else side
    b.cylinder(place._replace(instance=b.place(0, 0).instance), Label.POLE, 0.055, low + side * 0.9)
    b.panel(place, Label.SIGN, (wide, side), (0.08, 0, low), shape=shape)
    b.shadow(place, 0.1, 0.3, low + side)


def street_furniture(b: Builder, rng: np.random.Generator, place: Place) -> None:
    """A bin, a bench, a cabinet or a heap of crates."""
    kind = int(rng.integers(4))
    if kind == 0:
        radius, height = rng.uniform(0.25, 0.4), rng.uniform(0.8, 1.2)
        b.cylinder(place, Label.FURNITURE, radius, height)
        b.slab(place, Label.FURNITURE, (2 * radius, 2 * radius), (0, 0, height), Shape.ELLIPSE)
        b.shadow(place, radius, radius, height)
    elif kind == 1:
        b.box(place, Label.FURNITURE, (0.5, 1.8, 0.1), (0, 0, 0.42))
        b.box(place, Label.FURNITURE, (0.08, 1.8, 0.4), (-0.25, 0, 0.52))
        for side in (-0.75, 0.75):
            b.box(place, Label.FURNITURE, (0.4, 0.1, 0.42), (0, side, 0))
        b.shadow(place, 0.5, 1.8, 0.8)
    elif kind == 2:
        size = (rng.uniform(0.5, 1.2), rng.uniform(0.8, 2.0), rng.uniform(1.1, 2.3))
        b.box(place, Label.FURNITURE, size)
        b.shadow(place, *size)
    else:
        crates(b, rng, place)


def crates(b: Builder, rng: np.random.Generator, place: Place) -> None:
    """One to three boxes, stacked."""
    side, foot = rng.uniform(0.4, 0.8), 0.0
    b.shadow(place, side, side, side)
    for _ in range(int(rng.integers(1, 4))):
        height = side * rng.uniform(0.6, 1.0)
        b.box(place, Label.FURNITURE, (side, side, height), (0, 0, foot))
        foot, side = foot + height, side * rng.uniform(0.6, 0.95)


def table(b: Builder, rng: np.random.Generator, place: Place) -> None:
    """A top on four thin legs, sometimes with something on it."""
    length, width, height = rng.uniform(0.9, 1.8), rng.uniform(0.6, 1.0), rng.uniform(0.45, 0.78)
    b.box(place, Label.FURNITURE, (length, width, 0.07), (0, 0, height - 0.07))
    _legs(b, place, length, width, height - 0.07)
    b.shadow(place, length * 0.9, width * 0.9, height)
    thing = rng.random()
    at = (rng.uniform(-0.3, 0.3) * length, rng.uniform(-0.25, 0.25) * width, height)
    if thing < 0.25:
        b.ball(b.place(place.x, place.y, place.yaw), Label.FURNITURE, 0.16, 0.26, at)
    elif thing < 0.55:
        plant = b.place(place.x, place.y, place.yaw)
        b.cylinder(plant, Label.VEGETATION, 0.09, 0.18, at, BARK)
        b.ball(plant, Label.VEGETATION, 0.22, 0.45, (at[0], at[1], height + 0.13))


def _legs(b: Builder, place: Place, length: float, width: float, height: float, radius: float = 0.035) -> None:
    for x in (-0.45, 0.45):
        for y in (-0.45, 0.45):
            b.cylinder(place, Label.FURNITURE, radius, height, (x * length, y * width, 0))


def chair(b: Builder, rng: np.random.Generator, place: Place) -> None:
    """Seat, back and four legs, facing +x."""
    b.box(place, Label.FURNITURE, (0.46, 0.46, 0.06), (0, 0, 0.42))
    b.box(place, Label.FURNITURE, (0.05, 0.46, rng.uniform(0.4, 0.55)), (-0.22, 0, 0.46))
    _legs(b, place, 0.46, 0.46, 0.42, 0.025)
    b.shadow(place, 0.4, 0.4, 0.5)


def sofa(b: Builder, rng: np.random.Generator, place: Place) -> None:
    """Seat, back and arms, facing +x."""
    width = rng.uniform(1.0, 2.2)
    b.box(place, Label.FURNITURE, (0.85, width, 0.42))
    b.box(place, Label.FURNITURE, (0.25, width, 0.42), (-0.32, 0, 0.42))
    for side in (-1, 1):
        b.box(place, Label.FURNITURE, (0.85, 0.18, 0.2), (0, side * (width / 2 - 0.09), 0.42))
    b.shadow(place, 0.85, width, 0.5)


def cabinet(b: Builder, rng: np.random.Generator, place: Place) -> None:
    """A box, high or low, with its front at +x."""
    size = (rng.uniform(0.35, 0.6), rng.uniform(0.6, 1.8), rng.uniform(0.5, 2.1))
    b.box(place, Label.FURNITURE, size)
    b.shadow(place, size[0], size[1], 0.3)


def floor_lamp(b: Builder, rng: np.random.Generator, place: Place) -> None:
    """A thin stand with a foot and a shade."""
    height = rng.uniform(1.4, 1.9)
    b.cylinder(place, Label.POLE, 0.04, height)
    b.slab(place, Label.POLE, (0.4, 0.4), (0, 0, 0.03), Shape.ELLIPSE)
    b.cylinder(place, Label.POLE, rng.uniform(0.15, 0.24), 0.28, (0, 0, height - 0.05))
    b.shadow(place, 0.3, 0.3, 0.2)


def pendant(b: Builder, rng: np.random.Generator, place: Place, ceiling: float) -> None:
    """A lamp hanging from the ceiling by a cord."""
    drop, radius = rng.uniform(0.4, 0.9), rng.uniform(0.15, 0.28)
    b.cylinder(place, Label.POLE, 0.02, drop, (0, 0, ceiling - drop))
    b.ball(place, Label.POLE, radius, radius * rng.uniform(1, 2), (0, 0, ceiling - drop - radius))


def potted_plant(b: Builder, rng: np.random.Generator, place: Place) -> None:
    """A pot with leaves: an ellipsoid or two crossed billboards."""
    height, radius = rng.uniform(0.6, 1.3), rng.uniform(0.25, 0.45)
    b.cylinder(place, Label.VEGETATION, 0.6 * radius, 0.35, material=BARK)
    if rng.random() < 0.5:
        b.ball(place, Label.VEGETATION, radius, height, (0, 0, 0.28))
    else:
        for turn in (0.0, math.pi / 2):
            b.panel(place, Label.VEGETATION, (2.4 * radius, height), (0, 0, 0.25), turn, Shape.LEAVES)
    b.shadow(place, 2 * radius, 2 * radius, 0.3)


def ball(b: Builder, rng: np.random.Generator, place: Place) -> None:
    """A ball on the floor."""
    radius = rng.uniform(0.12, 0.3)
    b.ball(place, Label.FURNITURE, radius, 2 * radius)
    b.shadow(place, radius, radius, radius)
