"""Maps pulled along optical flow, and where a flow can be trusted.

A flow F [B, 2, H, W] holds (dx, dy) in pixels, from a frame t to a frame k: what is seen at (x, y) in t is seen at
(x + dx, y + dy) in k. A map P_k of frame k is pulled back to frame t by (Liu, Shen, Yu, Wang: "Efficient Semantic Video
Segmentation with Per-frame Inference", ECCV 2020)::

    P'_t(x, y) = P_k(x + dx, y + dy),    clamped to the image

Class ids are taken from the nearest pixel (bilinear interpolation of ids invents classes), logits are interpolated.
A pixel is occluded where going there and back does not end where it began (Sundaram, Brox, Keutzer: "Dense Point
Trajectories by GPU-Accelerated Large Displacement Optical Flow", ECCV 2010), with the flow F_b from k to t::

    |F + F_b(x + F)|² > 0.01 (|F|² + |F_b(x + F)|²) + 0.5

A NaN is a flow that nobody knows.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def targets(flow: Tensor) -> tuple[Tensor, Tensor]:
    """x and y [B, H, W] of the points that a flow leads to, beyond the image where it leads out; unknown flow is 0."""
    height, width = flow.shape[-2:]
    dx, dy = flow.nan_to_num(nan=0.0).unbind(1)
    x = torch.arange(width, device=flow.device, dtype=flow.dtype)
    y = torch.arange(height, device=flow.device, dtype=flow.dtype)[:, None]
    return x + dx, y + dy


def nearest(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Column and row [B, H, W] int64 of the pixels nearest to the points that a flow leads to, not clamped."""
    x, y = targets(flow)
    return (x + 0.5).floor().long(), (y + 0.5).floor().long()


def warp_labels(labels: Tensor, flow: Tensor) -> Tensor:
    """Class ids [B, H, W] of frame k as frame t sees them, by the nearest pixel."""
    height, width = labels.shape[-2:]
    column, row = nearest(flow)
    index = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    return labels.flatten(1).gather(1, index.flatten(1)).view_as(labels)


def warp(maps: Tensor, flow: Tensor) -> Tensor:
    """Maps [B, C, H, W] of frame k (logits, an image, a flow) as frame t sees them, interpolated."""
    height, width = maps.shape[-2:]
    x, y = targets(flow.to(maps.dtype))
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)


def known(flow: Tensor) -> Tensor:
    """[B, H, W] whether the flow of a pixel is known."""
    return ~flow.isnan().any(1)


def stays(flow: Tensor) -> Tensor:
    """[B, H, W] whether a pixel is still in the image where the flow leads it; unknown flow counts as 0."""
    height, width = flow.shape[-2:]
    column, row = nearest(flow)
    return (column >= 0) & (column < width) & (row >= 0) & (row < height)


def occluded(flow: Tensor, back: Tensor) -> Tensor:
    """[B, H, W] whether a pixel of frame t is hidden in frame k, by the check above.

    Args:
        flow: from t to k.
        back: from k to t.
    """
    returned = warp(back, flow)
    gap, length = (flow + returned).square().sum(1), (flow.square() + returned.square()).sum(1)
    return gap > 0.01 * length + 0.5


def resize_flow(flow: Tensor, height: int, width: int) -> Tensor:
    """The flow [B, 2, H, W] of frames of another size, nearest neighbour: in the pixels of that size."""
    if flow.shape[-2:] == (height, width):
        return flow
    scale = flow.new_tensor([width / flow.shape[-1], height / flow.shape[-2]])
    return F.interpolate(flow, (height, width), mode="nearest") * scale[:, None, None]
