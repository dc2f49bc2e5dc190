"""EncNet (Zhang et al., "Context Encoding for Semantic Segmentation", CVPR 2018).

    x = conv(m_n)                    with laterals: x = fuse([conv(m_n), lateral_i(m_i), ...])
    e = combine over k of ReLU(norm_K(encode(project(x))))
    feature = ReLU(x + x * sigmoid(W e + b)),   presence = W' e + b'

m_i: the backbone's maps, finest first; conv and fuse are 3x3 convolutions, lateral and project 1x1 ones, each with
normalisation and ReLU; encode is :mod:`seglab.ops.encoding`; norm_K has a statistic for each codeword; combine is the
mean over the codewords (published code) or the sum (paper). ``presence`` [B, classes] are logits of "some pixel of the
image has the class", for the semantic encoding loss (:class:`seglab.losses.Presence`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seglab.checks import one_of
from seglab.decoders.base import Decoded, Decoder
from seglab.decoders.blocks import ConvNormAct, Norm, resize_to
from seglab.errors import ConfigError
from seglab.ops.encoding import Encoding
from seglab.types import Size

PRESENCE = "presence"
"""The branch with a logit for each class, of the image as a whole."""


class Context(nn.Module):
    """What the image is about: ``forward([B, C, h, w]) -> [B, C]``, the encoded codewords made one vector.

    Args:
        channels: C.
        codewords: K.
        combine: ``mean`` or ``sum`` over the codewords.
        norm: K -> a normalisation layer of [B, K, C].

    Raises:
        ConfigError: fewer than one codeword, an unknown way to combine.
    """

    def __init__(self, channels: int, codewords: int, combine: str, norm: Norm = nn.BatchNorm1d) -> None:
        super().__init__()
        self.encoding = Encoding(channels, codewords)
        self.norm = norm(codewords)
        self.combine = one_of("decoder.combine", combine, ("mean", "sum"))

    def forward(self, x: Tensor) -> Tensor:
        encoded = self.norm(self.encoding(x)).relu()
        return encoded.mean(1) if self.combine == "mean" else encoded.sum(1)


class EncNet(Decoder):
    """Decoded feature at the stride of the backbone's last map; the branch ``presence`` beside it.

    Args:
        width: channels of the feature.
        codewords: K, 1 or more.
        context: ``encoding``, or ``mean``: global average pooling (what the paper calls 0 codewords).
        combine: ``mean`` or ``sum`` over the codewords.
        laterals: the two maps before the last enter, too.
        norm: of the convolutions.
        codeword_norm: number of codewords -> a normalisation layer of [B, K, C].

    Raises:
        ConfigError: an option out of range; laterals of a backbone with a single map.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        width: int = 512,
        codewords: int = 32,
        context: str = "encoding",
        combine: str = "mean",
        laterals: bool = False,
        norm: Norm = nn.BatchNorm2d,
        codeword_norm: Norm = nn.BatchNorm1d,
    ) -> None:
        super().__init__(channels, strides, num_classes)
        one_of("decoder.context", context, ("encoding", "mean"))
        if codewords < 1:
            raise ConfigError(
                f"decoder.codewords={codewords} — expected 1 or more; for global average pooling in place of the "
                "codebook set decoder.context=mean"
            )
        beside = self.channels[-3:-1] if laterals else ()
        if laterals and not beside:
            raise ConfigError("decoder.laterals=true with a backbone of one map — set decoder.laterals=false")
        self.conv = ConvNormAct(self.channels[-1], width, 3, norm)
        self.laterals = nn.ModuleList([ConvNormAct(c, width, 1, norm) for c in beside])
        self.fuse = ConvNormAct((1 + len(beside)) * width, width, 3, norm) if beside else None
        self.project = ConvNormAct(width, width, 1, norm)
        encoded = Context(width, codewords, combine, codeword_norm)  # made even if unused: its options are checked
        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.context: nn.Module = encoded if context == "encoding" else pooled
        self.attention = nn.Linear(width, width)
        self.presence = nn.Linear(width, num_classes)
        self.out_channels = width
        self.stride = self.strides[-1]
        self.branches = {PRESENCE: (num_classes, 0)}

    def forward(
        self, maps: Sequence[Tensor], wanted: frozenset[str] = frozenset(), size: Size | None = None
    ) -> Decoded:
        x = self.conv(maps[-1])
        if self.fuse is not None:
            sides = [resize_to(lateral(m), x) for lateral, m in zip(self.laterals, maps[-3:-1], strict=True)]
            x = self.fuse(torch.cat([x, *sides], 1))
        context = self.context(self.project(x))
        attention = self.attention(context).sigmoid()[..., None, None]
        extra = {PRESENCE: self.presence(context)} if PRESENCE in wanted else {}
        return Decoded(feature=(x + x * attention).relu(), extra=extra)
