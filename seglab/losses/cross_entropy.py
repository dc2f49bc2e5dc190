"""Cross entropy of resized logits, optionally over the hardest pixels only.

OHEM (Shrivastava et al., CVPR 2016, arXiv 1604.03540), as the field's segmentation codes have it: of the labelled
pixels of a batch, those whose true class has a probability of at most max(threshold, the n-th smallest one).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from seglab.checks import one_of, within
from seglab.errors import ConfigError
from seglab.losses.base import Term, Weight
from seglab.ops.precision import full_precision
from seglab.ops.resize import map_rows
from seglab.types import IGNORE, Batch, Output


class CrossEntropy(Term):
    """Of the logits of one branch, at the size of the labels. A batch without a labelled pixel gives 0.

    Args:
        branch: the logits.
        align_corners: of the resize.
        average: over ``valid`` pixels (those that are labelled and kept), or ``all`` (void ones count as 0).
        class_weight: one factor per class; averages divide by pixels, not by the sum of factors.
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
        class_weight: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        ohem_threshold: float | None = None,
        ohem_min_kept: int = 100_000,
    ) -> None:
        super().__init__((branch,), weight)
        self.branch = branch
        self.align_corners = align_corners
        self.average = one_of("average", average, ("valid", "all"))
        factors = None if class_weight is None else [within("class_weight", factor, 0) for factor in class_weight]
        tensor = None if factors is None else torch.tensor(factors)
        self.register_buffer("class_weight", tensor, persistent=False)
        self.label_smoothing = within("label_smoothing", label_smoothing, 0, 1)
        self.ohem_threshold = None if ohem_threshold is None else within("ohem_threshold", ohem_threshold, 0, 1)
        self.ohem_min_kept = int(within("ohem_min_kept", ohem_min_kept, 1))

    def forward(self, output: Output, batch: Batch) -> Tensor:
        logits, label = self.read(output, self.branch), self.labels(batch)
        if self.class_weight is not None and len(self.class_weight) != logits.shape[1]:
            raise ConfigError(
                f"class_weight has {len(self.class_weight)} factors, the network {logits.shape[1]} classes — "
                "expected one each"
            )

        def cross_entropy(resized: Tensor, rows: slice) -> Tensor:
            factors = None if self.class_weight is None else self.class_weight.to(resized.dtype)
            return F.cross_entropy(
                resized,
                label[:, rows],
                factors,
                ignore_index=IGNORE,
                reduction="none",
                label_smoothing=self.label_smoothing,
            )

        with full_precision(logits):
            loss = torch.cat(map_rows(cross_entropy, logits, label.shape[-2:], self.align_corners), dim=1)
            kept = label != IGNORE
            if self.ohem_threshold is not None:
                kept = kept & self.hard(logits, label, self.ohem_threshold)
                loss = loss * kept
            count = kept.sum().clamp(min=1) if self.average == "valid" else kept.numel()
            return loss.sum() / count

    @torch.no_grad()
    def hard(self, logits: Tensor, label: Tensor, threshold: float) -> Tensor:
        """The pixels [B, H, W] whose true class is improbable."""

        def plain(resized: Tensor, rows: slice) -> Tensor:
            return F.cross_entropy(resized, label[:, rows], ignore_index=IGNORE, reduction="none")

        # Void pixels have a loss of 0 there and so a probability of 1: they come last.
        probability = torch.cat(map_rows(plain, logits, label.shape[-2:], self.align_corners), dim=1).neg().exp()
        least = probability.flatten().sort().values[min(self.ohem_min_kept, probability.numel()) - 1]
        return probability <= least.clamp(min=threshold)
