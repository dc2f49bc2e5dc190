"""Four strides out of a plain ViT's one, as BEiT's segmentation code does it (Bao et al., ICLR 2022, appendix).

The maps of four depths at stride s become, in order: two transposed convolutions (s/4), one (s/2), nothing (s), and a
max-pooling (2s).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from seglab.errors import ConfigError


class Pyramid(nn.Module):
    """``forward(four maps at stride s) -> maps at strides s/4, s/2, s, 2s``, channels unchanged.

    Raises:
        ConfigError: not four maps of one stride.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        stride = strides[0]
        if len(strides) != 4 or len(set(strides)) != 1:
            raise ConfigError(
                f"backbone.pyramid=true with maps at strides {tuple(strides)} — expected four maps of one stride (a "
                "plain ViT); set backbone.pyramid=false"
            )
        first, second, _, _ = channels
        self.strides = (stride // 4, stride // 2, stride, stride * 2)
        self.levels = nn.ModuleList(
            [
                nn.Sequential(
                    nn.ConvTranspose2d(first, first, 2, stride=2),
                    nn.BatchNorm2d(first),
                    nn.GELU(),
                    nn.ConvTranspose2d(first, first, 2, stride=2),
                ),
                nn.ConvTranspose2d(second, second, 2, stride=2),
                nn.Identity(),
                nn.MaxPool2d(2, ceil_mode=True),
            ]
        )

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(level(x) for level, x in zip(self.levels, maps, strict=True))
