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
from seglab.ops.confusion import add_confusion
from seglab.ops.resize import argmax, bands
from seglab.types import IGNORE, Evaluated, Score

MEANS = ("mIoU", "aAcc", "mAcc", "fwIoU", "mDice")
PER_CLASS = ("IoU", "Acc", "Dice", "Precision", "Recall", "Fscore")
"""Names of what follows from a matrix, all of them fractions of which more is better."""


def confusion_matrix(prediction: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """[K, K] int64 counts, rows are labels, from two maps of class ids of the same shape.

    Raises:
        DataError: an id beyond the classes.
    """
    check_labels(largest(label), num_classes)
    matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=label.device)
    add_confusion(matrix, prediction, label)
    return matrix


def largest(label: Tensor) -> Tensor:
    """The largest id of a label that is not void; -1 where all is."""
    return label.masked_fill(label == IGNORE, -1).amax()


def check_labels(found: Tensor, num_classes: int) -> None:
    """Refuse labels of which :func:`largest` is ``found``.

    Raises:
        DataError: it is beyond the classes.
    """
    if int(found) >= num_classes:
        raise DataError(
            f"label id {int(found)} in an evaluated label — expected 0..{num_classes - 1} or {IGNORE}; "
            "data.check=full names the file"
        )


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
    largest: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_state("matrix", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        # Labels are checked at the end: to look at each batch's would be to wait for it.
        self.add_state("largest", torch.tensor(-1), dist_reduce_fx="max")

    def update(self, seen: Evaluated) -> None:
        """Logits [B, K, h, w] of any size against labels [B, H, W]: resized to the label, then argmax."""
        # Huge images are predicted on the CPU (evaluation.accumulate) while the label is on the GPU.
        label = seen.label.to(seen.scores.device)
        matrix = torch.zeros_like(self.matrix, device=label.device)
        for image, rows, y in bands(seen.scores, (label.shape[-2], label.shape[-1])):
            add_confusion(matrix, argmax(y), label[image, rows])
        self.matrix += matrix.to(self.matrix.device)
        self.largest = torch.maximum(self.largest, largest(label).to(self.largest.device))

    def compute(self) -> dict[str, Any]:
        """See :func:`summarise`.

        Raises:
            DataError: a label was beyond the classes.
        """
        check_labels(self.largest, self.num_classes)
        return summarise(self.matrix)
