"""Motion consistency as a regulariser: the prediction of a near frame, moved back along the flow, is that of the frame.

Liu, Shen, Yu, Wang: "Efficient Semantic Video Segmentation with Per-frame Inference" (ETC), ECCV 2020, arXiv
2002.11433. With the logits z of the labelled frame t and of a near frame k, resized to the images I, and the flow from
t to k::

    loss = mean over pixels and classes of (V z_t - V warp(z_k))²,    V = exp(-|sum_c (I_t - warp(I_k))_c|)

``warp`` samples along the flow (:mod:`seglab.ops.warp`), I is normalised with ImageNet's statistics, c are its three
channels. V is near 0 where the two frames do not show the same, as behind an object; where the flow is not known it is
0. The flow is fixed: it is given with the data, or computed by a frozen network.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seglab.backbones.statistics import IMAGENET
from seglab.errors import ConfigError
from seglab.flow import FlowProvider
from seglab.losses.base import Weight
from seglab.losses.clips import ClipTerm
from seglab.ops.precision import full_precision
from seglab.ops.resize import resize_logits
from seglab.ops.warp import known, warp
from seglab.types import Batch, Output


class MotionConsistencyLoss(ClipTerm):
    """Of the logits of the labelled and of the near frame, at the size of the images. In training only.

    Args:
        flow: computes the flow of two frames (:mod:`seglab.flow`); None: it is given with the data.
        branch: the logits [B, K, h, w]; those of the near frame are ``near.BRANCH``.

    Raises:
        ConfigError: an option out of range; in use, a batch without clips or without flow.
    """

    def __init__(self, flow: FlowProvider | None = None, branch: str = "logits", weight: Weight = 0.1) -> None:
        super().__init__(branch, weight)
        self.flow = flow

    def forward(self, output: Output, batch: Batch) -> Tensor:
        pair = self.pair(batch)
        flow = pair.flow if self.flow is None else self.flow(pair.image, pair.near)
        if flow is None:
            raise ConfigError(
                "MotionConsistencyLoss: the data give no optical flow between the frames of a clip — set "
                "loss.motion.flow._target_=seglab.flow.Raft and +loss.motion.flow.weights=FILE, or "
                "regularizer=perceptual_consistency, which needs none"
            )
        with full_precision(output.logits):
            visible = visibility(normalised(pair.image), normalised(pair.near), flow)[:, None]
            size = (pair.image.shape[-2], pair.image.shape[-1])
            here, there = (resize_logits(self.read(output, branch), size) for branch in self.branches)
            return (visible * (here - warp(there, flow))).square().mean()


def normalised(image: Tensor) -> Tensor:
    """[B, 3, H, W] float32 of an image [B, 3, H, W] uint8."""
    mean, std = (torch.tensor(IMAGENET[name], device=image.device).view(3, 1, 1) for name in ("mean", "std"))
    return (image.float() / 255 - mean) / std


def visibility(image: Tensor, near: Tensor, flow: Tensor) -> Tensor:
    """V [B, H, W] of normalised images [B, 3, H, W] and the flow [B, 2, H, W] from the one to the other."""
    return torch.exp(-(image - warp(near, flow)).sum(1).abs()) * known(flow)
