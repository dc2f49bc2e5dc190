from __future__ import annotations

import pytest
import torch

from seglab.ops.edges import canny, edge_mask


def loop_canny(label: torch.Tensor) -> torch.Tensor:
    """The same rule pixel by pixel."""
    h, w = label.shape

    def at(i: int, j: int) -> int:
        return int(label[min(max(i, 0), h - 1), min(max(j, 0), w - 1)])

    def sobel(i: int, j: int) -> tuple[int, int]:
        dx = sum(f * (at(i + r, j + 1) - at(i + r, j - 1)) for r, f in ((-1, 1), (0, 2), (1, 1)))
        dy = sum(f * (at(i + 1, j + r) - at(i - 1, j + r)) for r, f in ((-1, 1), (0, 2), (1, 1)))
        return dx, dy

    def m(i: int, j: int) -> int:
        return sum(abs(d) for d in sobel(i, j)) if 0 <= i < h and 0 <= j < w else 0

    edges = torch.zeros(h, w, dtype=torch.bool)
    for i in range(h):
        for j in range(w):
            dx, dy = sobel(i, j)
            here, t, y = m(i, j), abs(dx) * 13573, abs(dy) * 2**15
            if y < t:
                kept = here > m(i, j - 1) and here >= m(i, j + 1)
            elif y > t + abs(dx) * 2**16:
                kept = here > m(i - 1, j) and here >= m(i + 1, j)
            else:
                s = -1 if (dx < 0) != (dy < 0) else 1
                kept = here > m(i - 1, j - s) and here > m(i + 1, j + s)
            edges[i, j] = here > 0 and kept
    return edges


@pytest.mark.parametrize("classes", [3, 256, 5000])
def test_edges_are_those_of_the_rule_written_as_a_loop(classes):
    label = torch.randint(0, classes, (2, 4, 5)).repeat_interleave(3, 1).repeat_interleave(2, 2)
    assert torch.equal(canny(label), torch.stack([loop_canny(image) for image in label]))


def test_one_class_has_no_edge():
    assert not canny(torch.full((1, 20, 20), 7)).any()


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_edges_grow_by_a_square_that_reaches_further_up_and_left_where_it_is_even(size):
    label = torch.zeros(1, 40, 40, dtype=torch.int64)
    label[:, 20:] = 1
    thin, thick = edge_mask(label, 1, 0)[0, :, 20], edge_mask(label, size, 0)[0, :, 20]
    (row,) = thin.nonzero()[0].tolist()
    assert thick.nonzero()[:, 0].tolist() == list(range(row - (size - 1 - size // 2), row + size // 2 + 1))


def test_the_border_is_cleared_before_edges_grow():
    label = torch.randint(0, 9, (1, 20, 20))
    mask = edge_mask(label, 3)
    assert mask.any()
    mask[:, 5:-5, 5:-5] = False
    assert not mask.any()


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (1, 1), (3, 40)])
def test_maps_with_a_side_of_up_to_twelve_have_no_edges(shape):
    assert not edge_mask(torch.randint(0, 9, (2, *shape))).any()
