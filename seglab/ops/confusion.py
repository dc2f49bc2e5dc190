"""Counting pairs of true and predicted classes, on the device and without waiting for it."""

from __future__ import annotations

import torch
from torch import Tensor


def add_confusion(matrix: Tensor, prediction: Tensor, label: Tensor) -> None:
    """Count pairs of class ids into a matrix [K, K] int64, rows are labels, in place.

    Args:
        prediction: ids 0..K-1, of any shape.
        label: of the same shape; what is no class, void too, is not counted.
    """
    classes = len(matrix)
    nowhere = classes * classes
    pairs = (label * classes).add_(prediction).masked_fill_((label < 0) | (label >= classes), nowhere).flatten()
    counts = torch.zeros(nowhere + 1, dtype=torch.int64, device=matrix.device)
    counts.scatter_add_(0, pairs, torch.ones_like(pairs))
    matrix += counts[:nowhere].view(classes, classes)
