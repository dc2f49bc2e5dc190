"""The implicit function of IFA: what the levels of a backbone say about any point, made one feature by an MLP.

:mod:`seglab.decoders.ifa` has the equations and the names. B images, C channels, h x w cells of a level, r x w or
h' x w' points.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seglab.checks import one_of, within
from seglab.decoders.blocks import Norm
from seglab.errors import ConfigError
from seglab.ops.precision import full_precision, widen
from seglab.types import Size

EPS = 1e-6
"""Shifted points are moved by it and stay that far inside the image, as in the published code."""
AREA_EPS = 1e-9
"""Added to the areas that weigh neighbours."""
HIGHEST = 6
"""Binary logarithm of the highest frequency of E."""
NEIGHBOURS = ((-1, -1), (-1, 1), (1, -1), (1, 1))
"""Directions (y, x) of the local ensemble; that of index 3 - i lies opposite that of i."""
KEPT = 2**25
"""Values of W_psi psi (128 MB in float32) that are kept between calls; more are computed each time."""


class Axis(NamedTuple):
    """Where the points of one axis of a query lie among the cells of a map."""

    cell: Tensor
    """[n] int64"""
    delta: Tensor
    """[n] float32 offset from the cell's centre, in half cells."""


@lru_cache(maxsize=256)
def axis(points: int, cells: int, shift: float = 0.0) -> Axis:
    """The nearest of ``cells`` cells for each of ``points`` evenly spaced points.

    Half-way points take the even cell. ``shift`` (in units of the axis, [-1, 1]) moves where the cell is looked for;
    the offset stays that of the unmoved point.
    """
    # In float64 and on the CPU: the same cells on every device.
    place = (2 * torch.arange(points, dtype=torch.float64) + 1) / points  # above -1
    moved = (place + (shift + EPS if shift else 0)).clamp(EPS, 2 - EPS)
    cell = ((moved * cells - 1) / 2).round().long().clamp(0, cells - 1)
    return Axis(cell, (place * cells - (2 * cell + 1)).float())


class Points(NamedTuple):
    """Points of an image by row and column of a grid over it: a part of the grid, or some points of each image."""

    size: Size
    """[height, width] of the grid."""
    rows: Tensor
    """[r, 1] int64, or [B, h', w'] where every image has its own points."""
    columns: Tensor
    """[1, w], or [B, h', w']"""

    @property
    def own(self) -> bool:
        """Whether every image has its own points."""
        return self.rows.ndim == 3

    def along(self, cells: Size, shift: tuple[float, float] = (0.0, 0.0)) -> tuple[Axis, Axis]:
        """Cells and offsets in a map of that size, by rows and by columns."""
        found = []
        for points, index, n, moved in zip(self.size, self[1:], cells, shift, strict=True):
            known = axis(points, n, moved)
            found.append(Axis(*(value.to(index.device)[index] for value in known)))
        return found[0], found[1]


def whole_grid(size: Size, device: torch.device, rows: slice = slice(None)) -> Points:
    """The points of a grid, or of some of its rows."""
    y, x = (torch.arange(n, device=device) for n in size)
    return Points(size, y[rows, None], x[None])


def one_in_each_cell(size: Size, cells: Size, batch: int, device: torch.device) -> Points:
    """A random pixel of an image of ``size`` in every cell of a coarser grid, for each of ``batch`` images."""
    found = []
    for dim, (n, m) in enumerate(zip(size, cells, strict=True)):
        first = torch.arange(m + 1, device=device) * n // m
        low, high = (x.view((m, 1) if dim == 0 else (1, m)) for x in (first[:-1], first[1:]))
        number = (high - low).clamp(min=1)  # a grid finer than the image has cells without a pixel of their own
        draw = torch.rand(batch, *cells, device=device)
        found.append((low + (draw * number).long().clamp(max=number - 1)).clamp(max=n - 1))
    return Points(size, *found)


