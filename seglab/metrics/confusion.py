"""The confusion matrix and every number that follows from it.

M[t, p] counts pixels of class t predicted as p, over the whole set; void pixels are nowhere in it. With the diagonal
TP = M[k, k], the row sum T (labelled k) and the column sum P (predicted as k), per class::

    IoU = TP / (T + P - TP)    Acc = Recall = TP / T    Precision = TP / P
    Dice = 2 TP / (T + P)      Fscore = 2 Precision Recall / (Precision + Recall)

A ratio 0 / 0 is NaN and left out of the mean: a class neither labelled nor predicted does not count, one that is only
predicted has IoU and Dice 0 (and no Recall, hence no Fscore). Numbers are fractions, 0 to 1.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from seglab.errors import DataError
from seglab.metrics.base import Metric
from seglab.ops.resize import resize_argmax
from seglab.types import IGNORE, Evaluated, Score

MEANS = ("mIoU", "aAcc", "mAcc", "fwIoU", "mDice")
PER_CLASS = ("IoU", "Acc", "Dice", "Precision", "Recall", "Fscore")
"""Names of what follows from a matrix, all of them fractions of which more is better."""


def confusion_matrix(prediction: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """[K, K] int64 counts, rows are labels, from two maps of class ids of the same shape.

    Raises:
        DataError: an id beyond the classes.
    """
    valid = label != IGNORE
    pairs = label[valid] * num_classes + prediction[valid]
    counts = torch.bincount(pairs, minlength=num_classes**2)
    if counts.numel() > num_classes**2:
        raise DataError(
            f"label id {int(label[valid].max())} in an evaluated label — expected 0..{num_classes - 1} or {IGNORE}; "
            "data.check=full names the file"
        )
    return counts.view(num_classes, num_classes)


def summarise(matrix: Tensor) -> dict[str, Any]:
    """All metrics of a [K, K] matrix: floats, per-class lists with NaN where undefined, and the matrix itself."""
    counts = matrix.to("cpu", torch.float64)
    true, labelled, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    iou = true / (labelled + predicted - true)
    recall, precision = true / labelled, true / predicted
    dice = 2 * true / (labelled + predicted)
    per_class = {
        "IoU": iou,
        "Acc": recall,
        "Dice": dice,
        "Precision": precision,
        "Recall": recall,
        "Fscore": 2 * precision * recall / (precision + recall),
    }
    means = {
        "mIoU": iou.nanmean(),
        "aAcc": true.sum() / labelled.sum(),
        "mAcc": recall.nanmean(),
        "fwIoU": (labelled * iou).nansum() / labelled.sum(),
        "mDice": dice.nanmean(),
    }
    return {
        **{name: value.item() for name, value in means.items()},
        "classes": int((~iou.isnan()).sum()),
        **{name: values.tolist() for name, values in per_class.items()},
        "matrix": matrix.cpu(),
    }


class ConfusionMatrix(Metric):
    """Whole-set segmentation metrics: :func:`summarise` of one int64 matrix."""

    scores: ClassVar[tuple[Score, ...]] = tuple(Score(name, "max", "percent") for name in (*MEANS, *PER_CLASS))
    matrix: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_state("matrix", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, seen: Evaluated) -> None:
        """Logits [B, K, h, w] of any size against labels [B, H, W]: resized to the label, then argmax."""
        label = seen.label
        prediction = resize_argmax(seen.scores, label.shape[-2:])
        # Huge images are predicted on the CPU (evaluation.accumulate) while the label is on the GPU.
        counts = confusion_matrix(prediction, label.to(prediction.device), self.num_classes)
        self.matrix += counts.to(self.matrix.device)

    def compute(self) -> dict[str, Any]:
        """See :func:`summarise`."""
        return summarise(self.matrix)
