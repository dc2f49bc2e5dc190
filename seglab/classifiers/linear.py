"""The ordinary pixel classifier: Z = W X + b, a 1x1 convolution behind dropout of whole channels.

The rows of W are one fixed prototype per class; :class:`CAC` and :class:`SSA` start from them and from Z.
"""

from __future__ import annotations

from torch import Tensor, nn

from seglab.checks import within
from seglab.classifiers.base import Classifier
from seglab.errors import ConfigError
from seglab.types import Output


class Linear(Classifier):
    """A 1x1 convolution, initialised N(0, 0.01), bias 0.

    Args:
        dropout: probability that a channel is zeroed in front of the convolution.
        bias: whether it has one.
        kernel: its size, an odd number; FFNet's head B ends in a 3x3 convolution. Borders are padded with 0.

    Raises:
        ConfigError: dropout outside 0..1, a kernel that is not an odd number.
    """

    bands = True

    def __init__(
        self, in_channels: int, num_classes: int, dropout: float = 0.1, bias: bool = True, kernel: int = 1
    ) -> None:
        super().__init__(in_channels, num_classes)
        if kernel < 1 or kernel % 2 == 0:
            raise ConfigError(f"classifier.kernel={kernel} — expected an odd number: 1, or 3 as in FFNet's head B")
        self.dropout: nn.Module = nn.Dropout2d(within("classifier.dropout", dropout, 0, 1))
        self.conv = nn.Conv2d(in_channels, num_classes, kernel, padding=kernel // 2, bias=bias)
        nn.init.normal_(self.conv.weight, std=0.01)
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def takes_bands(self) -> bool:
        """Also False with a larger kernel: a band has no neighbours above and below it."""
        return super().takes_bands() and self.conv.kernel_size == (1, 1)

    @property
    def weight(self) -> Tensor:
        """The static prototypes, [K, C]; of a larger kernel those of a region of constant feature."""
        taps = self.conv.weight
        return taps[:, :, 0, 0] if taps.shape[-1] == 1 else taps.sum((2, 3))

    def static_logits(self, feature: Tensor) -> Tensor:
        """[B, K, h, w]. Dropout acts on these logits and on nothing else."""
        return self.conv(self.dropout(feature))

    def forward(self, feature: Tensor, target: Tensor | None = None) -> Output:
        return self.Output(logits=self.static_logits(feature))
