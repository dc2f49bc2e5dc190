"""Cross entropy of the class of a whole image."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from seglab.checks import within
from seglab.errors import ConfigError
from seglab.losses.base import Term, Weight
from seglab.ops.precision import full_precision
from seglab.types import Batch, Output


class CategoryCrossEntropy(Term):
    """Mean over the images of -log softmax(logits [B, K])[category].

    Args:
        branch: the logits.
        label_smoothing: share of the target that is spread over all classes.

    Raises:
        ConfigError: an option out of range; in use, a batch whose images have no class.
    """

    def __init__(self, branch: str = "logits", weight: Weight = 1.0, label_smoothing: float = 0.0) -> None:
        super().__init__((branch,), weight)
        self.branch = branch
        self.label_smoothing = within("label_smoothing", label_smoothing, 0, 1)

    def forward(self, output: Output, batch: Batch) -> Tensor:
        logits = self.read(output, self.branch)
        if batch.category is None:
            raise ConfigError(
                f"{type(self).__name__} got a batch whose images have no class — expected data that gives a category, "
                "e.g. data=cifar10"
            )
        with full_precision(logits):
            return F.cross_entropy(logits.float(), batch.category, label_smoothing=self.label_smoothing)
