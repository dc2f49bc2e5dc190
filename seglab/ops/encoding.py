"""The encoding layer: pixels against a learnt codebook.

Zhang et al., "Context Encoding for Semantic Segmentation", CVPR 2018, section 3.1; the layer is that of "Deep TEN:
Texture Encoding Network", CVPR 2017.

    r_ik = x_i - d_k,   a_ik = softmax over k of s_k |r_ik|^2,   e_k = sum over i of a_ik r_ik

x_i: N pixels, C channels (``x``); d_k: K codewords (``codewords``); s_k: smoothing factors, which carry the sign
(``smoothing``, below 0 where near codewords are to count more).

Nothing of the size B x N x K x C is made: with |r_ik|^2 = |x_i|^2 - 2 x_i.d_k + |d_k|^2 the distances are a matrix
product, and with e_k = (sum_i a_ik x_i) - (sum_i a_ik) d_k so is the sum. Gradients are those of these expressions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seglab.errors import ConfigError
from seglab.ops.class_means import weighted_sums
from seglab.ops.precision import full_precision, widen


def assign(x: Tensor, codewords: Tensor, smoothing: Tensor) -> Tensor:
    """a: [B, K, N], for each pixel of x [B, C, N] a distribution over the codewords [K, C].

    Args:
        smoothing: [K].
    """
    squares = x.square().sum(1, keepdim=True) + codewords.square().sum(1)[:, None]
    distance = squares - 2 * torch.matmul(codewords, x)  # [B, K, N]
    return (smoothing[:, None] * distance).softmax(1)


def encode(x: Tensor, codewords: Tensor, smoothing: Tensor) -> Tensor:
    """e: [B, K, C] of a map [B, C, h, w], in the precision of the codewords; computed in float32 or wider.

    Args:
        codewords: [K, C].
        smoothing: [K].
    """
    with full_precision(x):
        kept = codewords.dtype
        pixels, codewords, smoothing = widen(x.flatten(2)), widen(codewords), widen(smoothing)
        weights = assign(pixels, codewords, smoothing)
        encoded = weighted_sums(weights, pixels) - weights.sum(2)[..., None] * codewords
        return encoded.to(kept)


class Encoding(nn.Module):
    """:func:`encode` with its parameters: ``forward(x [B, C, h, w]) -> [B, K, C]``.

    Codewords begin uniform within +-1/sqrt(K C), smoothing factors uniform in -1..0.

    Args:
        channels: C.
        codewords: K.
        noise: smoothing factors are not learnt: drawn anew from -1..0 at each forward pass in training, -1/2 in
            evaluation (the regulariser of the authors' CIFAR-10 networks).

    Raises:
        ConfigError: fewer than one codeword.
    """

    smoothing: Tensor | None

    def __init__(self, channels: int, codewords: int, noise: bool = False) -> None:
        super().__init__()
        if codewords < 1:
            raise ConfigError(f"codewords={codewords} — expected 1 or more: set codewords under decoder or backbone")
        bound = (codewords * channels) ** -0.5
        self.codewords = nn.Parameter(torch.empty(codewords, channels).uniform_(-bound, bound))
        self.register_parameter("smoothing", None if noise else nn.Parameter(torch.empty(codewords).uniform_(-1, 0)))

    def forward(self, x: Tensor) -> Tensor:
        return encode(x, self.codewords, self.factors())

    def factors(self) -> Tensor:
        """The smoothing factors [K] of this pass."""
        if self.smoothing is not None:
            return self.smoothing
        like = self.codewords[:, 0].detach()
        return torch.empty_like(like).uniform_(-1, 0) if self.training else torch.full_like(like, -0.5)