def pick(x: Tensor, y_cell: Tensor, x_cell: Tensor) -> Tensor:
    """The cells of a map [B, C, h, w]: [B, C, r, n] of rows [r, 1] and columns [1, n], or of [B, h', w'] of each."""
    if y_cell.ndim == 2:
        return x.index_select(2, y_cell[:, 0]).index_select(3, x_cell[0])
    index = (y_cell * x.shape[-1] + x_cell).flatten(1)[:, None].expand(-1, x.shape[1], -1)
    return x.flatten(2).gather(2, index).unflatten(2, y_cell.shape[1:])


def frequencies(pos_dim: int) -> Tensor:
    """E, [pos_dim / 2, 2]: the geometric series 1 ... 64 for y in the first half of its rows, for x in the second."""
    n = pos_dim // 4
    series = 2 ** torch.linspace(0, HIGHEST, n)
    matrix = torch.zeros(2 * n, 2)
    matrix[:n, 0] = series
    matrix[n:, 1] = series
    return matrix


class Fourier(nn.Module):
    """``forward(delta [..., 2]) -> [..., pos_dim + 2]``: the offset, and sines and cosines of its projections.

    Args:
        pos_dim: numbers of sines and cosines together, a multiple of 4.
        trained: whether E is a parameter, as released; it can then mix y and x.

    Raises:
        ConfigError: a pos_dim that is no multiple of 4.
    """

    def __init__(self, pos_dim: int, trained: bool) -> None:
        super().__init__()
        self.channels = pos_dim + 2
        self.emb: Tensor
        if trained:
            self.register_parameter("emb", nn.Parameter(frequencies(pos_dim)))
        else:
            self.register_buffer("emb", frequencies(pos_dim), persistent=False)

    def forward(self, delta: Tensor, place: Tensor) -> Tensor:
        matrix = widen(self.emb)
        delta = delta.to(matrix.dtype)
        projected = delta @ matrix.T
        return torch.cat([delta, projected.sin(), projected.cos()], dim=-1)


class Offset(nn.Module):
    """No encoding: the offset itself, two channels."""

    channels = 2

    def forward(self, delta: Tensor, place: Tensor) -> Tensor:
        return delta


