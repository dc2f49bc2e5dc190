"""Per-image, per-class sums over pixels, for losses that see a segmentation as one binary mask per class."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from seglab.ops.class_means import one_hot
from seglab.ops.resize import map_rows
from seglab.types import IGNORE


def mask_sums(
    function: Callable[[Tensor, Tensor], tuple[Tensor, ...]],
    logits: Tensor,
    label: Tensor,
    align_corners: bool,
    ignore_void: bool,
) -> Tensor:
    """Sums over pixels [M, B, K] of the M maps that ``function`` makes of logits and 0/1 masks, all [B, K, N].

    Void pixels are left out with ``ignore_void``; otherwise they are background of every mask.
    """

    def sums(resized: Tensor, rows: slice) -> Tensor:
        part = label[:, rows]
        maps = function(resized.flatten(2), one_hot(part, resized.shape[1], resized.dtype))
        if ignore_void:
            void = (part == IGNORE).flatten(1)[:, None]
            maps = tuple(values.masked_fill(void, 0) for values in maps)
        return torch.stack([values.sum(-1) for values in maps])

    return torch.stack(map_rows(sums, logits, label.shape[-2:], align_corners)).sum(0)
