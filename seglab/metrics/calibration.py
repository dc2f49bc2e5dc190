"""Calibration of the predicted probabilities: negative log likelihood and expected calibration error.

Guo, Pleiss, Sun, Weinberger: "On Calibration of Modern Neural Networks", ICML 2017. Over the labelled pixels i of the
whole set, p_i = softmax(logits_i), confidence c_i = max p_i, y_i the label::

    NLL = - mean log p_i[y_i]
    ECE = sum_b n_b / n |accuracy_b - mean confidence_b|,  bin b holds c_i in (b / M, (b + 1) / M], M = 15

Logits are brought to the label's size as for mIoU.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from seglab.metrics.base import Metric
from seglab.ops.resize import bands
from seglab.types import IGNORE, Evaluated, Score


class Calibration(Metric):
    """NLL in nats and ECE over labelled pixels, with the reliability diagram's bins.

    Args:
        bins: number M of equal bins of the confidence.
    """

    scores: ClassVar[tuple[Score, ...]] = (Score("NLL", "min", "nats"), Score("ECE", "min", "percent"))
    count: Tensor
    correct: Tensor
    confidence: Tensor
    nll: Tensor

    def __init__(self, num_classes: int, bins: int = 15) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.bins = bins
        self.add_state("count", torch.zeros(bins, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("correct", torch.zeros(bins, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("confidence", torch.zeros(bins, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("nll", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, seen: Evaluated) -> None:
        """Logits (or log probabilities) [B, K, h, w] of any size against labels [B, H, W]."""
        logits, label = seen.scores, seen.label.to(seen.scores.device)
        size = (label.shape[-2], label.shape[-1])
        nll = [self.count_band(y, label[image, rows]) for image, rows, y in bands(logits, size)]
        self.nll += torch.stack(nll).sum().to(self.nll)

    def count_band(self, logits: Tensor, label: Tensor) -> Tensor:
        """Fill the bins from logits [r, K, W] and labels [r, W]; give the sum of - log p."""
        valid = label != IGNORE
        truth = label[valid]
        log_probability = logits.movedim(1, -1)[valid].log_softmax(1)
        top, prediction = log_probability.max(1)
        confidence = top.exp().double()
        index = (torch.ceil(confidence * self.bins).long() - 1).clamp(0, self.bins - 1)
        device = self.count.device
        self.count += torch.bincount(index, minlength=self.bins).to(device)
        self.correct += torch.bincount(index[prediction == truth], minlength=self.bins).to(device)
        self.confidence.index_add_(0, index.to(device), confidence.to(device))
        return -log_probability.gather(1, truth[:, None]).double().sum()

    def compute(self) -> dict[str, Any]:
        """``NLL``, ``ECE`` and per bin ``reliability`` (count, accuracy, confidence; NaN in an empty bin)."""
        count = self.count.double()
        accuracy, confidence = self.correct / count, self.confidence / count
        gap = (self.correct - self.confidence).abs().sum()
        return {
            "NLL": (self.nll / count.sum()).item(),
            "ECE": (gap / count.sum()).item(),
            "reliability": {
                "count": self.count.tolist(),
                "accuracy": accuracy.tolist(),
                "confidence": confidence.tolist(),
            },
        }
