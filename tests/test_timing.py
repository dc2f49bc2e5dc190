"""FLOPs of passes and of gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from seglab.timing import flop_counter


@pytest.mark.parametrize(
    ("layer", "products"),
    [
        (nn.Conv2d(6, 12, 3), 12 * 6 * 9 * 8 * 8),
        (nn.Conv2d(6, 6, 3, groups=6), 6 * 9 * 8 * 8),
        (nn.Conv2d(6, 12, 3, groups=2, stride=2), 12 * 3 * 9 * 4 * 4),
        (nn.ConvTranspose2d(6, 4, 2, groups=2), 6 * 2 * 4 * 10 * 10),
    ],
    ids=["dense", "depthwise", "groups", "transposed"],
)
def test_each_gradient_of_a_convolution_takes_what_the_convolution_takes(layer, products):
    image = torch.randn(3, 6, 10, 10)
    for wanted in (False, True):
        with flop_counter() as counter:
            layer(image.requires_grad_(wanted)).sum().backward()
        assert counter.get_total_flops() == 3 * 2 * products * (2 + wanted)
