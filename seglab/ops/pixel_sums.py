"""Sums over the pixels of resized logits, with their gradients, in one pass.

A loss at the size of the labels is a function of a few such sums. The pass goes over bands of rows of the resized
logits y (:mod:`seglab.ops.bilinear`); in each it adds to the sums and carries the derivatives back to the size of the
logits. The backward pass only multiplies these maps: neither [B, K, H, W] logits nor a second resize is ever needed.
Sums of several losses that read the same logits share the pass.

=====================  =================================================  ==============================================
sum                    value                                              derivative by y at a pixel
=====================  =================================================  ==============================================
:class:`CrossEntropy`  sum_i w_i (log sum_k exp y_ik - y_it)              w_i (p_ik - [k = t]),  p = softmax(y)
:class:`Dice`          P_bk = sum_i s_ik,  O_bk = sum_i s_ik [t = k]      s (1 - s),  s (1 - s) [t = k],  s = sigmoid(y)
:class:`Masks`         F_bk = sum_i f(y_ik, [t = k]), any f               f'(y_ik, [t = k])
=====================  =================================================  ==============================================
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from seglab.ops.bilinear import Resized, Size
from seglab.ops.class_means import one_hot
from seglab.types import IGNORE

Add = Callable[[int, Tensor], None]
"""``add(number, derivative [r, K, W])`` to one of the gradient maps."""


class PixelSum(ABC):
    """What a pass adds up for one loss."""

    outputs: int
    """Number of sums, each with a gradient map of its own."""
    shape: ClassVar[str]
    """``scalar``, or ``masks`` for [B, K]."""

    @abstractmethod
    def band(self, image: int, rows: slice, y: Tensor, last: bool, add: Add | None) -> Sequence[Tensor]:
        """The sums over a band of logits y [r, K, W] of an image: scalars, or [K] each.

        Args:
            last: nobody reads ``y`` after this; it may be overwritten.
            add: takes the derivative of each sum; None where no gradient is wanted.
        """


class CrossEntropy(PixelSum):
    """One sum, of all images.

    Args:
        label: [B, H, W], anything where the weight is 0.
        weight: [B, H, W] of a pixel's ``-log p_t``.
        smooth: [B, H, W] of a pixel's ``sum_k c_k (-log p_k)``; None without label smoothing.
        factors: c [K]; None: 1.
    """

    outputs = 1
    shape = "scalar"

    def __init__(
        self, label: Tensor, weight: Tensor, smooth: Tensor | None = None, factors: Tensor | None = None
    ) -> None:
        self.label = label.masked_fill(weight == 0, 0)
        self.weight = weight
        self.smooth = smooth
        self.factors = factors

    def band(self, image: int, rows: slice, y: Tensor, last: bool, add: Add | None) -> Sequence[Tensor]:
        label, weight = self.label[image, rows][:, None], self.weight[image, rows][:, None]
        shifted = torch.sub(y, y.amax(1, keepdim=True), out=y if last else None)
        true = shifted.gather(1, label)
        plain = None if self.smooth is None else self.smoothed(shifted, self.smooth[image, rows][:, None])
        exponential = shifted.exp_()
        total = exponential.sum(1, keepdim=True)
        log = total.log()
        value = torch.where(weight == 0, 0, weight * (log - true)).sum()
        share = weight
        if plain is not None:
            value = value + (plain[0] * log - plain[1]).sum()
            share = weight + plain[0]
        if add is not None:
            derivative = exponential.mul_(share / total).scatter_add_(1, label, -weight)
            if plain is not None:
                derivative -= plain[2]
            add(0, derivative)
        return [value]

    def smoothed(self, shifted: Tensor, smooth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of ``sum_k c_k (-log p_k)``: the share of the logarithm, the weighted logits, and their derivative."""
        factors = (torch.ones_like(shifted[0, :, 0]) if self.factors is None else self.factors)[:, None]
        return smooth * factors.sum(), smooth * (shifted * factors).sum(1, keepdim=True), smooth * factors


