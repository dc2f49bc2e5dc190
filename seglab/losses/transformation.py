"""What the inverse-transformation network learns by (InverseForm, Borse et al., CVPR 2021, section 3.2)."""

from __future__ import annotations

from torch import Tensor

from seglab.checks import one_of
from seglab.losses.base import Term, Weight
from seglab.ops.precision import full_precision, widen
from seglab.ops.transformations import geodesic
from seglab.types import Batch, Output


class TransformationError(Term):
    """Mean over the pairs of the error of the estimated transformation.

    Args:
        distance: ``euclidean``: the mean square over the normalised parameters; ``geodesic``: the distance of the
            matrices (:mod:`seglab.ops.transformations`), made for the homographies of 8 parameters.
    """

    def __init__(self, weight: Weight = 1.0, distance: str = "euclidean") -> None:
        geodesic_ = one_of("distance", distance, ("euclidean", "geodesic")) == "geodesic"
        super().__init__(("theta", "true_theta") if geodesic_ else ("logits", "truth"), weight)
        self.distance = distance

    def forward(self, output: Output, batch: Batch) -> Tensor:
        estimate, true = (self.read(output, branch) for branch in self.branches)
        with full_precision(estimate):
            estimate, true = widen(estimate), widen(true)
            if self.distance == "geodesic":
                return geodesic(estimate, true).mean()
            return (estimate - true).square().mean()
