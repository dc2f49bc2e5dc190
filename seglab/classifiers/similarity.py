"""How alike a pixel's feature and a class's prototype are.

cosine: r = tau <x, p> / ((|x| + eps) (|p| + eps));   dot: r = <x, p>
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from seglab.checks import one_of, within
from seglab.ops.precision import widen


def unit(x: Tensor, eps: float) -> Tensor:
    """Vectors along the last axis, divided by (norm + eps): zero stays zero."""
    return x / (torch.linalg.vector_norm(x, dim=-1, keepdim=True) + eps)


class Similarity(nn.Module):
    """``forward(feature [B, C, h, w], prototypes [B, K, C] or [K, C]) -> logits [B, K, h, w]``, float32 or wider.

    Where the :meth:`lengths` of the feature are known, they are handed on.

    Args:
        kind: cosine, or dot (the plain product: neither tau nor a norm).
        tau: scale of the cosine.
        eps: added to the norms.
        learn_tau: tau is only where a learnt scale starts.

    Raises:
        ConfigError: unknown kind, tau not above 0, eps negative.
    """

    def __init__(self, kind: str = "cosine", tau: float = 15.0, eps: float = 1e-12, learn_tau: bool = False) -> None:
        super().__init__()
        self.kind = one_of("classifier.similarity", kind, ("cosine", "dot"))
        self.fixed_tau = within("classifier.tau", tau, 0, open_low=True)
        # Its logarithm, so that every step keeps it above 0 and is relative.
        self.log_tau = nn.Parameter(torch.tensor(self.fixed_tau).log()) if learn_tau else None
        self.eps = within("classifier.eps", eps, 0)

    @property
    def tau(self) -> float | Tensor:
        """The scale of the cosine; a tensor of no dimension where it is learnt."""
        return self.fixed_tau if self.log_tau is None else self.log_tau.exp()

    @tau.setter
    def tau(self, value: float) -> None:
        self.fixed_tau = within("classifier.tau", value, 0, open_low=True)
        if self.log_tau is not None:
            nn.init.constant_(self.log_tau, math.log(value))

    def lengths(self, feature: Tensor) -> Tensor | None:
        """[B, 1, h, w] what divides the logits of the pixels of a feature map; None of the plain product.

        For who compares one feature with several sets of prototypes.
        """
        if self.kind == "dot":
            return None
        # A norm along the channels is slow as one reduction on a CPU. Its gradient at 0 is 0, not that of a root.
        squares = widen(feature).square().sum(1, keepdim=True)
        return squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt() + self.eps

    def forward(self, feature: Tensor, prototypes: Tensor, lengths: Tensor | None = None) -> Tensor:
        x, p = widen(feature), widen(prototypes)
        if self.kind == "dot":
            return (p @ x.flatten(2)).unflatten(-1, x.shape[-2:])
        # The length of a pixel divides its logits, not its features: K numbers to keep instead of C.
        lengths = self.lengths(x) if lengths is None else lengths
        return (self.tau * unit(p, self.eps) @ x.flatten(2)).unflatten(-1, x.shape[-2:]) / lengths

    def extra_repr(self) -> str:
        return self.kind if self.kind == "dot" else f"{self.kind}, tau={float(self.tau):g}, eps={self.eps:g}"
