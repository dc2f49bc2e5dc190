"""FFNet's encoders: plain residual networks of basic blocks, deep rather than wide.

Mehta et al., "Simple and Efficient Architectures for Semantic Segmentation", CVPR workshops 2022, arXiv 2206.08236.

    y = relu(bn(conv3x3(relu(bn(conv3x3_s(x))))) + shortcut(x))      a basic block of stride s
    shortcut(x) = x, or bn(conv1x1_s(x)) where channels or size change

A network is called ``ffnet<depth>[S|N|NS]_[d]<stem><up><seg>[_mobile][_pre_down]``:

| part of the name | means |
|---|---|
| depth | layers; 50 and 101 are of bottleneck blocks, all others of basic ones |
| S, N, NS | slim; three stages (the stem's output is the finest map); three stages and slim |
| d | the first stage has stride 2: maps of strides 8 to 64 |
| stem | A 7x7 convolution and pool; B two, C three 3x3 convolutions; each to stride 4 |
| up, seg | the two halves of the decoder (:mod:`seglab.decoders.ffnet`); seg X: image classification |
| mobile | nearest instead of bilinear upsampling in the decoder |
| pre_down | the image is blurred and halved first |

:data:`NAMES` has the 94 of the published registry.
"""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn
from torch.nn import functional as F

from seglab.backbones import weights as files
from seglab.errors import CheckpointError, ConfigError

log = logging.getLogger(__name__)

WIDE, BOTTLENECK, SLIM = (64, 128, 256, 512), (256, 512, 1024, 2048), (64, 128, 192, 320)
NARROW, NARROW_SLIM = (64, 96, 160, 320), (64, 64, 128, 256)

STEMS: dict[str, tuple[tuple[int, int, int, int], ...]] = {
    "A": ((1, 7, 64, 2),),
    "B": ((0, 3, 32, 2), (1, 3, 64, 2)),
    "C": ((0, 3, 64, 2), (1, 3, 64, 2), (2, 3, 64, 1)),
}
"""Convolutions of a stem: number in its name, kernel size, channels, stride. A max-pool of stride 2 follows in A."""

ENCODERS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]] = {
    "18": ("A", (2, 2, 2, 2), WIDE),
    "34": ("A", (3, 4, 6, 3), WIDE),
    "50": ("A", (3, 4, 6, 3), BOTTLENECK),
    "56": ("A", (4, 8, 12, 3), WIDE),
    "86": ("A", (8, 12, 16, 6), WIDE),
    "101": ("A", (3, 4, 23, 3), BOTTLENECK),
    "134": ("A", (8, 18, 28, 12), WIDE),
    "150": ("A", (16, 18, 28, 12), WIDE),
    "22S": ("B", (2, 3, 3, 2), SLIM),
    "30S": ("B", (3, 4, 4, 3), SLIM),
    "40S": ("B", (4, 5, 6, 4), SLIM),
    "54S": ("B", (5, 8, 8, 5), SLIM),
    "78S": ("B", (6, 12, 12, 8), SLIM),
    "86S": ("B", (8, 12, 16, 6), SLIM),
    "150S": ("B", (16, 18, 28, 12), SLIM),
    "46N": ("C", (6, 8, 8), NARROW),
    "74N": ("C", (8, 12, 16), NARROW),
    "122N": ("C", (16, 24, 20), NARROW),
    "46NS": ("C", (6, 8, 8), NARROW_SLIM),
    "74NS": ("C", (8, 12, 16), NARROW_SLIM),
    "122NS": ("C", (16, 24, 20), NARROW_SLIM),
}
"""Stem, blocks of each stage and channels of the four maps, by depth and family."""

SLIM_MOBILE, NARROW_MOBILE = "150S 86S 78S 54S 40S", "122NS 74NS 46NS"
PUBLISHED = {
    "AAA": "150 134 101 86 56 50 34",
    "ABB": "150 86 56 34",
    "dAAA": "150 134 101 86 56 50 34 18",
    "dAAC": "150 86 34 18",
    "AAX": "150 134 101 86 56 50 34 18",
    "BBB": "150S 86S",
    "dBBB": "150S 86S",
    "BBX": "150S 86S",
    "CBB": "122N 74N 46N",
    "CBX": "122N 74N 46N",
    "dBBB_mobile": "86S 78S 54S 40S",
    "BBB_mobile": SLIM_MOBILE,
    "BBB_mobile_pre_down": SLIM_MOBILE,
    "BCC_mobile": SLIM_MOBILE,
    "BCC_mobile_pre_down": SLIM_MOBILE,
    "BBX_mobile": SLIM_MOBILE,
    "CBB_mobile": NARROW_MOBILE,
    "CBB_mobile_pre_down": NARROW_MOBILE,
    "CCC_mobile": NARROW_MOBILE,
    "CCC_mobile_pre_down": NARROW_MOBILE,
    "CBX_mobile": NARROW_MOBILE,
    "AAA_train": "150",
    "BBB_train": "86S",
    "CBB_train": "122N",
    "dAAC_train": "150",
    "dBBB_train": "86S",
    "BCC_mobile_pre_down_train": "78S",
    "CBB_mobile_pre_down_train": "122NS",
}
"""What was published: the encoders that each head was put on. ``_train`` is the network of the name without it, to be
trained from an encoder's weights."""


