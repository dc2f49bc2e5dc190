"""Logits to the size of the labels and labels to the size of the logits.

[B, K, H, W] logits of a batch fill gigabytes (16 images of 512 x 512 and 150 classes: 2.5 GB in float32, several times
over in a backward pass), and nothing needs them at once: the functions here make them in bands of rows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from seglab.ops.precision import widen

Size = tuple[int, int] | torch.Size

BAND = 2**25
"""Elements of a [B, K, rows, W] band (128 MB in float32): large enough to fill a GPU, small enough to forget."""


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


def resize_argmax(logits: Tensor, size: Size, align_corners: bool = False) -> Tensor:
    """Class [B, H, W] int64 with the largest resized logit."""
    with torch.no_grad():
        return torch.cat(map_rows(lambda band, _: band.argmax(1), logits, size, align_corners), dim=1)


def map_rows(
    function: Callable[[Tensor, slice], Tensor], logits: Tensor, size: Size, align_corners: bool = False
) -> list[Tensor]:
    """``function(resized logits [B, K, r, W], rows)`` of each band of rows, for what can be computed pixel by pixel.

    Where one band does not hold them all, the backward pass makes each again instead of keeping it.
    """
    images, classes, (height, width) = *logits.shape[:2], size
    step = max(1, BAND // (images * classes * width))
    if step >= height:
        return [function(resize_logits(logits, size, align_corners), slice(0, height))]

    def resized(x: Tensor, rows: slice) -> Tensor:
        return function(_band(x, size, rows, align_corners), rows)

    bands = [slice(start, min(start + step, height)) for start in range(0, height, step)]
    if not (torch.is_grad_enabled() and logits.requires_grad):
        return [resized(logits, rows) for rows in bands]
    return [checkpoint(resized, logits, rows, use_reentrant=False, preserve_rng_state=False) for rows in bands]


def _band(x: Tensor, size: Size, rows: slice, align_corners: bool) -> Tensor:
    """Some rows of the resized logits: blend two source rows for each, then stretch the width."""
    x, height = widen(x), x.shape[-2]
    if height != size[0]:
        row = torch.arange(rows.start, rows.stop, device=x.device)
        if align_corners:
            position, unit = row * (height - 1), max(size[0] - 1, 1)
        else:
            position, unit = ((2 * row + 1) * height - size[0]).clamp(min=0), 2 * size[0]
        above = position // unit
        blend = ((position % unit).to(x.dtype) / unit)[:, None]
        below = (above + 1).clamp(max=height - 1)
        x = torch.lerp(x.index_select(2, above), x.index_select(2, below), blend)
    else:
        x = x[:, :, rows]
    return resize_logits(x, (x.shape[-2], size[1]), align_corners)
