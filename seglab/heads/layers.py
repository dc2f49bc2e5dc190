"""Heads on inner layers, for losses of their own: deep supervision, and HS3 (:mod:`seglab.losses.layers`)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from seglab.decoders.blocks import Norm, layer_classifier
from seglab.errors import ConfigError
from seglab.heads.base import Head
from seglab.types import FEATURE, Output


class LayerHeads(Head):
    """Logits [B, k, h, w] of each layer at its own stride, as the branch ``NAME.LAYER`` that a loss term reads.

    A layer is one of the backbone's maps (``backbone.0``, the finest, …), of the decoder's levels where it publishes
    such (``decoder.0``, …), or the decoded ``feature``. k is what the term wants of the branch.

    Args:
        kind: ``conv``, a 3x3 convolution with normalisation and ReLU before the classifier, or ``linear``, the 1x1
            classifier alone.
        width: channels of the 3x3 convolution.

    Raises:
        ConfigError: a layer that the network does not have, an unknown kind.
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        strides: Mapping[str, int],
        outputs: Mapping[str, int],
        kind: str = "conv",
        width: int = 256,
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__(channels, strides, outputs)
        self.layers = {branch.partition(".")[2]: wanted for branch, wanted in outputs.items()}
        there = [name for name, stride in strides.items() if stride > 0]
        for layer in self.layers:
            if layer not in there:
                raise ConfigError(
                    f"the layer {layer or '(none)'} is to be supervised, which this network does not have — expected "
                    f"some of {', '.join(there)}: set regularizer.layers=[…], or regularizer.plan to a plan of these"
                )
        self.reads = [layer for layer in self.layers if layer != FEATURE and not layer.startswith("backbone.")]
        self.classifiers = nn.ModuleDict(
            {
                layer.replace(".", "_"): layer_classifier(channels[layer], wanted, kind, width, norm)
                for layer, wanted in self.layers.items()
            }
        )

    def forward(self, features: Mapping[str, Tensor], output: Output) -> Mapping[str, Tensor]:
        return {layer: self.classifiers[layer.replace(".", "_")](features[layer]) for layer in self.layers}
