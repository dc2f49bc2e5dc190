"""Sums and means over the pixels of each class, for all classes and images at once.

B images, K classes, C channels, h x w map, N = h w.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seglab.types import IGNORE


def one_hot(label: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """Membership [B, K, N] of the pixels of a label [B, h, w]; void pixels belong nowhere."""
    label = label.masked_fill(label == IGNORE, -1).flatten(1)
    return (label[:, None] == torch.arange(num_classes, device=label.device)[:, None]).to(dtype)


def areas(label: Tensor, num_classes: int) -> Tensor:
    """[B, K] int64 number of pixels of each class in labels [B, H, W]."""
    void = num_classes
    flat = label.masked_fill(label == IGNORE, void).flatten(1)
    counts = torch.zeros(len(label), num_classes + 1, dtype=torch.int64, device=label.device)
    return counts.scatter_add_(1, flat, torch.ones_like(flat))[:, :num_classes]


def weighted_sums(weights: Tensor, feature: Tensor) -> Tensor:
    """[B, K, C]: sums over the pixels of a feature map [B, C, h, w] with weights [B, K, N]."""
    return weights @ feature.flatten(2).transpose(1, 2)


def weighted_means(weights: Tensor, feature: Tensor, eps: float) -> Tensor:
    """[B, K, C]: means over the pixels of a feature map [B, C, h, w] with weights [B, K, N] >= 0."""
    return weighted_sums(weights, feature) / (weights.sum(-1, keepdim=True) + eps)


def class_means(members: Tensor, feature: Tensor, absent: Tensor, per_image: bool, eps: float) -> Tensor:
    """Mean of a feature map [B, C, h, w] over each class, per image [B, K, C] or over the batch [K, C].

    Membership is :func:`one_hot` of the labels; a class without a pixel gets its row of ``absent`` [K, C].
    """
    return means_of(weighted_sums(members, feature), members.sum(-1), absent, per_image, eps)


def means_of(sums: Tensor, counts: Tensor, absent: Tensor, per_image: bool, eps: float) -> Tensor:
    """:func:`class_means` of sums [B, K, C] over the pixels of each class and their numbers [B, K]."""
    if not per_image:
        sums, counts = sums.sum(0), counts.sum(0)
    counts = counts[..., None]
    return torch.where(counts > 0, sums / (counts + eps), absent)


def sum_by(index: Tensor, values: Tensor, size: int) -> Tensor:
    """[M, size]: for each of M rows of values [M, N], the sums of those that share an index [N] in 0..size-1."""
    rows = len(values)
    # One flat index: index_add is slow on a CPU along any other axis.
    flat = index + size * torch.arange(rows, device=index.device)[:, None]
    return values.new_zeros(rows * size).index_add(0, flat.flatten(), values.flatten()).unflatten(0, (rows, size))
