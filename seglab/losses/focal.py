"""Focal loss (Lin et al., ICCV 2017, arXiv 1708.02002) of sigmoid masks, one per class.

With g = 1 inside and 0 outside of a class and q the probability of what is true there:
    f = alpha_g (1 - q)^gamma (-log q),   alpha_1 = alpha, alpha_0 = 1 - alpha
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from seglab.checks import one_of, within
from seglab.losses.base import PixelTerm, Sums, Weight
from seglab.ops import pixel_sums
from seglab.ops.class_means import areas
from seglab.ops.pixel_sums import PixelSum
from seglab.types import IGNORE


class Focal(PixelTerm):
    """Of the logits of one branch, at the size of the labels. A batch without a labelled pixel gives 0.

    Args:
        branch: the logits.
        align_corners: of the resize.
        gamma: how much easy pixels are discounted.
        alpha: weight of the inside of a class against 1 - alpha of its outside; None weighs both 1.
        classes: ``all`` sums over the classes and averages over pixels; ``present``, a mask loss, averages over the
            pixels of each image and over the (image, class) pairs that occur.
        ignore_void: leave void pixels out; otherwise they are outside of every class.

    Raises:
        ConfigError: an option out of range.
    """

    def __init__(
        self,
        branch: str = "logits",
        weight: Weight = 1.0,
        align_corners: bool = False,
        gamma: float = 2.0,
        alpha: float | None = 0.25,
        classes: str = "all",
        ignore_void: bool = True,
    ) -> None:
        super().__init__(branch, weight, align_corners)
        self.gamma = within("gamma", gamma, 0)
        self.alpha = None if alpha is None else within("alpha", alpha, 0, 1)
        self.classes = one_of("classes", classes, ("all", "present"))
        self.ignore_void = ignore_void

    def plan(self, logits: Tensor, label: Tensor) -> tuple[PixelSum, Callable[[Sums], Tensor]]:
        labelled = areas(label, logits.shape[1]).to(logits.dtype)
        valid = label != IGNORE
        pixels = valid.sum((1, 2)) if self.ignore_void else valid.any(2).any(1) * label[0].numel()

        def loss(sums: Sums) -> Tensor:
            (focal,) = sums
            if self.classes == "all":
                return (focal * (pixels > 0)[:, None]).sum() / pixels.sum().clamp(min=1)
            present = labelled > 0
            means = focal / pixels.clamp(min=1)[:, None]
            return (means * present).sum() / present.sum().clamp(min=1)

        return pixel_sums.Masks([self.focal], label, self.ignore_void), loss

    def focal(self, logits: Tensor, masks: Tensor) -> Tensor:
        """f per pixel and class, [r, K, W]."""
        inside = masks > 0
        margin = torch.where(inside, logits, -logits)
        # 1 - q as an exponential: a power of a saturated sigmoid has no gradient.
        loss = -F.logsigmoid(margin) * (self.gamma * F.logsigmoid(-margin)).exp()
        return loss if self.alpha is None else loss * torch.where(inside, self.alpha, 1 - self.alpha)
