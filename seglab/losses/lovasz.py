"""Lovász-softmax loss (Berman et al., CVPR 2018, arXiv 1705.08790): the convex extension of 1 - IoU.

For a class with errors e_n = |g_n - p_n| in falling order, and J_n = 1 - IoU if the n worst pixels were wrong and the
others right: loss = sum_n e_n (J_n - J_{n-1}).
"""

from __future__ import annotations

from torch import Tensor

from seglab.losses.base import Term, Weight
from seglab.ops.class_means import one_hot
from seglab.ops.precision import full_precision
from seglab.ops.resize import resize_logits
from seglab.types import IGNORE, Batch, Output


class Lovasz(Term):
    """Mean over the classes that are present, at the size of the labels. A batch without a labelled pixel gives 0.

    It sorts every class's errors and so holds several [B, K, H, W] maps.

    Args:
        branch: the logits.
        align_corners: of the resize.
        per_image: an IoU per image, averaged over the images with a labelled pixel; otherwise one over the batch.
    """

    def __init__(
        self, branch: str = "logits", weight: Weight = 1.0, align_corners: bool = False, per_image: bool = False
    ) -> None:
        super().__init__((branch,), weight)
        self.branch = branch
        self.align_corners = align_corners
        self.per_image = per_image

    def forward(self, output: Output, batch: Batch) -> Tensor:
        logits, label = self.read(output, self.branch), self.labels(batch)
        with full_precision(logits):
            probability = resize_logits(logits, label.shape[-2:], self.align_corners).softmax(1).flatten(2)
            masks = one_hot(label, probability.shape[1], probability.dtype)
            # An error of -1 puts void pixels behind all others, where they change no IoU.
            errors = (masks - probability).abs().masked_fill((label == IGNORE).flatten(1)[:, None], -1)
            if not self.per_image:
                errors, masks = (x.transpose(0, 1).flatten(1)[None] for x in (errors, masks))
            errors, order = errors.sort(dim=-1, descending=True)
            wrong = masks.gather(-1, order)
            labelled = masks.sum(-1, keepdim=True)
            missed = wrong.cumsum(-1)
            jaccard = 1 - (labelled - missed) / (labelled + (1 - wrong).cumsum(-1)).clamp(min=1)
            steps = jaccard.diff(dim=-1, prepend=jaccard.new_zeros(*jaccard.shape[:-1], 1))
            loss = (errors.clamp(min=0) * steps).sum(-1)  # [B or 1, K]

            present = labelled[..., 0] > 0
            of_group = (loss * present).sum(1) / present.sum(1).clamp(min=1)
            return of_group.sum() / present.any(1).sum().clamp(min=1)
