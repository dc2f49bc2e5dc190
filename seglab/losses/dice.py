"""Dice loss of sigmoid masks, one per image and class that is present in it, as SSA-Seg uses it.

    d = 1 - (2 sum p g + 1) / (sum p + sum g + 1);   loss = mean of d over the (image, class) pairs

The published code divides by the pairs of all processes, averaged; here each process divides by its own.
"""

from __future__ import annotations

from torch import Tensor

from seglab.losses.base import Term, Weight
from seglab.losses.masks import mask_sums
from seglab.ops.precision import full_precision
from seglab.types import Batch, Output


class Dice(Term):
    """Of the logits of one branch, at the size of the labels. A batch without a labelled pixel gives 0.

    Args:
        branch: the logits.
        align_corners: of the resize.
        ignore_void: leave void pixels out. The published code counts them as background.
    """

    def __init__(
        self, branch: str = "logits", weight: Weight = 1.0, align_corners: bool = False, ignore_void: bool = False
    ) -> None:
        super().__init__((branch,), weight)
        self.branch = branch
        self.align_corners = align_corners
        self.ignore_void = ignore_void

    def forward(self, output: Output, batch: Batch) -> Tensor:
        logits, label = self.read(output, self.branch), self.labels(batch)
        with full_precision(logits):
            overlap, predicted, labelled = mask_sums(
                lambda z, g: ((p := z.sigmoid()) * g, p, g), logits, label, self.align_corners, self.ignore_void
            )
            dice = 1 - (2 * overlap + 1) / (predicted + labelled + 1)
            present = labelled > 0
            return (dice * present).sum() / present.sum().clamp(min=1)
