"""Boundary F-score.

Csurka, Larlus, Perronnin: "What is a good evaluation measure for semantic segmentation?", BMVC 2013. With the contours
C_k of a class in the label and C'_k in the prediction, and a distance d in pixels::

    precision = share of C'_k with a pixel of C_k at most d away (Euclidean)
    recall    = share of C_k with a pixel of C'_k at most d away
    F = 2 precision recall / (precision + recall)

C_k are the pixels of the class beside which (left, right, above, below) another class lies. Void counts as no class, in
the label and by the label in the prediction, and the image's border is no contour. The shares are of the whole set, as
for IoU; the paper takes those of each image and averages.

No mask per class is needed: a map that holds the class at contours, moved by every offset up to d, is compared with the
other one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from seglab.metrics.base import Metric
from seglab.ops.resize import resize_argmax
from seglab.types import IGNORE, Evaluated, Score

DISTANCES = (1, 3, 5)
"""In pixels."""
NOTHING = -1
"""Where a map has no contour."""


def pairs(height: int, width: int, dy: int, dx: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Indices of the pixels that have another one (dy, dx) further in the image, and of those others."""
    here = (..., slice(max(-dy, 0), height - max(dy, 0)), slice(max(-dx, 0), width - max(dx, 0)))
    there = (..., slice(max(dy, 0), height + min(dy, 0)), slice(max(dx, 0), width + min(dx, 0)))
    return here, there


def contours(ids: Tensor) -> Tensor:
    """[B, H, W] the class at the contours of id maps [B, H, W], ``NOTHING`` elsewhere; ``IGNORE`` is no class."""
    height, width = ids.shape[-2:]
    found = torch.zeros_like(ids, dtype=torch.bool)
    for dy, dx in ((0, 1), (1, 0)):
        here, there = pairs(height, width, dy, dx)
        differ = (ids[here] != ids[there]) & (ids[here] != IGNORE) & (ids[there] != IGNORE)
        found[here] |= differ
        found[there] |= differ
    return ids.where(found, NOTHING)


def matches(contour: Tensor, other: Tensor) -> Iterator[Tensor]:
    """For each of ``DISTANCES``: pixels [B, H, W] of a contour map with the same class in another one that near."""
    height, width = contour.shape[-2:]
    reach = range(-DISTANCES[-1], DISTANCES[-1] + 1)
    offsets = sorted((y * y + x * x, y, x) for y in reach for x in reach if abs(y) < height and abs(x) < width)
    found = torch.zeros_like(contour, dtype=torch.bool)
    there_is = contour != NOTHING
    done = 0
    for distance in DISTANCES:
        while done < len(offsets) and offsets[done][0] <= distance**2:
            here, there = pairs(height, width, *offsets[done][1:])
            found[here] |= contour[here] == other[there]
            done += 1
        yield found & there_is


class BoundaryFScore(Metric):
    """F-score of the contours of each class, at 1, 3 and 5 pixels."""

    scores: ClassVar[tuple[Score, ...]] = tuple(
        Score(f"{name}_{distance}px", "max", "percent")
        for name in ("mBoundaryF", "BoundaryF")
        for distance in DISTANCES
    )
    predicted: Tensor
    true: Tensor
    predicted_near: Tensor
    true_near: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        for name in ("predicted", "true"):
            self.add_state(name, torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")
            near = torch.zeros(len(DISTANCES), num_classes, dtype=torch.int64)
            self.add_state(f"{name}_near", near, dist_reduce_fx="sum")

    def update(self, seen: Evaluated) -> None:
        """Scores [B, K, h, w] of any size against labels [B, H, W]."""
        label = seen.label.to(seen.scores.device)
        void = label == IGNORE
        guess = contours(resize_argmax(seen.scores, label.shape[-2:]).masked_fill(void, IGNORE))
        true = contours(label)
        for (contour, other), name in (((guess, true), "predicted"), ((true, guess), "true")):
            getattr(self, name).add_(self.count(contour[contour != NOTHING]))
            for total, near in zip(getattr(self, f"{name}_near"), matches(contour, other), strict=True):
                total += self.count(contour[near])

    def count(self, ids: Tensor) -> Tensor:
        """Pixels per class."""
        return torch.bincount(ids, minlength=self.num_classes).to(self.true.device)

    def compute(self) -> dict[str, Any]:
        """``mBoundaryF_Dpx`` over the classes with a contour, ``BoundaryF_Dpx`` of each class (NaN without one)."""
        precision = self.predicted_near.cpu().double() / self.predicted.cpu()
        recall = self.true_near.cpu().double() / self.true.cpu()
        score = 2 * precision * recall / (precision + recall)
        # A class with contours on one side alone, or of which none are near, was not found.
        score = score.nan_to_num(0.0).masked_fill((self.predicted + self.true == 0).cpu(), torch.nan)
        means = {f"mBoundaryF_{d}px": row.nanmean().item() for d, row in zip(DISTANCES, score, strict=True)}
        return means | {f"BoundaryF_{d}px": row.tolist() for d, row in zip(DISTANCES, score, strict=True)}