@dataclass(frozen=True)
class Variant:
    """What a name stands for."""

    encoder: str
    """Key of :data:`ENCODERS`."""
    downsampled: bool = False
    """d: the first stage has stride 2."""
    pre_down: bool = False
    up: str | None = None
    """Up-head A, B or C; None where the name is an encoder's alone."""
    seg: str | None = None
    """Seg-head A, B or C, X of an image classifier."""
    mobile: bool = False

    @property
    def classifies(self) -> bool:
        """Whether it was published for image classification."""
        return self.seg == "X"


def _published() -> dict[str, Variant]:
    found = {}
    for heads, encoders in PUBLISHED.items():
        letters, *words = heads.split("_")
        up, seg = letters[-2], letters[-1]
        for encoder in encoders.split():
            found[f"ffnet{encoder}_{heads}"] = Variant(
                encoder, letters[0] == "d", "pre" in words, up, seg, mobile="mobile" in words
            )
    return found


def _encoders() -> dict[str, Variant]:
    return {
        f"ffnet{encoder}{'_d' * downsampled}{'_pre_down' * pre_down}": Variant(encoder, downsampled, pre_down)
        for encoder, (_, depths, _) in ENCODERS.items()
        for downsampled in ((False, True) if len(depths) == 4 else (False,))
        for pre_down in (False, True)
    }


NAMES = _published()
"""The 94 networks of the published registry, by name without ``segmentation_`` or ``classification_`` in front."""
KNOWN = {
    **_encoders(),
    **NAMES,
    **{f"{'classification' if kind.classifies else 'segmentation'}_{name}": kind for name, kind in NAMES.items()},
}
"""These, also by their whole names, and the encoders by themselves: ``ffnet78S``, ``ffnet78S_d``, …"""


def variant(name: str) -> Variant:
    """What a name of :data:`KNOWN` stands for.

    Raises:
        ConfigError: there is no such network; names the nearest.
    """
    if name not in KNOWN:
        close = difflib.get_close_matches(name, KNOWN, n=5, cutoff=0.5)
        near = f"the nearest are {', '.join(close)}" if close else "expected a name such as ffnet78S"
        raise ConfigError(f"there is no FFNet '{name}' — {near}; set backbone.name")
    return KNOWN[name]


