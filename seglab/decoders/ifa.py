"""IFA: Implicit Feature Alignment function (Hu et al., ECCV 2022, arXiv 2206.08655).

Every level of the backbone is taken as a field over the image that can be asked at any point. With points q and cell
centres in [-1, 1], (y, x), on a level of H x W cells:

    c       = the cell that q lies in,   delta = (q - centre(c)) * (H, W)     in [-1, 1]: 0 the centre, +-1 the border
    psi     = [delta, sin(E delta), cos(E delta)]
    feature = MLP([psi_1, z_1[c_1], ..., psi_4, z_4[c_4]])                    the classifier follows

No level is resized and nothing is convolved after they are joined. The first layer is computed level by level,

    W [psi_1; z_1; ...] + b = sum_l W_psi,l psi_l + (W_z,l z_l)[c_l] + b

with W_z on the level's own cells, before they are picked, and the sum of W_psi psi, which depends on sizes and weights
alone, kept between calls in evaluation. The stored matrix is the published one.

| symbol | here | published code |
|---|---|---|
| z_1 ... z_3, z_4 | enc1 ... enc3, head | enc1, enc2, enc3, head |
| E of level l | ifa.pos1.emb ... | ifa.pos1.emb ... |
| W, b; MLP | ifa.imnet.0; ifa.imnet | ifa.imnet (its last convolution is the classifier) |

B images, C channels, h x w cells of a level, r x w or h' x w' points.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seglab.checks import height_width, one_of, within
from seglab.decoders.base import Decoded, Decoder
from seglab.decoders.blocks import ConvNormAct, Norm
from seglab.errors import ConfigError
from seglab.ops.precision import full_precision, widen
from seglab.types import Bands, Size

log = logging.getLogger(__name__)

EPS = 1e-6
"""Shifted points are moved by it and stay that far inside the image, as in the published code."""
AREA_EPS = 1e-9
"""Added to the areas that weigh neighbours."""
HIGHEST = 6
"""Binary logarithm of the highest frequency of E."""
WIDTHS = {0: (0.5, 0.5), 1: (2.0, 1.0), 2: (2.0, 1.0, 1.0)}
"""Widths of the MLP's layers by ``depth``, as multiples of ``width``."""
NEIGHBOURS = ((-1, -1), (-1, 1), (1, -1), (1, 1))
"""Directions (y, x) of the local ensemble; that of index 3 - i lies opposite that of i."""
LARGEST_QUERY = 2**26
"""Points of one grid."""
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


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling as IFA has it: ``[B, C, h, w] -> [B, 5 width, h, w]``, joined and not projected.

    The image's mean comes first, then a 1x1 convolution and dilated 3x3 ones.
    """

    def __init__(self, in_channels: int, width: int, dilations: Sequence[int], norm: Norm) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(in_channels, width, 1, norm)
        self.conv2 = ConvNormAct(in_channels, width, 1, norm)
        self.dilated = len(dilations)
        for i, dilation in enumerate(dilations):
            self.add_module(f"conv{i + 3}", ConvNormAct(in_channels, width, 3, norm, dilation))
        self.out_channels = (2 + self.dilated) * width

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[0] == 1 and any(isinstance(m, nn.BatchNorm2d) for m in self.conv1):
            raise ConfigError(
                "one image per device: the mean over an image leaves batch normalisation one value per channel — "
                "expected at least 2 images (data.batch_size=2), decoder.aspp=false, or a norm without batch "
                "statistics (decoder.norm._target_=seglab.decoders.blocks.group_norm)"
            )
        mean = self.conv1(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[-2:])
        convs = [self.get_submodule(f"conv{i + 2}") for i in range(1 + self.dilated)]
        return torch.cat([mean, *(conv(x) for conv in convs)], dim=1)


class Project(nn.Sequential):
    """1x1 convolution with bias, normalisation, ReLU."""

    def __init__(self, in_channels: int, width: int, norm: Norm) -> None:
        super().__init__(nn.Conv2d(in_channels, width, 1), norm(width), nn.ReLU(inplace=True))


class IFA(Decoder):
    """Decoded feature at the stride of the finest map, or at any size that is asked for. Widths are the paper's.

    Args:
        width: channels of a level; the MLP's are multiples of it.
        depth: of the MLP: 2 (512, 256, 256 at width 256), 1 (512, 256) or 0 (128, 128).
        encoding: of a point's offset from its cell: sines and cosines of it, ``trained`` (as released) or ``fixed``;
            ``absolute`` (tables of where it lies in the image), or ``none`` (the offset as it is).
        pos_dim: sines and cosines together, or columns of the tables; a multiple of 4.
        local: the local ensemble (:class:`Implicit`): none (as released), sum or released.
        shift: where it looks for neighbours: half a cell of the query, or of the feature.
        shift_stride: factor of that.
        unfold: read the 3x3 neighbourhood of each cell.
        aspp: atrous spatial pyramid pooling on the coarsest map.
        dilations: of its 3x3 convolutions.
        query: where the prediction is asked in evaluation: at the ``size`` that it would be resized to, or on the
            finest map's grid (``native``, as released).
        train_query: in training: ``points``, a random pixel of the result in each cell of the finest map, or
            ``stride4``, the centres of these cells (as released), which show no offset on the finest level.
        chunk: points of a batch that are computed at a time; more are made in bands of rows.
        max_query: points of a batch that are computed as one map for who needs it whole; beyond, the native grid is.
        norm: makes the normalisation layers.

    Raises:
        ConfigError: an option out of range; in use, a size of 0 or beyond ``LARGEST_QUERY`` points.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        width: int = 256,
        depth: int = 2,
        encoding: str = "trained",
        pos_dim: int = 24,
        local: str = "none",
        shift: str = "query",
        shift_stride: float = 1.0,
        unfold: bool = False,
        aspp: bool = False,
        dilations: Sequence[int] = (12, 24, 36),
        query: str = "size",
        train_query: str = "points",
        chunk: int = 2**16,
        max_query: int = 2**18,
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__(channels, strides, num_classes)
        if depth not in WIDTHS:
            raise ConfigError(f"decoder.depth={depth} — expected one of {', '.join(map(str, WIDTHS))}")
        width = int(within("decoder.width", width, 2))
        self.query = one_of("decoder.query", query, ("size", "native"))
        self.train_query = one_of("decoder.train_query", train_query, ("stride4", "points"))
        self.chunk = int(within("decoder.chunk", chunk, 1, LARGEST_QUERY))
        self.max_query = int(within("decoder.max_query", max_query, 0, LARGEST_QUERY))
        for i, below in enumerate(self.channels[:-1]):
            self.add_module(f"enc{i + 1}", Project(below, width, norm))
        self.aspp = ASPP(self.channels[-1], width, dilations, norm) if aspp else None
        self.head: nn.Module = (
            Project(self.channels[-1], width, norm)
            if self.aspp is None
            else nn.Sequential(*ConvNormAct(self.aspp.out_channels, width, 3, norm), nn.Dropout2d(0.1))
        )
        widths = [int(factor * width) for factor in WIDTHS[depth]]
        self.ifa = Implicit(
            len(self.channels), width, widths, encoding, pos_dim, local, shift, shift_stride, unfold, norm
        )
        self.out_channels = widths[-1]
        self.stride = self.strides[0]
        self.any_size = self.query == "size"

    def levels(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The maps, each brought to the same width at its own size."""
        found = [self.get_submodule(f"enc{i + 1}")(x) for i, x in enumerate(maps[:-1])]
        last = maps[-1] if self.aspp is None else self.aspp(maps[-1])
        return [*found, self.head(last)]

    def forward(
        self, maps: Sequence[Tensor], wanted: frozenset[str] = frozenset(), size: Size | None = None
    ) -> Decoded:
        device, batch = maps[0].device, maps[0].shape[0]
        native = (maps[0].shape[-2], maps[0].shape[-1])
        projected = self.ifa.project(self.levels(maps))
        if size is not None:
            size = height_width("size", size, LARGEST_QUERY)
            if self.training and self.train_query == "points":
                points = one_in_each_cell(size, native, batch, device)
                return Decoded(feature=self.ifa.at(projected, points), pixels=points.rows * size[1] + points.columns)
            if not self.training and self.any_size and size != native:
                if batch * size[0] * size[1] > self.chunk:
                    return Decoded(bands=Query(self, projected, size, native))
                return Decoded(feature=self.ifa.at(projected, whole_grid(size, device)))
        return Decoded(feature=self.ifa.at(projected, whole_grid(native, device)))


class Query(Bands):
    """The feature on a grid of many points."""

    def __init__(self, decoder: IFA, projected: Sequence[Tensor], size: Size, native: Size) -> None:
        self.decoder = decoder
        self.projected = projected
        self.size = size
        self.native = native

    def __iter__(self) -> Iterator[Tensor]:
        batch, device = self.projected[0].shape[0], self.projected[0].device
        rows = max(1, self.decoder.chunk // (batch * self.size[1]))
        for first in range(0, self.size[0], rows):
            yield self.decoder.ifa.at(self.projected, whole_grid(self.size, device, slice(first, first + rows)))

    def whole(self) -> Tensor:
        points = self.projected[0].shape[0] * self.size[0] * self.size[1]
        if points <= self.decoder.max_query:
            return self.decoder.ifa.at(self.projected, whole_grid(self.size, self.projected[0].device))
        say_once(
            f"decoder: {points} points are more than decoder.max_query={self.decoder.max_query} for a classifier or a "
            "callback that needs the whole map; asked on the backbone's finest grid, and the prediction is resized"
        )
        return self.decoder.ifa.at(self.projected, whole_grid(self.native, self.projected[0].device))


@lru_cache(maxsize=64)
def say_once(text: str) -> None:
    """Log a line, each only once in a process."""
    log.warning(text)
