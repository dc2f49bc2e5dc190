"""The ordinary pixel classifier: Z = W X + b, a 1x1 convolution behind dropout of whole channels.

The rows of W are one fixed prototype per class; :class:`CAC` and :class:`SSA` start from them and from Z.
"""

from __future__ import annotations

from torch import Tensor, nn

from seglab.checks import within
from seglab.classifiers.base import Classifier
from seglab.types import Output


class Linear(Classifier):
    """A 1x1 convolution, initialised N(0, 0.01), bias 0.

    Args:
        dropout: probability that a channel is zeroed in front of the convolution.
        bias: whether it has one.

    Raises:
        ConfigError: dropout outside 0..1.
    """

    bands = True

    def __init__(self, in_channels: int, num_classes: int, dropout: float = 0.1, bias: bool = True) -> None:
        super().__init__(in_channels, num_classes)
        self.dropout: nn.Module = nn.Dropout2d(within("classifier.dropout", dropout, 0, 1))
        self.conv = nn.Conv2d(in_channels, num_classes, kernel_size=1, bias=bias)
        nn.init.normal_(self.conv.weight, std=0.01)
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    @property
    def weight(self) -> Tensor:
        """The static prototypes, [K, C]."""
        return self.conv.weight[:, :, 0, 0]

    def static_logits(self, feature: Tensor) -> Tensor:
        """[B, K, h, w]. Dropout acts on these logits and on nothing else."""
        return self.conv(self.dropout(feature))

    def forward(self, feature: Tensor, target: Tensor | None = None) -> Output:
        return self.Output(logits=self.static_logits(feature))