def convolution(before: int, after: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Without bias, padded so that only the stride changes the size."""
    return nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)


def residual_block(
    before: int,
    after: int,
    stride: int = 1,
    bottleneck: bool = False,
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
) -> nn.Module:
    """A residual block [B, C, h, w] -> [B, C', ceil(h / stride), ceil(w / stride)], under ResNet's names of tensors.

    Args:
        bottleneck: 1x1, 3x3 and 1x1 convolutions with a quarter of the channels inside, instead of two 3x3 ones.
        norm: channels -> a normalisation layer.
    """
    kind: Any = Bottleneck if bottleneck else BasicBlock  # timm's types ask for a class as the norm; it only calls it
    same = stride == 1 and before == after
    shortcut = None if same else nn.Sequential(convolution(before, after, 1, stride), norm(after))
    made: nn.Module = kind(before, after // kind.expansion, stride, shortcut, norm_layer=norm)
    return made


class Smoothing(nn.Module):
    """Blur and halve an image [B, 3, H, W] -> [B, 3, (H - 1) // 2, (W - 3) // 2]: 1024x2048 becomes 511x1022.

    A 5x5 Gaussian of standard deviation 0.7 with stride 2 and without padding, but for one mirrored row at the top and
    one at the bottom, as in the published networks.
    """

    weight: Tensor

    def __init__(self, sigma: float = 0.7) -> None:
        super().__init__()
        near = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(4)]
        whole = near[0] + 2 * sum(near[1:])
        outer = near[2] + near[3]  # published is a pulse blurred within five pixels: the border mirrors the last weight
        line = torch.tensor([outer, near[1], near[0], near[1], outer], dtype=torch.float64) / whole
        self.register_buffer("weight", torch.outer(line, line).float().expand(3, 1, 5, 5).clone())

    def forward(self, image: Tensor) -> Tensor:
        padded = F.pad(image, (0, 0, 1, 1), mode="reflect")
        return F.conv2d(padded, self.weight.to(image.dtype), stride=2, groups=3)


class Encoder(nn.Module):
    """``forward(image [B, 3, H, W]) -> four maps``, [B, channels[i], ceil(H / strides[i]), ...], finest first.

    Args:
        stem: A, B or C.
        depths: blocks of each stage: of four stages, or of three, then the stem's output is the first map.
        channels: of the four maps.
        bottleneck: see :func:`residual_block`.
        downsampled: the first of four stages has stride 2. Three stages have stride 2 each.
        pre_down: :class:`Smoothing` in front: strides count from the image, sizes follow from the smaller one.
    """

    def __init__(
        self,
        stem: str,
        depths: Sequence[int],
        channels: Sequence[int],
        bottleneck: bool = False,
        downsampled: bool = False,
        pre_down: bool = False,
    ) -> None:
        super().__init__()
        self.smoothing = Smoothing() if pre_down else None
        self.stem = tuple(number for number, *_ in STEMS[stem])
        before = 3
        for number, kernel, width, stride in STEMS[stem]:
            self.add_module(f"conv{number}", convolution(before, width, kernel, stride))
            self.add_module(f"bn{number}", nn.BatchNorm2d(width))
            before = width
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == "A" else None
        self.stages = len(depths)
        strides = [4] if self.stages == 3 else []
        stride_of = (1 if self.stages == 4 and not downsampled else 2, *(2,) * (self.stages - 1))
        for i, (depth, width) in enumerate(zip(depths, channels[-self.stages :], strict=True)):
            blocks = [residual_block(before, width, stride_of[i], bottleneck)]
            blocks += [residual_block(width, width, 1, bottleneck) for _ in range(depth - 1)]
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
            strides.append(4 * math.prod(stride_of[: i + 1]))
            before = width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.channels = tuple(channels)
        self.strides = tuple(stride * (2 if pre_down else 1) for stride in strides)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = image if self.smoothing is None else self.smoothing(image)
        for number in self.stem:
            x = F.relu(getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(x)))
        if self.maxpool is not None:
            x = self.maxpool(x)
        maps = [x] if self.stages == 3 else []
        for i in range(self.stages):
            x = getattr(self, f"layer{i + 1}")(x)
            maps.append(x)
        return tuple(maps)

    def layers_below_head(self) -> dict[str, int]:
        """How many blocks every parameter lies below the head, by name; the last block is at 1, the stem deepest."""
        counts = [len(getattr(self, f"layer{i + 1}")) for i in range(self.stages)]
        found = {}
        for name, _ in self.named_parameters():
            stage, *rest = name.split(".")
            number = int(stage[5:]) if stage.startswith("layer") else 0
            position = sum(counts[: number - 1]) + int(rest[0]) + 1 if number else 0
            found[name] = sum(counts) + 1 - position
        return found


class FFNet(Encoder):
    """An encoder by its name, or by that of a published network (then with its ``d`` and ``pre_down``).

    Args:
        name: ``ffnet78S``, ``ffnet78S_d``, ``ffnet78S_pre_down``, or a published name such as ``ffnet78S_dBBB_mobile``.
        pretrained: start from timm's ImageNet weights (``hub``, or true), which exist for 18, 34, 50 and 101.
        weights: start from a local file: a published FFNet for classification or segmentation, or an encoder alone.

    With ``d``, the shortcut of the first block has no counterpart in the weights of the encoder without it, and starts
    at random.

    Raises:
        ConfigError: an unknown name; pretrained weights of a network that has none.
        CheckpointError: weights that cannot be had or do not fit.
    """

    def __init__(self, name: str = "ffnet78S", *, pretrained: bool | str = False, weights: str | None = None) -> None:
        kind = variant(name)
        stem, depths, channels = ENCODERS[kind.encoder]
        super().__init__(stem, depths, channels, channels == BOTTLENECK, kind.downsampled, kind.pre_down)
        self.name = name
        self.variant = kind
        if pretrained and weights:
            raise ConfigError(
                f"both pretrained={str(pretrained).lower()} and weights={weights} — expected one source: set "
                "backbone.pretrained=false"
            )
        if pretrained:
            if kind.encoder not in ("18", "34", "50", "101"):
                raise ConfigError(
                    f"backbone.pretrained={str(pretrained).lower()}: there are no ImageNet weights of {name} to be "
                    "fetched (of ffnet18, 34, 50 and 101 there are) — set backbone.pretrained=false, or "
                    "backbone.weights to a published file"
                )
            path, state = files.pretrained(f"resnet{kind.encoder}", pretrained)
            self.fill(state, str(path))
        elif weights:
            self.fill(files.read(weights), weights)

    def fill(self, state: dict[str, Tensor], path: str) -> None:
        """Load an encoder's tensors; those of heads are left out.

        Raises:
            CheckpointError: tensors missing or of another shape.
        """
        prefix = "backbone_model."
        inner = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        found, missing = files.match(self.state_dict(), inner or state)
        new = ("smoothing.", "layer1.0.downsample.") if self.variant.downsampled else ("smoothing.",)
        lacking = [key for key in missing if not key.startswith(new)]
        if lacking:
            raise CheckpointError(
                f"{path} does not fit backbone {self.name}: missing or of another shape are "
                f"{files.by_module(lacking)} — set backbone.name to the file's network, or backbone.weights=null"
            )
        self.load_state_dict(found, strict=False)
        log.info(
            "%s: %d tensors loaded%s", path, len(found), f"; new are {files.by_module(missing)}" if missing else ""
        )