class Dice(PixelSum):
    """Overlap and predicted area of sigmoid masks.

    Args:
        label: [B, H, W].
        ignore_void: leave void pixels out of the area.
    """

    outputs = 2
    shape = "masks"

    def __init__(self, label: Tensor, ignore_void: bool) -> None:
        self.valid = label != IGNORE
        self.label = label.masked_fill(~self.valid, 0)
        self.ignore_void = ignore_void

    def band(self, image: int, rows: slice, y: Tensor, last: bool, add: Add | None) -> Sequence[Tensor]:
        label, valid = self.label[image, rows][:, None], self.valid[image, rows][:, None].to(y.dtype)
        probability = torch.sigmoid(y, out=y if last else None)
        if self.ignore_void:
            probability *= valid
        true = probability.gather(1, label) * valid
        overlap = torch.zeros_like(probability[0, :, 0]).index_add_(0, label.flatten(), true.flatten())
        area = probability.sum(2).sum(0)
        if add is not None:
            # s (1 - s) of the true class alone, and of every class.
            slope = torch.zeros_like(probability).scatter_(1, label, true * (1 - true))
            add(0, slope)
            add(1, torch.addcmul(probability, probability, probability, value=-1, out=slope))
        return [overlap, area]


class Masks(PixelSum):
    """Sums of any functions of one logit and one binary mask.

    Args:
        functions: ``(y, g) -> values``, pixel by pixel and class by class, of logits and 0/1 masks [r, K, W].
        label: [B, H, W].
        ignore_void: leave void pixels out; otherwise they are outside of every mask.
    """

    shape = "masks"

    def __init__(
        self, functions: Sequence[Callable[[Tensor, Tensor], Tensor]], label: Tensor, ignore_void: bool
    ) -> None:
        self.outputs = len(functions)
        self.functions = functions
        self.label = label
        self.ignore_void = ignore_void

    def band(self, image: int, rows: slice, y: Tensor, last: bool, add: Add | None) -> Sequence[Tensor]:
        label = self.label[image, rows]
        members = one_hot(label[:, None], y.shape[1], y.dtype)  # [r, K, W]
        sums = []
        with torch.set_grad_enabled(add is not None):
            seen = y.detach().requires_grad_(add is not None)
            for number, function in enumerate(self.functions):
                values = function(seen, members)
                if self.ignore_void:
                    values = values.masked_fill((label == IGNORE)[:, None], 0)
                found = values.sum((0, 2))
                if add is not None:
                    add(number, torch.autograd.grad(found.sum(), seen)[0])
                sums.append(found.detach())
        return sums


def pixel_sums(
    logits: Tensor, size: Size, sums: Sequence[PixelSum], align_corners: bool = False
) -> list[tuple[Tensor, ...]]:
    """The sums of every :class:`PixelSum` over logits [B, K, h, w] (float32 or wider), resized to ``size``."""
    wanted = torch.is_grad_enabled() and logits.requires_grad
    flat = iter(OnePass.apply(logits, tuple(size), align_corners, tuple(sums), wanted))
    return [tuple(next(flat) for _ in range(each.outputs)) for each in sums]


class OnePass(torch.autograd.Function):
    """See the module."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, size: Size, align_corners: bool, sums: tuple[PixelSum, ...], wanted: bool
    ) -> tuple[Tensor, ...]:
        number = sum(each.outputs for each in sums)
        resized = Resized(logits, size, align_corners, number if wanted else 0)
        shapes = [logits.shape[:2] if each.shape == "masks" else () for each in sums for _ in range(each.outputs)]
        found = [logits.new_zeros(shape) for shape in shapes]
        for image, rows, y in resized.bands():
            first = 0
            for each in sums:
                add = None if not wanted else lambda k, gradient, first=first: resized.add(first + k, gradient)
                for k, value in enumerate(each.band(image, rows, y, each is sums[-1], add)):
                    total = found[first + k]
                    (total[image] if total.dim() else total).add_(value)
                first += each.outputs
        if wanted:
            ctx.save_for_backward(*(resized.gradient(k) for k in range(number)))
        return tuple(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        total: Tensor | None = None
        for factor, gradient in zip(upstream, ctx.saved_tensors, strict=True):
            part = gradient * (factor[:, :, None, None] if factor.dim() else factor)
            total = part if total is None else total.add_(part)
        return total, None, None, None, None
