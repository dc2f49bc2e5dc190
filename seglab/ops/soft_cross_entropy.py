"""Cross entropy to a soft target, and its gradient in the same pass: no second [B, K, h, w] map beside the gradient's.

With logits r, logits u of who is mimicked, one-hot o and q = softmax(u), at every pixel

    t = s q + (1 - s) o;   t <- t (1 - eps) + (1 - t) eps / (K - 1)
    c = - sum_k t_k log softmax(r)_k,   dc/dr = (sum_k t_k) softmax(r) - t
    e = - sum_k x_k log(x_k + 1e-12),   x one of q, softmax(r), s q + (1 - s) o

A few thousand numbers at a time, which stay in the core's cache, become c, e and the gradient; the backward pass
multiplies the gradient by one number for each pixel.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

IN_CACHE = 150_000
"""Numbers of a band of pixels on a CPU: some hundred KiB, a part of a core's second cache."""

Entropy = Literal["teacher", "student", "target", "none"]


def soft_cross_entropy(
    student: Tensor, teacher: Tensor, true: Tensor, share: float, eps: float, entropy: Entropy
) -> tuple[Tensor, Tensor]:
    """c with a gradient to the student, and e without one, both [B, h, w].

    Args:
        student: r, [B, K, h, w].
        teacher: u, [B, K, h, w]; no gradient goes there.
        true: classes of the pixels, [B, h, w], each in 0..K-1.
        share: s.
        eps: of the second smoothing.
        entropy: what e is of; ``none``: e is 1.
    """
    c, e = _SoftCrossEntropy.apply(student, teacher.detach(), true, share, eps, entropy)
    return c, e


def entropy_of(logits: Tensor) -> Tensor:
    """- sum_k x_k log(x_k + 1e-12) of x = softmax(logits [B, K, h, w]), [B, h, w]."""
    x = logits.softmax(1)
    return -x.mul((x + 1e-12).log_()).sum(1)


class _SoftCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, true: Tensor, share: float, eps: float, entropy: Entropy
    ) -> tuple[Tensor, Tensor]:
        images, classes = student.shape[:2]
        r, u, y = student.flatten(2), teacher.flatten(2), true.flatten(1)
        pixels = r.shape[2]
        cross_entropy, weight = r.new_empty(true.shape), r.new_ones(true.shape)
        c, e = cross_entropy.flatten(1), weight.flatten(1)
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(r) if wanted else None
        spread = eps / max(classes - 1, 1)
        kept = 1 - eps - spread
        width = pixels if r.is_cuda else max(1, IN_CACHE // classes)
        for image in range(images) if not r.is_cuda else [slice(None)]:
            for begin in range(0, pixels, width):
                at = (image, ..., slice(begin, begin + width))
                log_p, log_q = r[at].log_softmax(-2), u[at].log_softmax(-2)
                q, index = log_q.exp(), y[at].unsqueeze(-2)
                t = q.mul(share).scatter_add_(-2, index, torch.full_like(index, 1 - share, dtype=q.dtype))
                if entropy != "none":
                    x = log_p.exp() if entropy == "student" else t if entropy == "target" else q
                    e[at] = -x.mul((x + 1e-12).log_()).sum(-2)
                if eps:
                    t = t.mul_(kept).add_(spread)
                c[at] = -(t * log_p).sum(-2)
                if gradient is not None:
                    torch.sub(log_p.exp_().mul_(kept + classes * spread), t, out=gradient[at])
        if gradient is not None:
            ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(weight)
        return cross_entropy, weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        found = (gradient * upstream.flatten(1)[:, None]).unflatten(2, upstream.shape[1:])
        return found, None, None, None, None, None
