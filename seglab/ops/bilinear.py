"""Bilinear resize as two thin matrix products, in bands of rows that stay in a processor's cache.

A resize h x w -> H x W is ``y = R x C^T`` with R [H, h] and C [W, w], which have two non-zeros in a row. Columns are
stretched first, while there are only h rows; each band of a few output rows is then a product with the two or three
stretched rows that it lies between. The transposed products carry a gradient back.

K channels; a map is stored as [h, K, w], so that a band of rows is one matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

Size = tuple[int, int] | torch.Size

BAND = 2**19
"""Elements of a band (2 MB in float32): what fits into the cache of a core."""
BAND_GPU = 2**25
"""On an accelerator (128 MB in float32): large enough to fill it."""
CHUNK = 8
"""Bands whose stretched rows are held together."""
BLOCK = 512
"""Output columns that are stretched by one product; its matrix is dense."""


class Block(NamedTuple):
    """Some columns of the result."""

    columns: slice
    source: slice
    weights: Tensor
    """[columns, source]"""


class Band(NamedTuple):
    """Some rows of the result."""

    rows: slice
    source: slice
    """Rows of the chunk that they lie between."""
    weights: Tensor | None
    """[rows, source]; None where the rows are the chunk's own."""


class Chunk(NamedTuple):
    """Neighbouring bands."""

    source: slice
    bands: tuple[Band, ...]


class Plan(NamedTuple):
    """How a resize is done."""

    chunks: tuple[Chunk, ...]
    blocks: tuple[Block, ...]
    """None: the width stays."""


def weights(before: int, after: int, align_corners: bool) -> Tensor:
    """[after, before] float64: row i holds the shares of the two elements that element i of the result lies between."""
    index = torch.arange(after, dtype=torch.float64)
    if align_corners:
        position = index * (before - 1) / max(after - 1, 1)
    else:
        position = ((2 * index + 1) * before / (2 * after) - 0.5).clamp(min=0)
    low = position.floor().clamp(max=before - 1)
    share = position - low
    matrix = torch.zeros(after, before, dtype=torch.float64)
    rows = torch.arange(after)
    matrix[rows, low.long()] = 1 - share
    matrix[rows, (low.long() + 1).clamp(max=before - 1)] += share
    return matrix


def span(matrix: Tensor) -> slice:
    """The columns that hold non-zeros."""
    found = matrix.any(0).nonzero()
    return slice(int(found[0]), int(found[-1]) + 1)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is made in an evaluation is used in training too
def plan(source: Size, size: Size, align_corners: bool, step: int, dtype: torch.dtype, device: torch.device) -> Plan:
    """Made once for all maps of a size; a band has ``step`` rows."""
    (h, w), (height, width) = source, size
    rows = None if h == height else weights(h, height, align_corners)
    chunks = []
    for start in range(0, height, CHUNK * step):
        stop = min(start + CHUNK * step, height)
        whole = slice(start, stop) if rows is None else span(rows[start:stop])
        bands = []
        for first in range(start, stop, step):
            own = slice(first, min(first + step, stop))
            near = own if rows is None else span(rows[own])
            inner = slice(near.start - whole.start, near.stop - whole.start)
            shares = None if rows is None else rows[own, near].to(device, dtype)
            bands.append(Band(own, inner, shares))
        chunks.append(Chunk(whole, tuple(bands)))
    blocks = []
    if w != width:
        columns = weights(w, width, align_corners)
        for first in range(0, width, BLOCK):
            own = slice(first, min(first + BLOCK, width))
            near = span(columns[own])
            blocks.append(Block(own, near, columns[own, near].to(device, dtype)))
    return Plan(tuple(chunks), tuple(blocks))


def stretched(x: Tensor, blocks: tuple[Block, ...], width: int) -> Tensor:
    """[n, K, W] of rows [n, K, w]."""
    if not blocks:
        return x
    flat = x.reshape(-1, x.shape[-1])
    out = flat.new_empty(len(flat), width)
    for block in blocks:
        torch.mm(flat[:, block.source], block.weights.t(), out=out[:, block.columns])
    return out.view(*x.shape[:2], width)


def gathered(y: Tensor, blocks: tuple[Block, ...], out: Tensor) -> None:
    """Add the transpose of :func:`stretched` of rows [n, K, W] to ``out`` [n, K, w]."""
    if not blocks:
        out += y
        return
    flat = y.view(-1, y.shape[-1])
    for block in blocks:
        out[..., block.source] += (flat[:, block.columns] @ block.weights).view(*y.shape[:2], -1)


class Resized:
    """A map [B, K, h, w] of float32 or float64, to be read in bands at H x W; nothing is differentiated through it.

    Args:
        maps: number of gradient maps that are collected on the way (:meth:`add`).
    """

    def __init__(self, x: Tensor, size: Size, align_corners: bool = False, maps: int = 0) -> None:
        self.x = x.detach()
        self.width = size[1]
        step = max(1, (BAND if x.device.type == "cpu" else BAND_GPU) // (x.shape[1] * size[1]))
        source = (x.shape[2], x.shape[3])
        self.plan = plan(source, (size[0], size[1]), align_corners, step, x.dtype, x.device)
        stored = (x.shape[0], x.shape[2], x.shape[1], x.shape[3])
        self.maps = [x.new_zeros(stored) for _ in range(maps)]

    def bands(self) -> Iterator[tuple[int, slice, Tensor]]:
        """Image, rows and values [r, K, W] of each band; the values are the reader's to overwrite."""
        for image, source in enumerate(self.x):
            rows_first = source.transpose(0, 1)
            for chunk in self.plan.chunks:
                lines = stretched(rows_first[chunk.source], self.plan.blocks, self.width)
                self.pending = [torch.zeros_like(lines, memory_format=torch.contiguous_format) for _ in self.maps]
                for self.band in chunk.bands:
                    near = lines[self.band.source]
                    yield image, self.band.rows, product(self.band.weights, near)
                for found, pending in zip(self.maps, self.pending, strict=True):
                    gathered(pending, self.plan.blocks, found[image, chunk.source])

    def add(self, number: int, gradient: Tensor) -> None:
        """Add the gradient [r, K, W] at the band that is being read to a gradient map."""
        lines = self.pending[number][self.band.source]
        if self.band.weights is None:
            lines += gradient
        else:
            lines.flatten(1).addmm_(self.band.weights.t(), gradient.flatten(1))

    def gradient(self, number: int) -> Tensor:
        """A gradient map [B, K, h, w]."""
        return self.maps[number].transpose(1, 2)


def product(shares: Tensor | None, lines: Tensor) -> Tensor:
    """[r, K, W] of the lines [n, K, W] that they lie between, a copy."""
    if shares is None:
        return lines.clone(memory_format=torch.contiguous_format)
    return (shares @ lines.reshape(len(lines), -1)).view(len(shares), *lines.shape[1:])
