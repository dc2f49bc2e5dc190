"""The classes of the scenes: one list for streets and rooms."""

from __future__ import annotations

from enum import IntEnum


class Label(IntEnum):
    """Train ids."""

    OVERHEAD = 0  # sky, ceiling
    GROUND = 1  # pavement, grass, floor
    PATH = 2  # road, carpet
    WALL = 3  # building, garden wall, wall of a room
    WINDOW = 4
    DOOR = 5
    VEGETATION = 6  # tree, hedge, potted plant
    VEHICLE = 7  # car, van, lorry
    FURNITURE = 8  # table, cabinet, sofa, bench, bin, crate, ball
    PERSON = 9
    POLE = 10  # lamp post, sign post, wire, floor lamp, hanging lamp, column
    SIGN = 11  # traffic sign, notice board, framed poster


CLASSES: tuple[str, ...] = tuple(label.name.lower() for label in Label)

PALETTE: tuple[tuple[int, int, int], ...] = (
    (120, 180, 235),
    (226, 196, 150),
    (110, 88, 122),
    (150, 150, 150),
    (40, 90, 200),
    (150, 75, 30),
    (60, 150, 60),
    (20, 20, 130),
    (240, 150, 40),
    (215, 30, 65),
    (245, 235, 70),
    (20, 200, 190),
)
