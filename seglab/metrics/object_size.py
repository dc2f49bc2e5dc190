"""IoU of small, medium and large objects.

An object is a connected component of one class in the label (touching pixels, corners included): semantic labels tell
no two instances apart that touch. Its size is its share of the image's area. Per class and size, summed over the set:

    IoU = TP / (TP + FN + FP)

TP and FN are pixels of the label's objects of that size. A false positive has no object in the label: it counts for the
size of the component of the prediction that it lies in. So the counts of the sizes add up to those of IoU.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from seglab.checks import within
from seglab.errors import ConfigError
from seglab.metrics.base import Metric
from seglab.ops.components import component_areas
from seglab.ops.resize import resize_argmax
from seglab.types import IGNORE, Evaluated, Score

SIZES = ("small", "medium", "large")


class ObjectSizeIoU(Metric):
    """``mIoU_small``, ``mIoU_medium``, ``mIoU_large`` over the classes that have such objects, and each per class.

    Args:
        small: largest share of the image's area that is small.
        large: smallest share that is large.

    Raises:
        ConfigError: shares outside 0..1, or small not below large.
    """

    scores: ClassVar[tuple[Score, ...]] = tuple(
        Score(f"{name}_{size}", "max", "percent") for name in ("mIoU", "IoU") for size in SIZES
    )
    hit: Tensor
    labelled: Tensor
    false: Tensor

    def __init__(self, num_classes: int, small: float = 0.01, large: float = 0.1) -> None:
        super().__init__()
        within("metrics.object_size.small", small, 0, 1)
        within("metrics.object_size.large", large, 0, 1)
        if small >= large:
            raise ConfigError(f"metrics.object_size.small={small} — expected less than large={large}")
        self.num_classes = num_classes
        self.small, self.large = small, large
        for name in ("hit", "labelled", "false"):
            zeros = torch.zeros(len(SIZES), num_classes, dtype=torch.int64)
            self.add_state(name, zeros, dist_reduce_fx="sum")

    def update(self, seen: Evaluated) -> None:
        """Scores [B, K, h, w] of any size against labels [B, H, W]."""
        label = seen.label.to(seen.scores.device)
        void = label == IGNORE
        prediction = resize_argmax(seen.scores, label.shape[-2:]).masked_fill(void, IGNORE)
        for true, guess, inside in zip(label, prediction, ~void, strict=True):
            right = inside & (true == guess)
            size = self.size(true)
            self.hit += self.count(size, true, right)
            self.labelled += self.count(size, true, inside)
            self.false += self.count(self.size(guess), guess, inside & ~right)

    def size(self, ids: Tensor) -> Tensor:
        """[H, W] the index in ``SIZES`` of each pixel's object."""
        share = component_areas(ids).double() / ids.numel()
        return (share > self.small).long() + (share >= self.large)

    def count(self, size: Tensor, ids: Tensor, where: Tensor) -> Tensor:
        """[3, K] pixels of each size and class."""
        flat = size[where] * self.num_classes + ids[where]
        counts = torch.bincount(flat, minlength=len(SIZES) * self.num_classes)
        return counts.view(len(SIZES), self.num_classes).to(self.hit.device)

    def compute(self) -> dict[str, Any]:
        """NaN for what neither label nor prediction has."""
        iou = self.hit.cpu().double() / (self.labelled + self.false).cpu().double()
        means = {f"mIoU_{size}": values.nanmean().item() for size, values in zip(SIZES, iou, strict=True)}
        return means | {f"IoU_{size}": values.tolist() for size, values in zip(SIZES, iou, strict=True)}
