"""The inverse-transformation network of InverseForm (Borse et al., CVPR 2021, section 3.2).

Given two boundary maps of one tile, the second of which was warped into the first, it estimates the warp: a vector of
normalised parameters that is 0 for the identity. Frozen, it says how far a predicted boundary is off the true one
(:mod:`seglab.losses.inverse`).

======================  ======================================================================
here                    what it is
======================  ======================================================================
tile                    t: side of a tile in pixels
vector                  c = (parameter - identity) / half of its range, [N, P]
matrix                  theta [N, 3, 3]: where a point of the first map lies in the second
======================  ======================================================================

Points are (x, y, 1) with x and y from -1 to 1 over the tile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

from seglab.checks import within
from seglab.errors import ConfigError
from seglab.models.base import Model
from seglab.models.normalise import Normalise
from seglab.ops.transformations import PARAMETERS
from seglab.types import FROM_LABELS, Output, Size


class Transformations:
    """Which warps there are, and how far they go.

    Args:
        parameters: 4 (shifts and scales), 6 (affine) or 8 (homographies).
        shift: largest shift, in half tiles.
        scale: largest difference of a scale from 1.
        rotation: largest angle, in degrees.
        shear: largest shear.
        perspective: largest entry of the matrix's last row beside its 1.

    Raises:
        ConfigError: another number of parameters, a range that is not positive or in which a warp is not invertible.
    """

    def __init__(
        self,
        parameters: int = 4,
        shift: float = 0.15,
        scale: float = 0.15,
        rotation: float = 10.0,
        shear: float = 0.1,
        perspective: float = 0.05,
    ) -> None:
        if parameters not in (4, 6, 8):
            raise ConfigError(
                f"inverse_net.transformations.parameters={parameters} — expected 4 (shifts, scales), 6 (affine) or 8 "
                "(homography)"
            )
        limits = {"shift": (shift, 1), "scale": (scale, 0.9), "rotation": (rotation, 90), "shear": (shear, 1),
                  "perspective": (perspective, 0.4)}  # fmt: skip
        for name, (value, high) in limits.items():
            within(f"inverse_net.transformations.{name}", value, 0, high, open_low=True)
        ranges = (shift, shift, scale, scale, math.radians(rotation), shear, perspective, perspective)
        self.parameters = parameters
        self.ranges = ranges[:parameters]

    def matrix(self, vector: Tensor) -> Tensor:
        """theta [N, 3, 3] = [[R(angle) [[1, shear], [0, 1]] diag(scales), shifts], [perspective, 1]]."""
        values = vector * vector.new_tensor(self.ranges)
        zero, one = torch.zeros_like(values[:, 0]), torch.ones_like(values[:, 0])
        named = dict(zip(PARAMETERS, (*values.unbind(1), *[zero] * (len(PARAMETERS) - self.parameters)), strict=True))
        sine, cosine, shear = named["rotation"].sin(), named["rotation"].cos(), named["shear"]
        x, y = one + named["scale_x"], one + named["scale_y"]
        rows = [
            torch.stack([cosine * x, (cosine * shear - sine) * y, named["shift_x"]], 1),
            torch.stack([sine * x, (sine * shear + cosine) * y, named["shift_y"]], 1),
            torch.stack([named["perspective_x"], named["perspective_y"], one], 1),
        ]
        return torch.stack(rows, 1)


class Estimator(nn.Module):
    """``forward(tiles [N, 2, t, t]) -> [N, P]``: the predicted boundaries in channel 0, the true ones in channel 1.

    Args:
        tile: t.
        transformations: what it estimates; None: shifts and scales within their default ranges.

    Raises:
        ConfigError: a tile that is too small.
    """

    def __init__(self, tile: int, transformations: Transformations | None = None) -> None:
        super().__init__()
        self.tile = int(within("inverse_net.tile", tile, 8))
        self.fixed_size = (self.tile, self.tile)
        """What shows the program that its input is of one size."""
        self.transformations = transformations or Transformations()

    def layers(self, inputs: int, hidden: Sequence[int]) -> nn.Sequential:
        """Linear layers with ReLU between them, down to the parameters."""
        widths = [inputs, *(int(within("inverse_net.hidden", width, 1)) for width in hidden)]
        found: list[nn.Module] = []
        for before, after in pairwise(widths):
            found += [nn.Linear(before, after), nn.ReLU()]
        return nn.Sequential(*found, nn.Linear(widths[-1], self.transformations.parameters))


class MLP(Estimator):
    """The released network: both tiles as one long vector, the prediction's pixels first.

    Its parameters are called as in the published file: ``fc.0``, ``fc.2``, ``fc.4``.
    """

    def __init__(
        self, tile: int = 224, hidden: Sequence[int] = (1000, 32), transformations: Transformations | None = None
    ) -> None:
        super().__init__(tile, transformations)
        self.fc = self.layers(2 * self.tile**2, hidden)

    def forward(self, tiles: Tensor) -> Tensor:
        found: Tensor = self.fc(tiles.flatten(1))
        return found


class Convolutional(Estimator):
    """Convolutions of stride 2 in front of a small MLP: the two tiles are compared where they lie.

    Args:
        widths: channels of the convolutions, the first of 5x5 pixels, the others of 3x3.
        hidden: widths of the MLP's inner layers.
    """

    def __init__(
        self,
        tile: int = 64,
        widths: Sequence[int] = (32, 32, 32),
        hidden: Sequence[int] = (128, 32),
        transformations: Transformations | None = None,
    ) -> None:
        super().__init__(tile, transformations)
        convolutions: list[nn.Module] = []
        side = self.tile
        for i, (before, after) in enumerate(pairwise((2, *widths))):
            within("inverse_net.widths", after, 1)
            kernel = 3 if i else 5
            convolutions += [nn.Conv2d(before, after, kernel, stride=2, padding=kernel // 2), nn.ReLU()]
            side = -(-side // 2)
        self.convolutions = nn.Sequential(*convolutions)
        self.fc = self.layers((widths[-1] if widths else 2) * side**2, hidden)

    def forward(self, tiles: Tensor) -> Tensor:
        found: Tensor = self.fc(self.convolutions(tiles).flatten(1))
        return found


@dataclass(frozen=True, kw_only=True)
class Estimate(Output):
    """``logits`` [N, P] is the estimated vector."""

    theta: Tensor | None = None
    """[N, 3, 3] its matrix."""
    truth: Tensor | None = field(default=None, metadata=FROM_LABELS)
    """[N, P] the true vector."""
    true_theta: Tensor | None = field(default=None, metadata=FROM_LABELS)
    """[N, 3, 3] its matrix."""


class InverseNet(Model):
    """``forward(tiles [N, 2, t, t] from 0 to 1, target [N, P] | None) -> Estimate``.

    Args:
        normalise: of images, which it never sees.
        inverse_net: the estimator.
    """

    inverse_net: Estimator

    def __init__(self, normalise: Normalise, inverse_net: Estimator) -> None:
        super().__init__(normalise, {"inverse_net": inverse_net}, {}, sorted(Estimate.branches()))

    @property
    def label_branches(self) -> frozenset[str]:
        return Estimate.label_branches()

    @property
    def tile(self) -> int:
        """Side of a tile."""
        return self.inverse_net.tile

    @property
    def transformations(self) -> Transformations:
        """What it estimates."""
        return self.inverse_net.transformations

    def forward(
        self,
        image: Tensor,
        target: Tensor | None = None,
        *,
        wanted: frozenset[str] = frozenset(),
        size: Size | None = None,
    ) -> Estimate:
        """The estimate.

        Raises:
            ConfigError: tiles of another size or number of channels.
        """
        expected = (2, self.tile, self.tile)
        if image.shape[1:] != expected:
            raise ConfigError(
                f"an inverse-transformation network for tiles of {self.tile}x{self.tile} got {list(image.shape[1:])} "
                f"(channels, height, width) — expected {list(expected)}: a predicted and a true boundary map; choose "
                "another network (loss.inverse.network.path), or train one with inverse_net.tile"
            )
        vector: Tensor = self.inverse_net(image.to(next(self.parameters()).dtype))
        if vector.dtype in (torch.bfloat16, torch.float16):
            vector = vector.float()
        true = None if target is None else self.transformations.matrix(target)
        return Estimate(logits=vector, theta=self.transformations.matrix(vector), truth=target, true_theta=true)
