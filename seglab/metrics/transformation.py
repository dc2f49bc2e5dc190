"""How well an inverse-transformation network estimates, and whether it can serve as a loss (InverseForm).

R^2 of a parameter is 1 - (squared error) / (variance of the truth), over the warped pairs of the set: 1 is exact, 0 is
no better than always answering with the mean. As a loss term, only the length of the estimated vector counts: it has to
be small for a pair that is not warped, and to grow with a shift. A tile without any boundary tells nothing, and is left
out.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from seglab.checks import within
from seglab.metrics.base import Metric
from seglab.ops.transformations import PARAMETERS
from seglab.types import Evaluated, Score

SHIFTS = (0, 2, 4, 8)
"""Pixels by which tiles are moved whose estimates are measured; 0 are the pairs that are not warped."""


class TransformationFit(Metric):
    """R^2 of each parameter, lengths of estimates, and whether a network is accepted.

    It reads the branches ``truth`` [N, P] and ``group`` [N] of the output: -1 for warped pairs, else the place of a
    pair's shift in ``SHIFTS``.

    Args:
        shift: R^2 from which shifts are accepted.
        scale: R^2 from which scales are accepted.
        ratio: length of the estimate of pairs that are not warped, over that of warped ones, up to which the network
            is accepted.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"transformation"})
    scores: ClassVar[tuple[Score, ...]] = (
        Score("R2"),
        *(Score(f"R2_{name}") for name in PARAMETERS),
        Score("length_warped"),
        *(Score(f"length_{shift}px", "min" if shift == 0 else "max") for shift in SHIFTS),
        Score("length_ratio", "min"),
        Score("monotone"),
        Score("accepted"),
    )
    count: Tensor
    error: Tensor
    total: Tensor
    squares: Tensor
    lengths: Tensor
    pairs: Tensor

    def __init__(self, num_classes: int, shift: float = 0.8, scale: float = 0.6, ratio: float = 0.5) -> None:
        super().__init__()
        self.shift = within("shift", shift, 0, 1)
        self.scale = within("scale", scale, 0, 1)
        self.ratio = within("ratio", ratio, 0)
        for name, size in {
            "count": 1,
            "error": len(PARAMETERS),
            "total": len(PARAMETERS),
            "squares": len(PARAMETERS),
        }.items():
            self.add_state(name, torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("lengths", "pairs"):  # the last: warped ones
            self.add_state(name, torch.zeros(len(SHIFTS) + 1, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, seen: Evaluated) -> None:
        """Estimates [N, P] of tiles [N, 2, t, t]."""
        assert seen.output is not None
        truth, group = seen.output.read("truth"), seen.output.read("group")
        assert truth is not None, "the task shows its network the truth"
        assert group is not None, "the task says which pairs are which"
        telling = seen.batch.image[:, 1].flatten(1).amax(1) > 0
        estimate, truth, group = seen.scores[telling].double(), truth[telling].double(), group[telling]
        place = group.where(group >= 0, len(SHIFTS))
        self.lengths.index_add_(0, place, estimate.norm(dim=1))
        self.pairs.index_add_(0, place, torch.ones_like(place, dtype=torch.float64))
        error, true = (estimate - truth)[group < 0], truth[group < 0]
        used = slice(0, truth.shape[1])
        self.count += len(true)
        self.error[used] += error.square().sum(0)
        self.total[used] += true.sum(0)
        self.squares[used] += true.square().sum(0)

    def compute(self) -> dict[str, Any]:
        """See the class."""
        spread = self.squares - self.total.square() / self.count
        fits = (1 - self.error / spread)[self.squares > 0].tolist()
        *moved, warped = (self.lengths / self.pairs).tolist()
        ratio = moved[0] / warped
        monotone = all(before < after for before, after in pairwise(moved))
        accepted = monotone and ratio < self.ratio and min(fits[:2]) >= self.shift and min(fits[2:4]) >= self.scale
        return {
            "R2": sum(fits) / len(fits),
            **{f"R2_{name}": fit for name, fit in zip(PARAMETERS, fits, strict=False)},
            "length_warped": warped,
            **{f"length_{shift}px": length for shift, length in zip(SHIFTS, moved, strict=True)},
            "length_ratio": ratio,
            "monotone": float(monotone),
            "accepted": float(accepted),
        }
