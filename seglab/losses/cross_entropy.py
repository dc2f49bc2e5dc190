"""Cross entropy of resized logits, optionally over the hardest pixels only.

OHEM (Shrivastava et al., CVPR 2016, arXiv 1604.03540), as the field's segmentation codes have it: of the labelled
pixels of a batch, those whose true class has a probability of at most max(threshold, the n-th smallest one).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from seglab.checks import one_of, within
from seglab.errors import ConfigError
from seglab.losses.base import PixelTerm, Sums, Weight
from seglab.ops import pixel_sums as sums
from seglab.ops.class_means import areas
from seglab.ops.pixel_sums import PixelSum
from seglab.ops.resize import bands
from seglab.types import IGNORE


class CrossEntropy(PixelTerm):
    """Of the logits of one branch, at the size of the labels. A batch without a labelled pixel gives 0.

    Args:
        branch: the logits.
        align_corners: of the resize.
        average: over ``valid`` pixels (those that are labelled and kept), ``all`` (void ones count as 0), or ``image``:
            each image's mean, divided by the sum of its pixels' factors, summed over the images (InverseForm's).
        class_weight: one factor per class; averages but that by ``image`` divide by pixels, not by the sum of factors.
            ``histogram``: of each batch, :func:`histogram_factors`.
        label_smoothing: share of the target that is spread over all classes.
        ohem_threshold: probability of the true class up to which a pixel counts as hard; None keeps all pixels.
        ohem_min_kept: pixels of a batch that are kept at least.

    Raises:
        ConfigError: an option out of range; in use, a number of class weights that is not that of the classes.
    """

    class_weight: Tensor | None

    def __init__(
        self,
        branch: str = "logits",
        weight: Weight = 1.0,
        align_corners: bool = False,
        average: str = "valid",
        class_weight: Sequence[float] | Literal["histogram"] | None = None,
        label_smoothing: float = 0.0,
        ohem_threshold: float | None = None,
        ohem_min_kept: int = 100_000,
    ) -> None:
        super().__init__(branch, weight, align_corners)
        self.average = one_of("average", average, ("valid", "all", "image"))
        self.histogram = class_weight == "histogram"
        if isinstance(class_weight, str):
            one_of("class_weight", class_weight, ("histogram",))
            class_weight = None
        factors = None if class_weight is None else [within("class_weight", factor, 0) for factor in class_weight]
        tensor = None if factors is None else torch.tensor(factors)
        self.register_buffer("class_weight", tensor, persistent=False)
        self.label_smoothing = within("label_smoothing", label_smoothing, 0, 1)
        self.ohem_threshold = None if ohem_threshold is None else within("ohem_threshold", ohem_threshold, 0, 1)
        self.ohem_min_kept = int(within("ohem_min_kept", ohem_min_kept, 1))

    def plan(self, logits: Tensor, label: Tensor) -> tuple[PixelSum, Callable[[Sums], Tensor]]:
        classes, share = logits.shape[1], self.label_smoothing
        factors = None if self.class_weight is None else self.class_weight.to(logits)
        if self.histogram:
            factors = histogram_factors(label, classes).to(logits)
        if factors is not None and len(factors) != classes:
            raise ConfigError(
                f"class_weight has {len(factors)} factors, the network {classes} classes — expected one each"
            )
        kept = label != IGNORE
        if self.ohem_threshold is not None:
            kept = kept & self.hard(logits, label, self.ohem_threshold)
        weight = kept.to(logits.dtype)
        if self.average == "image":
            counted = weight if factors is None else weight * factors[label.masked_fill(~kept, 0)]
            total = counted.sum((1, 2), keepdim=True)
            weight = weight / total.where(total > 0, 1)
        smooth = weight * (share / classes) if share else None
        if share:
            weight = weight * (1 - share)
        if factors is not None:
            weight = weight * factors[label.masked_fill(label == IGNORE, 0)]
        count = {"valid": kept.sum().clamp(min=1), "all": kept.numel(), "image": 1}[self.average]
        return sums.CrossEntropy(label, weight, smooth, factors), lambda found: found[0] / count

    def hard(self, logits: Tensor, label: Tensor, threshold: float) -> Tensor:
        """The pixels [B, H, W] whose true class is improbable."""
        # Void pixels have a probability of 1: they come last.
        probability = probability_of(logits, label, self.align_corners)
        least = probability.flatten().sort().values[min(self.ohem_min_kept, probability.numel()) - 1]
        return probability <= least.clamp(min=threshold)


def histogram_factors(label: Tensor, num_classes: int) -> Tensor:
    """[K] factor of each class by its share h_k of the labelled pixels of labels [B, H, W]: 2 - h_k, 1 where absent.

    The class weights of InverseForm's published code (upper bound 1).
    """
    counts = areas(label, num_classes).sum(0)
    shares = counts / counts.sum().clamp(min=1)
    return torch.where(counts > 0, 2 - shares, 1)


@torch.no_grad()
def probability_of(logits: Tensor, label: Tensor, align_corners: bool) -> Tensor:
    """Probability [B, H, W] of each pixel's true class by logits [B, K, h, w], resized; 1 where void."""
    void = label == IGNORE
    true = label.masked_fill(void, 0)
    found = torch.empty(label.shape, dtype=logits.dtype, device=logits.device)
    for image, rows, y in bands(logits, (label.shape[-2], label.shape[-1]), align_corners):
        found[image, rows] = y.log_softmax(1).gather(1, true[image, rows][:, None])[:, 0].exp()
    return found.masked_fill_(void, 1)
