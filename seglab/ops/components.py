"""Connected components of id maps, of all ids at once and on any device.

Pixels of one id that touch, also at a corner, are one component. A row's runs of one id are the nodes of a graph, and a
root is the smallest index of a component: roots of touching runs are joined at the smaller one until no edge joins two
(hooking and pointer jumping; Shiloach and Vishkin, 1982).
"""

from __future__ import annotations

import torch
from torch import Tensor


def components(ids: Tensor) -> Tensor:
    """[H, W] ids -> [H, W] int64: the flat index of the first pixel of each pixel's component."""
    height, width = ids.shape
    index = torch.arange(height * width, device=ids.device).view(height, width)
    begins = torch.ones_like(ids, dtype=torch.bool)
    begins[:, 1:] = ids[:, 1:] != ids[:, :-1]
    parent = (index * begins).cummax(1).values.flatten()
    if height > 1:
        u, v = touching(ids, index, begins)
        while True:
            a, b = parent[u], parent[v]
            apart = a != b
            if not apart.any():
                break
            u, v = u[apart], v[apart]
            low, high = torch.minimum(a, b)[apart], torch.maximum(a, b)[apart]
            parent = shortened(parent.scatter_reduce(0, high, low, "amin"))
    return parent.view(height, width)


def touching(ids: Tensor, index: Tensor, begins: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of pixels of one id in rows that follow each other: one or more for any two runs that touch."""
    upper, lower = ids[:-1], ids[1:]
    pairs = [
        # Two runs one below the other: at the column where the later of them begins. Else a corner joins them.
        (index[:-1], index[1:], (upper == lower) & (begins[:-1] | begins[1:])),
        (index[:-1, :-1], index[1:, 1:], (upper[:, :-1] == lower[:, 1:]) & begins[1:, 1:]),
        (index[:-1, 1:], index[1:, :-1], (upper[:, 1:] == lower[:, :-1]) & begins[:-1, 1:]),
    ]
    return torch.cat([a[kept] for a, _, kept in pairs]), torch.cat([b[kept] for _, b, kept in pairs])


def shortened(parent: Tensor) -> Tensor:
    """Every node's root, from its parent."""
    while not torch.equal(parent, above := parent[parent]):
        parent = above
    return parent


def component_areas(ids: Tensor) -> Tensor:
    """[H, W] ids -> [H, W] int64: the number of pixels of each pixel's component."""
    root = components(ids).flatten()
    return torch.bincount(root, minlength=len(root))[root].view(ids.shape)