class Tables(nn.Module):
    """``forward(delta, place [..., 2]) -> [..., pos_dim]``: learnt rows for where a point lies in the image.

    The offset in the cell is not looked at. A table's rows are spread over the image's height or width, so that any
    size has them; the published code takes the integer row and column, and with it square grids of at most 100.

    Args:
        pos_dim: channels, half of them for y and half for x.
        rows: of each table.
    """

    def __init__(self, pos_dim: int, rows: int = 100) -> None:
        super().__init__()
        self.channels = pos_dim
        self.row, self.column = (nn.Embedding(rows, pos_dim // 2) for _ in range(2))

    def forward(self, delta: Tensor, place: Tensor) -> Tensor:
        rows = self.row.num_embeddings
        index = (place * rows).long().clamp(0, rows - 1)
        return widen(torch.cat([self.row(index[..., 0]), self.column(index[..., 1])], dim=-1))


class PointConv(nn.Conv1d):
    """A 1x1 convolution of a map [B, C, h, w]; the weight is stored as [out, in, 1], as published."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight[..., None], self.bias)


class PointMLP(nn.Module):
    """The MLP under the published keys. Not a ``Sequential``: its first weight is read here, and not called."""

    def __init__(self, in_channels: int, widths: Sequence[int], norm: Norm) -> None:
        super().__init__()
        self.number = 3 * len(widths)
        for i, width in enumerate(widths):
            for k, layer in enumerate((PointConv(in_channels, width), norm(width), nn.ReLU(inplace=True))):
                self.add_module(str(3 * i + k), layer)
            in_channels = width

    @property
    def first(self) -> PointConv:
        """The convolution that joins the levels."""
        return self.get_submodule("0")  # type: ignore[return-value]

    def after_first(self, x: Tensor) -> Tensor:
        """The rest of the layers."""
        for i in range(1, self.number):
            layer = self.get_submodule(str(i))
            x = of_points(layer, x) if isinstance(layer, nn.GroupNorm) else layer(x)
        return x


def of_points(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer of every point of [B, C, h, w] by itself: what a point says must not depend on who else is asked."""
    points = x.movedim(1, -1)
    return layer(points.flatten(0, 2)).view_as(points).movedim(-1, 1)


class Implicit(nn.Module):
    """``forward(levels, points) -> [B, C, r, w]``, or [B, C, h', w'] where every image has its own points.

    Args:
        levels: their number.
        width: channels of a level.
        widths: channels of the MLP's layers.
        encoding: trained, fixed, absolute or none.
        pos_dim: of the encoding.
        local: none; ``sum``, the four neighbours of each point weighted by the areas opposite; ``released``, the last
            neighbour's share of that sum alone, which is what the published code returns.
        shift: how far off neighbours are looked for: half a cell of the ``query`` (times ``shift_stride``), as
            published, or of the level (``feature``).
        shift_stride: see there.
        unfold: the levels' 3x3 neighbourhoods in place of their cells.
        norm: makes the normalisation layers; group normalisation is of each point by itself.
    """

    def __init__(
        self,
        levels: int,
        width: int,
        widths: Sequence[int],
        encoding: str = "trained",
        pos_dim: int = 24,
        local: str = "none",
        shift: str = "query",
        shift_stride: float = 1.0,
        unfold: bool = False,
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        one_of("decoder.encoding", encoding, ("trained", "fixed", "absolute", "none"))
        if encoding != "none" and (pos_dim < 8 or pos_dim % 4):
            raise ConfigError(f"decoder.pos_dim={pos_dim} — expected a multiple of 4, at least 8, e.g. 24")
        self.local = one_of("decoder.local", local, ("none", "sum", "released"))
        self.shift = one_of("decoder.shift", shift, ("query", "feature"))
        self.shift_stride = within("decoder.shift_stride", shift_stride, 0, open_low=True)
        self.unfold = unfold
        for i in range(levels):
            self.add_module(f"pos{i + 1}", self.position(encoding, pos_dim))
        self.levels = levels
        self.encoded = self.encodings[0].channels
        self.each = self.encoded + width * (9 if unfold else 1)
        """Columns of W that are of one level: first the encoding's."""
        self.imnet = PointMLP(levels * self.each, widths, norm)
        self.out_channels = widths[-1]
        self.known: tuple[Any, Tensor] | None = None

    @staticmethod
    def position(encoding: str, pos_dim: int) -> nn.Module:
        """One level's encoding."""
        if encoding == "absolute":
            return Tables(pos_dim)
        return Offset() if encoding == "none" else Fourier(pos_dim, encoding == "trained")

    @property
    def encodings(self) -> list[Any]:
        """Of each level, finest first."""
        return [self.get_submodule(f"pos{i + 1}") for i in range(self.levels)]

    def forward(self, levels: Sequence[Tensor], points: Points) -> Tensor:
        return self.at(self.project(levels), points)

    def project(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """[B, hidden, h, w] of each level: W_z z, where its cells are."""
        found = []
        for x, weight in zip(levels, self.imnet.first.weight[..., 0].split(self.each, 1), strict=True):
            kernel = weight[:, self.encoded :]
            if self.unfold:
                found.append(F.conv2d(x, kernel.unflatten(1, (-1, 3, 3)), padding=1))
            else:
                found.append(F.conv2d(x, kernel[..., None, None]))
        return found

    def at(self, projected: Sequence[Tensor], points: Points) -> Tensor:
        """The feature at the points, of levels that :meth:`project` has been through."""
        sizes = [(x.shape[-2], x.shape[-1]) for x in projected]
        bias = self.imnet.first.bias
        assert bias is not None
        total: Tensor | None = None
        if self.local == "none":
            for x, size in zip(projected, sizes, strict=True):
                rows, columns = points.along(size)
                found = pick(x, rows.cell, columns.cell)
                total = found if total is None else total + found
            assert total is not None
            return self.imnet.after_first(total + self.offsets(sizes, points, total) + bias.to(total)[:, None, None])
        for i, (x, size) in enumerate(zip(projected, sizes, strict=True)):
            for rows, columns, share in self.neighbours(points, size):
                found = pick(x, rows.cell, columns.cell)
                found = (found + self.offset(i, rows, columns, points).to(found)) * self.over_channels(share.to(found))
                total = found if total is None else total + found
        assert total is not None
        return self.imnet.after_first(total + bias.to(total)[:, None, None])

    def neighbours(self, points: Points, size: Size) -> list[tuple[Axis, Axis, Tensor]]:
        """Rows, columns and weight [r, w] or [B, h', w'] of the neighbours of the points in a map of that size."""
        unit = [self.shift_stride / n for n in (points.size if self.shift == "query" else size)]
        found = [points.along(size, (y * unit[0], x * unit[1])) for y, x in NEIGHBOURS]
        area = torch.stack([(rows.delta * columns.delta).abs() + AREA_EPS for rows, columns in found])
        share = area.flip(0) / area.sum(0)
        all_of_them = [(*pair, weight) for pair, weight in zip(found, share, strict=True)]
        return all_of_them[-1:] if self.local == "released" else all_of_them

    def offsets(self, sizes: Sequence[Size], points: Points, like: Tensor) -> Tensor:
        """[hidden, r, w], or [B, hidden, h', w']: W_psi psi summed over the levels, in the type of a map."""
        own = tuple(self.parameters())
        fits = points.rows.numel() == points.size[0] and like.shape[1] * points.size[0] * points.size[1] <= KEPT
        frozen = not (self.training or torch.is_grad_enabled() or any(p.is_inference() for p in own))
        if not fits or points.own or not frozen or torch.compiler.is_compiling():
            return self.sum_offsets(sizes, points).to(like.dtype)
        key = (points.size, *sizes, like.dtype, like.device, *((id(p), p.data_ptr(), p._version) for p in own))
        if self.known is None or self.known[0] != key:
            self.known = (key, self.sum_offsets(sizes, points).to(like.dtype))
        return self.known[1]

    def sum_offsets(self, sizes: Sequence[Size], points: Points) -> Tensor:
        """See :meth:`offsets`; float32 or wider."""
        parts = [self.offset(i, *points.along(size), points) for i, size in enumerate(sizes)]
        return torch.stack(parts).sum(0)

    def offset(self, level: int, rows: Axis, columns: Axis, points: Points) -> Tensor:
        """[hidden, r, w], or [B, hidden, h', w']: W_psi psi of one level, float32 or wider."""
        weight = self.imnet.first.weight[:, :, 0].split(self.each, 1)[level][:, : self.encoded]
        with full_precision(weight):
            matrix = widen(weight)
            encoded = self.encode(level, rows, columns, points)
            return F.linear(encoded.to(matrix.dtype), matrix).movedim(-1, -3)

    def encode(self, level: int, rows: Axis, columns: Axis, points: Points) -> Tensor:
        """psi, [r, w, P] or [B, h', w', P], of offsets from cells of a level."""
        delta = torch.stack(torch.broadcast_tensors(rows.delta, columns.delta), dim=-1)
        places = [(index + 0.5) / n for index, n in zip(points[1:], points.size, strict=True)]
        place = torch.stack(torch.broadcast_tensors(*places), dim=-1)
        encoded: Tensor = self.encodings[level](delta, place)
        return encoded

    def context(self, level: int, x: Tensor, points: Points) -> Tensor:
        """[B, P + C, r, w]: [psi; z] of one level [B, C, h, w], what W is the matrix of. The plain form.

        Nothing here computes it; tests and measurements compare with it.
        """
        if self.unfold:
            x = F.unfold(x, 3, padding=1).unflatten(2, x.shape[-2:])
        size = (x.shape[-2], x.shape[-1])
        weighted = [(*points.along(size), None)] if self.local == "none" else self.neighbours(points, size)
        total: Tensor | None = None
        for rows, columns, share in weighted:
            z = pick(x, rows.cell, columns.cell)
            psi = self.encode(level, rows, columns, points).movedim(-1, -3).to(z)
            found = torch.cat([psi.expand(z.shape[0], *psi.shape[-3:]), z], 1)
            if share is not None:
                found = found * self.over_channels(share.to(found))
            total = found if total is None else total + found
        assert total is not None
        return total

    @staticmethod
    def over_channels(share: Tensor) -> Tensor:
        """[r, w] or [B, h', w'] as factors of all channels of a map."""
        return share.unsqueeze(-3)

    def train(self, mode: bool = True) -> Implicit:
        self.known = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "known": None}  # a copy's parameters are others
