"""Auxiliary head: a small FCN with a plain classifier on an inner stage, there for the gradient it sends."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from seglab.decoders.blocks import Norm
from seglab.decoders.fcn import FCN
from seglab.errors import ConfigError
from seglab.heads.base import Head, backbone_maps
from seglab.types import Output


class FCNHead(Head):
    """Logits [B, K, h', w'] at the stride of the backbone's map ``stage``.

    Args:
        stage: which of the backbone's maps, counted as in a list.
        width: channels of the convolutions.
        dropout: probability with which a channel is left out before the classifier.

    Raises:
        ConfigError: loss terms that want several branches of it, or a stage that the backbone does not have.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        strides: Mapping[str, int],
        outputs: Mapping[str, int],
        stage: int = -2,
        width: int = 256,
        num_convs: int = 1,
        dropout: float = 0.1,
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__(channels, strides, outputs)
        if len(outputs) != 1:
            raise ConfigError(f"loss terms read {', '.join(outputs)} of a head that publishes one branch")
        self.maps = backbone_maps(channels)
        sizes = [channels[name] for name in self.maps], [strides[name] for name in self.maps]
        (wanted,) = outputs.values()
        self.decoder = FCN(*sizes, wanted, width, num_convs, concat_input=False, stage=stage, norm=norm)
        self.stride = self.decoder.stride
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(self.decoder.out_channels, wanted, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]

    def forward(self, features: Mapping[str, Tensor], output: Output) -> Tensor:
        maps = [features[name] for name in self.maps]
        feature = self.decoder(maps).feature
        assert feature is not None, "an FCN decodes to one map"
        return self.classifier(self.dropout(feature))
