"""Dice loss of sigmoid masks, one per image and class that is present in it, as SSA-Seg uses it.

    d = 1 - (2 sum p g + 1) / (sum p + sum g + 1);   loss = mean of d over the (image, class) pairs

The published code divides by the pairs of all processes, averaged; here each process divides by its own.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from seglab.losses.base import PixelTerm, Sums, Weight
from seglab.ops import pixel_sums
from seglab.ops.class_means import areas
from seglab.ops.pixel_sums import PixelSum


class Dice(PixelTerm):
    """Of the logits of one branch, at the size of the labels. A batch without a labelled pixel gives 0.

    Args:
        branch: the logits.
        align_corners: of the resize.
        ignore_void: leave void pixels out. The published code counts them as background.
    """

    def __init__(
        self, branch: str = "logits", weight: Weight = 1.0, align_corners: bool = False, ignore_void: bool = False
    ) -> None:
        super().__init__(branch, weight, align_corners)
        self.ignore_void = ignore_void

    def plan(self, logits: Tensor, label: Tensor) -> tuple[PixelSum, Callable[[Sums], Tensor]]:
        labelled = areas(label, logits.shape[1]).to(logits.dtype)

        def loss(sums: Sums) -> Tensor:
            overlap, predicted = sums
            dice = 1 - (2 * overlap + 1) / (predicted + labelled + 1)
            present = labelled > 0
            return (dice * present).sum() / present.sum().clamp(min=1)

        return pixel_sums.Dice(label, self.ignore_void), loss
