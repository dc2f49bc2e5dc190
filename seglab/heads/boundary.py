"""Boundary head of InverseForm (Borse et al., CVPR 2021): logits of "this pixel lies at a boundary of classes"."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from seglab.checks import one_of, within
from seglab.decoders.blocks import Norm
from seglab.errors import ConfigError
from seglab.heads.base import Head, backbone_maps
from seglab.ops.boundaries import resized
from seglab.types import FEATURE, Output


class BoundaryHead(Head):
    """Logits [B, 1, h, w] at the size of the finest map that it reads.

    The published main head is one 1x1 convolution on the concatenation of the backbone's maps, brought to the size of
    the finest; the published auxiliary head has two with a hidden layer between them. A convolution of 1x1 pixels and a
    bilinear resize can be exchanged, so each map is convolved at its own size and the results are resized and added:
    the same values from a fraction of the memory.

    Args:
        source: ``backbone`` (all of its maps), or ``decoder`` (the decoded feature, what enters the classifier).
        hidden: channels of the hidden layer (convolution, normalisation, ReLU); 0: none.
        norm: of the hidden layer.

    Raises:
        ConfigError: an option out of range; loss terms that want several branches of it.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        strides: Mapping[str, int],
        outputs: Mapping[str, int],
        source: str = "backbone",
        hidden: int = 0,
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__(channels, strides, outputs)
        if len(outputs) != 1:
            raise ConfigError(f"loss terms read {', '.join(outputs)} of a head that publishes one branch")
        (wanted,) = outputs.values()
        one_of("heads.boundary.source", source, ("backbone", "decoder"))
        within("heads.boundary.hidden", hidden, 0)
        self.names = backbone_maps(channels) if source == "backbone" else [FEATURE]
        self.stride = strides[self.names[0]]
        width = hidden or wanted
        # One bias: that of the first.
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels[name], width, 1, bias=i == 0) for i, name in enumerate(self.names)
        )
        self.classifier = (
            nn.Sequential(norm(hidden), nn.ReLU(), nn.Conv2d(hidden, wanted, 1)) if hidden else nn.Identity()
        )

    def forward(self, features: Mapping[str, Tensor], output: Output) -> Tensor:
        maps = [features[name] for name in self.names]
        size = (maps[0].shape[-2], maps[0].shape[-1])
        parts = [resized(conv(x), size) for conv, x in zip(self.convolutions, maps, strict=True)]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        logits: Tensor = self.classifier(total)
        return logits
