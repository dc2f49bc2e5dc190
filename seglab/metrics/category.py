"""How often the class of an image is right."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from seglab.metrics.base import Metric
from seglab.metrics.confusion import check_labels, largest
from seglab.ops.confusion import add_confusion
from seglab.types import Evaluated, Score


class CategoryError(Metric):
    """``top1_error`` and ``top5_error``, fractions of the images whose class is not the most probable one, or not among
    the five most probable; per class ``Acc``, NaN where none has it; the confusion matrix.

    Args:
        num_classes: K.
    """

    scores: ClassVar[tuple[Score, ...]] = (
        Score("top1_error", "min", "percent"),
        Score("top5_error", "min", "percent"),
        Score("mAcc", "max", "percent"),
        Score("Acc", "max", "percent"),
    )
    needs: ClassVar[frozenset[str]] = frozenset({"category"})
    matrix: Tensor
    largest: Tensor
    beyond_five: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_state("matrix", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("largest", torch.tensor(-1), dist_reduce_fx="max")
        self.add_state("beyond_five", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, seen: Evaluated) -> None:
        """Scores [B, K] against categories [B]."""
        scores, category = seen.scores, seen.category.to(seen.scores.device)
        matrix = torch.zeros_like(self.matrix, device=category.device)
        add_confusion(matrix, scores.argmax(1), category)
        self.matrix += matrix.to(self.matrix.device)
        self.largest = torch.maximum(self.largest, largest(category).to(self.largest.device))
        best = scores.topk(min(5, self.num_classes), dim=1).indices
        self.beyond_five += (best != category[:, None]).all(1).sum().to(self.beyond_five.device)

    def compute(self) -> dict[str, Any]:
        check_labels(self.largest, self.num_classes)
        counts = self.matrix.to("cpu", torch.float64)
        total, right = counts.sum(), counts.diagonal()
        recall = right / counts.sum(1)
        return {
            "top1_error": (1 - right.sum() / total).item(),
            "top5_error": (self.beyond_five.cpu() / total).item(),
            "mAcc": recall.nanmean().item(),
            "Acc": recall.tolist(),
            "matrix": self.matrix.cpu(),
        }
