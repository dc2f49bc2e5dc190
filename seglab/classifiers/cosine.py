"""Fixed prototypes compared by angle: R = tau cos(X, W). CAC and SSA without their adaptation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seglab.checks import within
from seglab.classifiers.base import Classifier
from seglab.classifiers.similarity import Similarity
from seglab.ops.precision import full_precision
from seglab.types import Output


class Cosine(Classifier):
    """One learnt direction per class.

    Args:
        tau: scale of the cosine.
        learn_tau: learn the scale; it starts at tau.
        dropout: probability that a channel is zeroed in front of the comparison.
        eps: added to the norms.

    Raises:
        ConfigError: an option out of range.
    """

    bands = True

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        tau: float = 15.0,
        learn_tau: bool = False,
        dropout: float = 0.1,
        eps: float = 1e-12,
    ) -> None:
        super().__init__(in_channels, num_classes)
        self.dropout: nn.Module = nn.Dropout2d(within("classifier.dropout", dropout, 0, 1))
        self.similarity = Similarity("cosine", tau, eps, learn_tau)
        # Rows of norm about 1: only their direction matters, and the norm sets how fast it turns.
        self.weight = nn.Parameter(torch.randn(num_classes, in_channels) / in_channels**0.5)

    def forward(self, feature: Tensor, target: Tensor | None = None) -> Output:
        with full_precision(feature):
            return self.Output(logits=self.similarity(self.dropout(feature), self.weight))
