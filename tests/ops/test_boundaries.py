"""Boundary maps against distances of pixels, one pair after the other; tiles against windows of the resized map."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from seglab.ops.boundaries import boundary_map, tiled
from seglab.types import IGNORE

FOREIGN = -7
"""Outside of the image."""


def by_distance(label: torch.Tensor, radius: int, first_class: int, frame: bool) -> torch.Tensor:
    """[H, W] bool, pixel by pixel: near a pixel of the other side of some class's mask."""
    height, width = label.shape
    found = torch.zeros(height, width, dtype=torch.bool)

    def class_at(y: int, x: int) -> int | None:
        inside = 0 <= y < height and 0 <= x < width
        k = int(label[y, x]) if inside else FOREIGN
        return k if inside and k != IGNORE and k >= first_class else None

    for y in range(height):
        for x in range(width):
            for dy in range(-radius, radius + 1):
                for dx in range(-radius, radius + 1):
                    if dy * dy + dx * dx > radius * radius:
                        continue
                    if not frame and not (0 <= y + dy < height and 0 <= x + dx < width):
                        continue
                    found[y, x] |= class_at(y, x) != class_at(y + dy, x + dx)
    return found


def labels(height: int, width: int, seed: int = 0) -> torch.Tensor:
    coarse = torch.randint(0, 3, (2, 3, 4), generator=torch.Generator().manual_seed(seed))
    label = F.interpolate(coarse[:, None].float(), (height, width))[:, 0].long()
    label[0, height // 2 :, : width // 3] = IGNORE
    return label


@pytest.mark.parametrize("frame", [True, False])
@pytest.mark.parametrize("first_class", [0, 1])
@pytest.mark.parametrize("radius", [1, 2, 3])
@pytest.mark.parametrize("size", [(9, 12), (1, 7), (7, 1), (2, 2)])
def test_a_boundary_pixel_is_one_near_the_other_side_of_a_class(size, radius, first_class, frame):
    label = labels(*size)
    found = boundary_map(label, radius, first_class, frame)
    assert torch.equal(found, torch.stack([by_distance(each, radius, first_class, frame) for each in label]))


def test_void_alone_has_no_boundary_and_a_class_alone_has_the_image_s_border():
    assert not boundary_map(torch.full((1, 6, 8), IGNORE)).any()
    found = boundary_map(torch.zeros(1, 6, 8, dtype=torch.int64))
    assert found.sum() == 6 * 8 - 2 * 4
    assert not boundary_map(torch.zeros(1, 6, 8, dtype=torch.int64), frame=False).any()


def test_tiles_come_row_by_row_and_of_each_place_all_images():
    maps = torch.arange(2 * 6 * 8, dtype=torch.float32).view(2, 1, 6, 8)
    tiles = tiled(maps, rows=3, columns=4, side=2)
    assert tiles.shape == (24, 1, 2, 2)
    for row in range(3):
        for column in range(4):
            for image in range(2):
                window = maps[image, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                assert torch.equal(tiles[(row * 4 + column) * 2 + image], window)


def test_maps_are_resized_so_that_tiles_cover_them():
    maps = torch.rand(1, 1, 5, 9, generator=torch.Generator().manual_seed(0))
    tiles = tiled(maps, rows=1, columns=2, side=8)
    whole = F.interpolate(maps, (8, 16), mode="bilinear", align_corners=False)
    assert torch.equal(torch.cat(list(tiles), 2)[None], whole)
