"""Perceptual consistency as a regulariser: neighbouring frames are classified alike where they look alike.

Zhang, Borse, Cai, Wang, Bi, Jiang, Porikli: "Perceptual Consistency in Video Segmentation", WACV 2022, arXiv
2110.12385. The abstract says that the measure can regularise training; how is published nowhere, and what follows is
our own choice. With the labelled frame A and a near frame B of its clip, their probabilities p_A, p_B and features of a
frozen network::

    pc      loss = 1 - PC_soft(A, B)
    match   loss = mean_i -log sum_k p_A(k, i) p_B(k, j*(i)),   j* = argmax_j R_ij,   averaged over both directions

:mod:`seglab.ops.perceptual_consistency` has R and PC_soft. Neither optical flow nor labels are needed: void pixels of
the labelled frame count. Features are of the frames with the geometry that was drawn for the image and the colours as
stored; logits are resized to the features' size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seglab.backbones.extractor import Extractor
from seglab.checks import one_of, within
from seglab.losses.base import Weight
from seglab.losses.clips import ClipTerm
from seglab.losses.frozen import Frozen
from seglab.ops.perceptual_consistency import BLOCK, match_loss, soft_consistency
from seglab.ops.precision import full_precision
from seglab.ops.resize import resize_logits
from seglab.types import Batch, Output

FORMS = ("pc", "match")


class PerceptualConsistencyLoss(ClipTerm):
    """Of the logits of the labelled and of the near frame. In training only.

    Args:
        extractor: gives the frozen network whose features are compared, seglab.backbones.extractor.Extractor.
        form: ``pc`` or ``match``.
        branch: the logits [B, K, h, w]; those of the near frame are ``near.BRANCH``.
        block: rows of the correlation that exist at once.

    Raises:
        ConfigError: an option out of range; in use, a batch without clips.
    """

    def __init__(
        self,
        extractor: Extractor,
        form: str = "pc",
        branch: str = "logits",
        weight: Weight = 0.3,
        block: int = BLOCK,
    ) -> None:
        super().__init__(branch, weight)
        self.extractor = Frozen(extractor, type(self).__name__)
        self.form = one_of("form", form, FORMS)
        self.block = int(within("block", block, 1))

    def forward(self, output: Output, batch: Batch) -> Tensor:
        pair = self.pair(batch)
        with full_precision(output.logits):
            with torch.no_grad():
                image, near = self.extractor(pair.image), self.extractor(pair.near)
            size = (image.shape[-2], image.shape[-1])
            a, b = (resize_logits(self.read(output, branch), size) for branch in self.branches)
            if self.form == "match":
                return match_loss(image, near, a, b, self.block).mean()
            found = soft_consistency(image, near, a.softmax(1), b.softmax(1), block=self.block)
            return (1 - found.value).mean()
