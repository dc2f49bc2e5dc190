"""What decoders are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
