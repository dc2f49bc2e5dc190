"""Semantic encoding loss: which classes are somewhere in the image (EncNet, Zhang et al., CVPR 2018, section 3.1)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from seglab.losses.base import Term, Weight
from seglab.ops.class_means import areas
from seglab.ops.precision import full_precision, widen
from seglab.types import Batch, Output


class Presence(Term):
    """Mean over images and classes of the binary cross entropy of logits [B, K] with "some pixel has the class".

    Labels are taken at their own size, each image by itself. Void pixels are of no class: an image without any labelled
    pixel holds none, and counts.

    Args:
        branch: the logits.

    Raises:
        ConfigError: in use, a batch without labels.
    """

    def __init__(self, branch: str = "presence", weight: Weight = 0.2) -> None:
        super().__init__((branch,), weight)
        self.branch = branch

    def forward(self, output: Output, batch: Batch) -> Tensor:
        logits, label = self.read(output, self.branch), self.labels(batch)
        with full_precision(logits):
            logits = widen(logits)
            present = areas(label, logits.shape[1]) > 0
            return F.binary_cross_entropy_with_logits(logits, present.to(logits))
