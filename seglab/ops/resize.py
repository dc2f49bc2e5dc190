"""Logits to the size of the labels and labels to the size of the logits.

[B, K, H, W] logits of a batch fill gigabytes (16 images of 512 x 512 and 150 classes: 2.5 GB in float32), and nothing
needs them at once: what is made of them is made in bands of rows (:mod:`seglab.ops.bilinear`). Losses are sums over
such bands (:mod:`seglab.ops.pixel_sums`).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from seglab.ops.bilinear import Resized, Size
from seglab.ops.precision import widen


def resize_logits(x: Tensor, size: Size, align_corners: bool = False) -> Tensor:
    """Bilinear resize of [B, K, h, w] to [B, K, H, W], in float32 or wider."""
    x = widen(x)
    if x.shape[-2:] == tuple(size):
        return x
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=align_corners)


def downsample_labels(label: Tensor, size: Size) -> Tensor:
    """Nearest label of [B, H, W] for each cell of an h x w map: pixel floor(i * H / h).

    This is the operator of the published codes, in float32 like theirs: where i * H / h is a whole number that float32
    misses, which takes unusual sizes, the pixel before is taken.
    """
    if label.shape[-2:] == tuple(size):
        return label
    return F.interpolate(label[:, None].float(), tuple(size), mode="nearest")[:, 0].to(label.dtype)


def bands(logits: Tensor, size: Size, align_corners: bool = False) -> Iterator[tuple[int, slice, Tensor]]:
    """Image, rows and values [r, K, W] of each band of [B, K, h, w], resized to H x W; without gradients.

    The values are float32 or wider, and the reader's to overwrite.
    """
    return Resized(widen(logits), size, align_corners).bands()


@torch.no_grad()
def resize_argmax(logits: Tensor, size: Size, align_corners: bool = False) -> Tensor:
    """Class [B, H, W] int64 with the largest resized logit, of several the first."""
    found = torch.empty(len(logits), *size, dtype=torch.int64, device=logits.device)
    for image, rows, y in bands(logits, size, align_corners):
        found[image, rows] = argmax(y)
    return found


def argmax(y: Tensor) -> Tensor:
    """[r, W] int64 index of the first largest of K values in [r, K, W], which are overwritten; K - 1 where one is NaN.

    Comparisons and products of whole rows: on a CPU several times faster than the reduction of the same name.
    """
    classes = y.shape[1]
    rank = torch.arange(classes, 0, -1, dtype=y.dtype, device=y.device)[:, None]
    return classes - y.eq_(y.amax(1, keepdim=True)).mul_(rank).amax(1).clamp_(min=1).long()


@torch.no_grad()
def add_resized(total: Tensor, logits: Tensor, align_corners: bool = False, softmax: bool = False) -> None:
    """Add logits [B, K, h, w], resized, or the softmax of each resized pixel, to ``total`` [B, K, H, W] in place."""
    for image, rows, y in bands(logits, (total.shape[-2], total.shape[-1]), align_corners):
        values = y.softmax(1) if softmax else y
        total[image, :, rows] += values.transpose(0, 1).to(total.device)
