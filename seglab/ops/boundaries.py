"""Which pixels of a label map lie at a boundary, by exact comparisons of shifted maps, on any device.

A pixel is a boundary pixel if its distance to the nearest pixel of the other side of some class's mask is at most
``radius`` (Euclidean, between the pixels' centres). The published InverseForm code finds it with two distance
transforms for each class. Here no transform is needed: with the offsets 0 < dy^2 + dx^2 <= radius^2,

    a pixel of a class   is one if some offset leads to another class, to void, or out of the image;
    a pixel of no class  is one if some offset leads to a class.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from seglab.types import IGNORE, Size

NONE = -1
"""What a pixel of no class is called among the classes."""


def offsets(radius: int) -> list[tuple[int, int]]:
    """(dy, dx) of the other pixels whose centres are at most ``radius`` away; one of each pair of opposite ones."""
    reach = range(-radius, radius + 1)
    return [
        (y, x) for y in range(radius + 1) for x in reach if 0 < y * y + x * x <= radius * radius and (y > 0 or x > 0)
    ]


def boundary_map(label: Tensor, radius: int = 2, first_class: int = 0, frame: bool = True) -> Tensor:
    """Boundary pixels [B, H, W] bool of label maps [B, H, W].

    Args:
        label: train ids, ``IGNORE`` where void: no class, so that a class's border with it is a boundary.
        radius: how far from the other side, in pixels; the band is about ``radius`` wide on each side.
        first_class: ids below it are no class. 1 is the published code, whose one-hot encoding leaves class 0 out:
            its boundaries with void and with the image's border are then missing.
        frame: whether the image's border is a boundary of every class that touches it, as published.
    """
    height, width = label.shape[-2:]
    no_class = (label == IGNORE) | (label < first_class)
    ids = label.masked_fill(no_class, NONE).to(torch.int16)
    found = torch.zeros_like(no_class)
    if frame:
        found[..., :radius, :] = found[..., max(height - radius, 0) :, :] = True
        found[..., :, :radius] = found[..., :, max(width - radius, 0) :] = True
        found &= ~no_class
    for dy, dx in offsets(radius):
        if dy >= height or abs(dx) >= width:
            continue
        here = (..., slice(0, height - dy), slice(max(-dx, 0), width - max(dx, 0)))
        there = (..., slice(dy, height), slice(max(dx, 0), width + min(dx, 0)))
        differ = ids[here] != ids[there]
        found[here] |= differ
        found[there] |= differ
    return found


def resized(boundaries: Tensor, size: Size) -> Tensor:
    """Maps [B, 1, H, W] brought to ``size``: bilinear, without antialiasing, as the published code does."""
    if boundaries.shape[-2:] == tuple(size):
        return boundaries
    return F.interpolate(boundaries, tuple(size), mode="bilinear", align_corners=False)


def tiled(maps: Tensor, rows: int, columns: int, side: int) -> Tensor:
    """Tiles [rows * columns * B, 1, side, side] of maps [B, 1, H, W], resized so that they cover each map.

    The tile (row r, column c) of image b is number ``(r * columns + c) * B + b``, as in the published code.
    """
    whole = resized(maps, (rows * side, columns * side))
    batch, channels = whole.shape[:2]
    cut = whole.unflatten(3, (columns, side)).unflatten(2, (rows, side))  # [B, C, rows, side, columns, side]
    return cut.permute(2, 4, 0, 1, 3, 5).reshape(rows * columns * batch, channels, side, side)
