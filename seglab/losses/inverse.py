"""InverseForm's distance between predicted and true boundaries (Borse et al., CVPR 2021, section 3.4).

A frozen network (:mod:`seglab.models.inverse_net`) estimates for each tile of the image by which transformation the
predicted boundaries differ from the true ones: a vector c that is 0 for the identity, with the matrix theta(c)::

    Euclidean  mean over the tiles of |c|
    geodesic   mean over the tiles of d(I, theta(c)), seglab.ops.transformations

The maps are resized so that whole tiles cover them. Gradients pass through the network to the prediction.

The published code takes ``log_softmax`` over the only channel of the prediction, which is 0 everywhere: its term is a
constant of the labels and has no gradient. This form is ``activation: official``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from seglab.checks import height_width, one_of, within
from seglab.errors import ConfigError
from seglab.losses.base import Weight
from seglab.losses.boundary import BoundaryTerm
from seglab.losses.frozen import Frozen
from seglab.ops.boundaries import resized, tiled
from seglab.ops.precision import full_precision, widen
from seglab.ops.transformations import euclidean, geodesic
from seglab.types import Batch, Output, Size

if TYPE_CHECKING:
    from seglab.loading import Loaded

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": Tensor.sigmoid,
    "logsigmoid": F.logsigmoid,
    "identity": lambda logits: logits,
    "official": lambda logits: logits.log_softmax(1),
}
"""What the network is shown of boundary logits [B, 1, H, W]."""
DISTANCES = ("euclidean", "geodesic")
MOST = 4096
"""Tiles of an image."""


def grid(size: Size, tile: int, tiles: int | Size | None = None) -> Size:
    """(rows, columns) of tiles that cover an image [H, W].

    Args:
        tiles: along the shorter side, the longer following the shape; or (rows, columns); None: as many as leave the
            image nearest to its own size.
    """
    if tiles is None:
        rows, columns = (max(1, round(side / tile)) for side in size)
        return rows, columns
    if not isinstance(tiles, int):
        return tiles
    long = max(tiles, round(tiles * max(size) / min(size)))
    return (tiles, long) if size[0] <= size[1] else (long, tiles)


class InverseDistance(BoundaryTerm):
    """The distance of a boundary head's prediction from the boundaries of the labels. In training only.

    Args:
        network: opens the inverse-transformation network, ``{_target_: seglab.load, _partial_: true, path: FILE}``.
        branch: the logits [B, 1, h, w].
        activation: ``sigmoid``, ``logsigmoid``, ``identity``, or ``official`` (no gradient; see the module).
        distance: ``euclidean`` or ``geodesic``.
        tiles: number of tiles along the shorter side of the image; or [rows, columns], which is [3, 6] in the published
            code; None: what leaves the image nearest to its own size.
        radius, classes: see :class:`BoundaryTerm`.

    Raises:
        ConfigError: an option out of range; in use, another kind of network.
    """

    training_only: ClassVar[bool] = True
    learns_from: ClassVar[str] = "inverse_net"

    def __init__(
        self,
        network: Callable[[], Loaded],
        branch: str = "boundary",
        weight: Weight = 0.3,
        activation: str = "sigmoid",
        distance: str = "euclidean",
        tiles: int | Sequence[int] | None = None,
        radius: int = 2,
        classes: str = "all",
    ) -> None:
        super().__init__(branch, weight, radius, classes)
        self.network = Frozen(network, type(self).__name__)
        self.activation = one_of("activation", activation, tuple(ACTIVATIONS))
        self.distance = one_of("distance", distance, DISTANCES)
        self.tiles: int | Size | None = None
        if isinstance(tiles, Sequence):
            self.tiles = height_width("tiles", tiles, MOST)
        elif tiles is not None:
            self.tiles = int(within("tiles", tiles, 1, MOST))

    def estimate(self, logits: Tensor, true: Tensor) -> Output:
        """The network's estimate for each tile of logits and boundary maps [B, 1, H, W].

        Raises:
            ConfigError: it is no inverse-transformation network.
        """
        model = self.network.model
        tile = getattr(model, "tile", None)
        if tile is None:
            raise ConfigError(
                f"{type(self).__name__} was given a {type(model).__name__} as its network — expected an "
                "inverse-transformation network, which python -m seglab.train task=inverse_net trains; set "
                "loss.inverse.network.path to its run folder"
            )
        shown = ACTIVATIONS[self.activation](logits)
        rows, columns = grid((true.shape[-2], true.shape[-1]), tile, self.tiles)
        pair = [tiled(each, rows, columns, tile) for each in (shown, true.to(shown.dtype))]
        return self.network(torch.cat(pair, 1))

    def forward(self, output: Output, batch: Batch) -> Tensor:
        logits, label = self.logits(output), self.labels(batch)
        with full_precision(logits):
            size = (label.shape[-2], label.shape[-1])
            found = self.estimate(resized(logits, size), self.true(label))
            if self.distance == "geodesic":
                return geodesic(widen(self.read(found, "theta"))).mean()
            return euclidean(widen(found.logits)).mean()
