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

The function of points is :class:`seglab.decoders.implicit.Implicit`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from seglab.checks import height_width, one_of, within
from seglab.decoders.base import Decoded, Decoder
from seglab.decoders.blocks import ConvNormAct, Norm
from seglab.decoders.implicit import Implicit, one_in_each_cell, whole_grid
from seglab.errors import ConfigError
from seglab.types import Bands, Size

log = logging.getLogger(__name__)

WIDTHS = {0: (0.5, 0.5), 1: (2.0, 1.0), 2: (2.0, 1.0, 1.0)}
"""Widths of the MLP's layers by ``depth``, as multiples of ``width``."""
LARGEST_QUERY = 2**26
"""Points of one grid."""


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
