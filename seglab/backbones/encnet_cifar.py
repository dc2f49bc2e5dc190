"""The shallow network for 32 x 32 images with an encoding in every block (EncNet on CIFAR-10).

Zhang et al., "Context Encoding for Semantic Segmentation", CVPR 2018, as the authors' code had it:

    block:     y = ReLU(shortcut(x) + enc(norm(conv(ReLU(norm(conv(x)))))))
    encoding:  enc(z) = z * sigmoid(W normalised(flat(encode(ReLU(norm(conv_1x1(z)))))) + b)

conv is 3x3; conv_1x1 reduces C channels to C/4; encode is :mod:`seglab.ops.encoding`; normalised has unit length; every
convolution has a bias. Unlike in the segmentation network there is no normalisation over the codewords, no mean of
them, and no residual in the product. Three stages of ``blocks`` blocks, of 16 w, 32 w and 64 w channels, stand behind a
3x3 convolution: with the classifier 2 + 6 ``blocks`` layers, 14 as published.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from seglab.checks import one_of
from seglab.errors import ConfigError
from seglab.ops.encoding import Encoding

WIDTHS = (16, 32, 64)
"""Channels of the stages, times ``widen``."""


class ChannelEncoding(nn.Module):
    """``forward([B, C, h, w]) -> [B, C, h, w]``: every channel times a number that the encoded map gives it."""

    def __init__(self, channels: int, codewords: int, noise: bool) -> None:
        super().__init__()
        reduced = channels // 4
        self.reduce = nn.Sequential(nn.Conv2d(channels, reduced, 1), nn.BatchNorm2d(reduced), nn.ReLU(inplace=True))
        self.encoding = Encoding(reduced, codewords, noise)
        self.gate = nn.Linear(codewords * reduced, channels)

    def forward(self, x: Tensor) -> Tensor:
        encoded = F.normalize(self.encoding(self.reduce(x)).flatten(1), eps=1e-8)
        return x * self.gate(encoded).sigmoid()[..., None, None]


class Block(nn.Module):
    """Two 3x3 convolutions, an encoding, and a shortcut with a 1x1 convolution where the shape changes."""

    def __init__(self, in_channels: int, channels: int, stride: int, encoding: nn.Module) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
        )
        self.encoding = encoding
        same = in_channels == channels and stride == 1
        self.shortcut: nn.Module = nn.Identity() if same else nn.Conv2d(in_channels, channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return (self.shortcut(x) + self.encoding(self.convs(x))).relu()


class EncNetCifar(nn.Module):
    """``forward(image [B, 3, H, W]) -> maps`` of the three stages, finest first, at strides 1, 2 and 4.

    Args:
        widen: factor on the channels 16, 32, 64.
        blocks: of a stage.
        encoding: ``learned``; ``noise``: smoothing factors drawn anew in every training pass (the released
            "encnetdrop"); ``none``: the plain network.
        codewords: K of every encoding.
        pretrained: there are no weights to start from; true is refused.

    Raises:
        ConfigError: an option out of range, pretrained weights.
    """

    def __init__(
        self,
        widen: int = 8,
        blocks: int = 2,
        encoding: str = "learned",
        codewords: int = 32,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        one_of("backbone.encoding", encoding, ("learned", "noise", "none"))
        for name, value in (("widen", widen), ("blocks", blocks), ("codewords", codewords)):
            if value < 1:
                raise ConfigError(f"backbone.{name}={value} — expected a whole number >= 1")
        if pretrained:
            raise ConfigError(
                "backbone.pretrained=true: no weights are known for this network — set backbone.pretrained=false"
            )
        self.channels = tuple(widen * width for width in WIDTHS)
        self.strides = (1, 2, 4)
        first = self.channels[0]
        self.stem = nn.Sequential(nn.Conv2d(3, first, 3, padding=1), nn.BatchNorm2d(first), nn.ReLU(inplace=True))
        self.stages = nn.ModuleList()
        before = first
        for channels, stride in zip(self.channels, (1, 2, 2), strict=True):
            stage = nn.Sequential()
            for index in range(blocks):
                made: nn.Module = nn.Identity()
                if encoding != "none":
                    made = ChannelEncoding(channels, codewords, noise=encoding == "noise")
                stage.append(Block(before, channels, stride if index == 0 else 1, made))
                before = channels
            self.stages.append(stage)
        self.last = nn.Sequential(nn.BatchNorm2d(before), nn.ReLU(inplace=True))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(image)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return (*maps[:-1], self.last(maps[-1]))
