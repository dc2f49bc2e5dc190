"""What decoders are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seglab.checks import one_of
from seglab.errors import ConfigError

Norm = Callable[[int], nn.Module]
"""Channels -> a normalisation layer: ``torch.nn.BatchNorm2d``, :func:`group_norm`, ``torch.nn.Identity``, ..."""


class GroupNorm(nn.GroupNorm):
    """Group normalisation that takes the channels first, as a ``norm`` option needs it."""

    def __init__(self, channels: int, groups: int = 32) -> None:
        super().__init__(groups, channels)


group_norm = GroupNorm
"""The name that configurations have for it."""


class ConvNormAct(nn.Sequential):
    """Convolution, without bias unless told otherwise, normalisation, ReLU; the size is divided by the stride."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        norm: Norm = nn.BatchNorm2d,
        dilation: int = 1,
        stride: int = 1,
        bias: bool = False,
    ) -> None:
        if out_channels < 1:
            raise ConfigError(
                f"a convolution of {out_channels} channels — expected 1 or more: set width under decoder or heads"
            )
        padding = kernel_size // 2 * dilation
        convolution = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, bias=bias)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        super().__init__(convolution, norm(out_channels), nn.ReLU(inplace=True))


def resize_to(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear, pixel areas aligned (align_corners False), to the size of another map."""
    if x.shape[-2:] == like.shape[-2:]:
        return x
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


class PyramidPooling(nn.Module):
    """Pyramid pooling (Zhao et al., CVPR 2017): ``[B, C, h, w] -> [B, width, h, w]``.

    Averages over grids of several sizes, each through a 1x1 convolution and enlarged, join the input in a 3x3 one.
    """

    def __init__(
        self, in_channels: int, width: int, bins: Sequence[int] = (1, 2, 3, 6), norm: Norm = nn.BatchNorm2d
    ) -> None:
        super().__init__()
        self.bins = tuple(bins)
        self.branches = nn.ModuleList([ConvNormAct(in_channels, width, 1, norm) for _ in bins])
        self.fuse = ConvNormAct(in_channels + len(bins) * width, width, 3, norm)

    def forward(self, x: Tensor) -> Tensor:
        self.check_batch(x)
        pooled = [resize_to(f(F.adaptive_avg_pool2d(x, n)), x) for n, f in zip(self.bins, self.branches, strict=True)]
        return self.fuse(torch.cat([x, *pooled], dim=1))

    def check_batch(self, x: Tensor) -> None:
        """Raises ConfigError: batch statistics of a single value."""
        if not self.training or x.shape[0] > 1:
            return
        for n, branch in zip(self.bins, self.branches, strict=True):
            if n == 1 and any(isinstance(m, nn.BatchNorm2d) and m.training for m in branch.children()):
                raise ConfigError(
                    "one image per device: pyramid pooling to 1x1 leaves batch normalisation one value per channel "
                    "— expected at least 2 images (data.batch_size=2) or a norm without batch statistics "
                    "(decoder.norm._target_=seglab.decoders.blocks.group_norm)"
                )


HEADS = ("conv", "linear")


def layer_classifier(in_channels: int, classes: int, kind: str, width: int, norm: Norm = nn.BatchNorm2d) -> nn.Module:
    """Logits [B, classes, h, w] of an inner layer [B, C, h, w].

    Args:
        kind: ``conv``, a 3x3 convolution of ``width`` channels with normalisation and ReLU before the 1x1 classifier,
            or ``linear``, the 1x1 classifier alone.

    Raises:
        ConfigError: an unknown kind.
    """
    convolved = one_of("kind", kind, HEADS) == "conv"
    classifier = nn.Conv2d(width if convolved else in_channels, classes, 1)
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)  # type: ignore[arg-type]
    return nn.Sequential(ConvNormAct(in_channels, width, 3, norm), classifier) if convolved else classifier


class ObjectContext(nn.Module):
    """Object-contextual representations: ``forward(x [B, C, h, w], regions [B, k, h, w]) -> [B, C, h, w]``.

    Yuan, Chen, Wang, "Object-Contextual Representations for Semantic Segmentation", ECCV 2020, arXiv 1909.11065,
    section 3.2. With x_i the feature of pixel i and the soft regions ``regions`` (logits of k objects):

        f_k  = sum over i of softmax over pixels (regions_k)_i x_i           object region
        w_ik = softmax over k of phi(x_i) . psi(f_k) / sqrt(d)             relation
        y_i  = rho(sum over k of w_ik delta(f_k))                         object context
        z_i  = g([y_i, x_i])                                               augmented feature

    phi and psi are two 1x1 convolutions each, delta, rho and g one, all with normalisation and ReLU; d is
    ``key_width``. The factor 1 / sqrt(d) is of the published code.

    Args:
        channels: C.
        key_width: d, channels of phi, psi and delta.
        dropout: probability with which a channel of z is left out (0.05 in the published code).
    """

    def __init__(self, channels: int, key_width: int, dropout: float = 0.0, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__()

        def twice() -> nn.Sequential:
            return nn.Sequential(ConvNormAct(channels, key_width, 1, norm), ConvNormAct(key_width, key_width, 1, norm))

        self.key_width = key_width
        self.query, self.key = twice(), twice()
        self.value = ConvNormAct(channels, key_width, 1, norm)
        self.out = ConvNormAct(key_width, channels, 1, norm)
        self.join = ConvNormAct(2 * channels, channels, 1, norm)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, x: Tensor, regions: Tensor) -> Tensor:
        size = x.shape[-2:]
        shares = regions.flatten(2).float().softmax(2).to(x.dtype)  # [B, k, N]
        objects = (x.flatten(2) @ shares.transpose(1, 2))[..., None]  # [B, C, k, 1]
        query, key, value = self.query(x).flatten(2), self.key(objects).flatten(2), self.value(objects).flatten(2)
        relation = (self.key_width**-0.5 * (query.transpose(1, 2) @ key)).softmax(2)  # [B, N, k]
        context = (value @ relation.transpose(1, 2)).unflatten(2, size)
        return self.dropout(self.join(torch.cat([self.out(context), x], 1)))
