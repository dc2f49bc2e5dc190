"""A linear classifier behind further 1x1 convolutions: what parameters alone give, without any adaptation.

    Y = relu(norm(V relu(norm(U X)))),  Z = W dropout(Y) + b        U: C -> wC, V: wC -> C

SSA-Seg compares itself with extra convolutions of its own size (its Table 10).
"""

from __future__ import annotations

from torch import Tensor, nn

from seglab.checks import within
from seglab.classifiers.linear import Linear
from seglab.types import Output


class MLP(Linear):
    """Two 1x1 convolutions with batch normalisation, then a :class:`Linear` classifier.

    Args:
        width: w, hidden width as a multiple of C; 2 is 4 C^2 weights, as many as SSA adds to a deployed network.
        dropout: probability that a channel is zeroed in front of the last convolution.
        bias: whether the last convolution has one.

    Raises:
        ConfigError: width not above 0, dropout outside 0..1.
    """

    bands = True

    def __init__(
        self, in_channels: int, num_classes: int, width: float = 2.0, dropout: float = 0.1, bias: bool = True
    ) -> None:
        super().__init__(in_channels, num_classes, dropout, bias)
        hidden = max(1, int(within("classifier.width", width, 0, open_low=True) * in_channels))
        layers: list[nn.Module] = []
        for before, after in ((in_channels, hidden), (hidden, in_channels)):
            layers += [nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)

    def forward(self, feature: Tensor, target: Tensor | None = None) -> Output:
        return super().forward(self.layers(feature), target)
