"""Connected components against a flood fill."""

from __future__ import annotations

import pytest
import torch

from seglab.ops.components import component_areas, components


def flooded(ids: torch.Tensor) -> torch.Tensor:
    """The first pixel of each component, by visiting neighbours one by one."""
    height, width = ids.shape
    found = torch.full((height, width), -1)
    for first in range(height * width):
        if found.flatten()[first] >= 0:
            continue
        waiting = [(first // width, first % width)]
        found[waiting[0]] = first
        while waiting:
            row, column = waiting.pop()
            for y in range(max(row - 1, 0), min(row + 2, height)):
                for x in range(max(column - 1, 0), min(column + 2, width)):
                    if found[y, x] < 0 and ids[y, x] == ids[row, column]:
                        found[y, x] = first
                        waiting.append((y, x))
    return found


def spiral(n: int) -> torch.Tensor:
    """A path one pixel wide that winds through the map, and what is between."""
    ids = torch.zeros(n, n, dtype=torch.int64)
    ids[::2] = 1
    ids[1::4, -1] = 1
    ids[3::4, 0] = 1
    return ids


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (11, 14)], ids=str)
def test_they_are_those_of_a_flood_fill(size, seed):
    ids = torch.randint(2 + seed % 3, size, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(components(ids), flooded(ids))


def test_a_winding_path_is_one_component():
    ids = spiral(15)
    assert torch.equal(components(ids), flooded(ids))
    assert (component_areas(ids)[ids == 1] == (ids == 1).sum()).all()


def test_areas_are_pixels_of_the_component():
    ids = torch.tensor([[1, 0, 0], [0, 1, 0], [2, 2, 1]])
    assert component_areas(ids).tolist() == [[3, 4, 4], [4, 3, 4], [2, 2, 3]]
