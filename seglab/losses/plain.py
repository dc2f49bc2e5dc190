"""Cross entropy as PyTorch offers it, to measure against: it holds the logits at the size of the labels."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from seglab.losses.base import Term, Weight
from seglab.types import IGNORE, Batch, Output


class PlainCrossEntropy(Term):
    """``F.cross_entropy(F.interpolate(logits))``, the mean over labelled pixels; NaN where there is none.

    :class:`seglab.losses.CrossEntropy` has the same values and gradients, and is what to train with.
    """

    def __init__(self, branch: str = "logits", weight: Weight = 1.0) -> None:
        super().__init__((branch,), weight)
        self.branch = branch

    def forward(self, output: Output, batch: Batch) -> Tensor:
        label = self.labels(batch)
        size = (label.shape[-2], label.shape[-1])
        resized = F.interpolate(self.read(output, self.branch), size, mode="bilinear", align_corners=False)
        return F.cross_entropy(resized, label, ignore_index=IGNORE)
