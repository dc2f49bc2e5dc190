"""Distances between planar transformations as 3x3 matrices: Frobenius, and along the rotations (geodesic).

InverseForm (Borse et al., CVPR 2021) compares an estimated transformation theta' with the true theta. Its geodesic
distance follows AETv2 (Qi et al., arXiv 1911.07004), in place of the Riemannian logarithm, which has no closed form::

    M = theta^-1 theta',   M = U S V^T,   P = U diag(1, 1, det(U V^T)) V^T     (the nearest rotation)
    d = arccos((tr P - 1) / 2) + lambda tr(R^T R),   R = M - P
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

PARAMETERS = ("shift_x", "shift_y", "scale_x", "scale_y", "rotation", "shear", "perspective_x", "perspective_y")
"""Of a planar transformation, in the order of a vector of 4, 6 or 8 of them."""
NEAR_ONE = 1 - 1e-6
"""The derivative of arccos grows without bound towards 1 and -1: within this distance of them it is taken as 0."""
LEAST = 1e-6
"""The smallest sum of two singular values that is divided by."""


class NearestRotation(torch.autograd.Function):
    """P [N, 3, 3] of matrices M [N, 3, 3].

    The derivative is that of the polar decomposition, which divides by sums of singular values. That of the singular
    value decomposition divides by their differences, which are 0 for M = I, where losses have their minimum.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        u, s, vh = torch.linalg.svd(matrix)
        sign = torch.linalg.det(u @ vh).sign()
        u = torch.cat([u[..., :2], u[..., 2:] * sign[..., None, None]], -1)
        s = torch.cat([s[..., :2], s[..., 2:] * sign[..., None]], -1)
        ctx.save_for_backward(u, s, vh)
        return u @ vh

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        u, s, vh = ctx.saved_tensors
        inner = u.mT @ upstream @ vh.mT
        sums = (s[..., :, None] + s[..., None, :]).clamp(min=LEAST)
        return u @ ((inner - inner.mT) / sums) @ vh


def nearest_rotation(matrix: Tensor) -> Tensor:
    """The rotation P [N, 3, 3] with the smallest Frobenius distance from each matrix."""
    rotation: Tensor = NearestRotation.apply(matrix)
    return rotation


def angle_of(rotation: Tensor) -> Tensor:
    """Angle [N] in radians of rotations [N, 3, 3]; exact, with a derivative that stays bounded."""
    cosine = (rotation.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    exact = cosine.detach().clamp(-1, 1).acos()
    bounded = cosine.clamp(-NEAR_ONE, NEAR_ONE).acos()
    return exact + (bounded - bounded.detach())


def geodesic(estimate: Tensor, true: Tensor | None = None, factor: float = 0.1) -> Tensor:
    """Distance d [N] of matrices theta' [N, 3, 3] from theta (None: from the identity); ``factor`` is lambda."""
    moved = estimate if true is None else torch.linalg.solve(true, estimate)
    rotation = nearest_rotation(moved)
    return angle_of(rotation) + factor * (moved - rotation).square().sum((-2, -1))


def euclidean(values: Tensor) -> Tensor:
    """Length [N] of vectors [N, P]; where it is 0, so is its derivative."""
    squares = values.square().sum(-1)
    there = squares > 0
    return squares.where(there, 1).sqrt() * there
