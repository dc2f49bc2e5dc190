"""Boundary IoU.

Cheng, Girshick, Dollar, Berg, Kirillov: "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR
2021.

    Boundary IoU = |(G_d ∩ G) ∩ (P_d ∩ P)| / |(G_d ∩ G) ∪ (P_d ∩ P)|

G, P are the label's and the prediction's mask of a class; G_d its pixels within d of the contour, d = 2 % of the
image's diagonal (rounded, at least 1). As in the authors' code, distance is by d erosions with a 3 x 3 square, and the
image's own border is a contour.

The band needs no mask per class: a pixel lies in the band of its class exactly when the (2d + 1)-square around it
holds another id, so two running extrema of the id map find the bands of all classes at once. Void is an id of its own,
in the label and (by the label) in the prediction: a contour against void is a contour in both, and void pixels are not
counted. The sums run over the whole set, as for IoU; the paper, which scores instances, averages otherwise.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from seglab.metrics.base import Metric
from seglab.ops.resize import resize_argmax
from seglab.types import IGNORE, Evaluated, Score

OUTSIDE = -1


def band(ids: Tensor, distance: int) -> Tensor:
    """[B, H, W] ids -> bool: pixels with another id, or the image's border, in the square of that radius."""
    ids = ids.to(torch.int16)
    return highest(ids, distance, OUTSIDE) != -highest(-ids, distance, -OUTSIDE)


def highest(x: Tensor, distance: int, outside: int) -> Tensor:
    """[B, H, W] the largest value in the square of that radius, of an image that has ``outside`` around it."""
    # Side after side: the padding above and below would be most of an image of few rows.
    for axis, padding in ((2, (distance, distance)), (1, (0, 0, distance, distance))):
        x = running(F.pad(x, padding, value=outside), 2 * distance + 1, axis)
    return x


def running(x: Tensor, window: int, axis: int) -> Tensor:
    """The largest of each ``window`` neighbours along an axis, which gets that much shorter less one.

    The largest of 2 n neighbours is that of two of n; two that overlap make up a window of any other size. A pooling
    layer looks at each neighbour, which takes several times as long for windows of this size.
    """
    reached = 1
    while reached < window:
        step = min(reached, window - reached)
        places = x.shape[axis] - step
        x = torch.maximum(x.narrow(axis, 0, places), x.narrow(axis, step, places))
        reached += step
    return x


def radius(height: int, width: int, ratio: float) -> int:
    """Width of the band in pixels."""
    return max(1, round(ratio * (height**2 + width**2) ** 0.5))


class BoundaryIoU(Metric):
    """IoU of the bands along the contours, per class.

    Args:
        ratio: width of the band over the image's diagonal.
    """

    scores: ClassVar[tuple[Score, ...]] = (
        Score("mBoundaryIoU", "max", "percent"),
        Score("BoundaryIoU", "max", "percent"),
    )
    intersection: Tensor
    union: Tensor

    def __init__(self, num_classes: int, ratio: float = 0.02) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.ratio = ratio
        for name in ("intersection", "union"):
            self.add_state(name, torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, seen: Evaluated) -> None:
        """Scores [B, K, h, w] of any size against labels [B, H, W]."""
        logits, label = seen.scores, seen.label.to(seen.scores.device)
        void = label == IGNORE
        prediction = resize_argmax(logits, label.shape[-2:]).masked_fill(void, IGNORE)
        distance = radius(label.shape[-2], label.shape[-1], self.ratio)
        inside = ~void
        true, guess = band(label, distance) & inside, band(prediction, distance) & inside
        both = self.count(label[true & guess & (label == prediction)])
        self.intersection += both
        self.union += self.count(label[true]) + self.count(prediction[guess]) - both

    def count(self, ids: Tensor) -> Tensor:
        """Pixels per class."""
        return torch.bincount(ids, minlength=self.num_classes).to(self.union.device)

    def compute(self) -> dict[str, Any]:
        """``mBoundaryIoU`` over the classes with a contour, and ``BoundaryIoU`` per class (NaN without one)."""
        iou = self.intersection.cpu().double() / self.union.cpu().double()
        return {"mBoundaryIoU": iou.nanmean().item(), "BoundaryIoU": iou.tolist()}
