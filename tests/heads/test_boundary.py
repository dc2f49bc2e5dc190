"""The boundary head: the published one's values, computed map by map."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from seglab.errors import ConfigError
from seglab.heads import BoundaryHead
from seglab.types import Output

CHANNELS = {"backbone.0": 8, "backbone.1": 12, "backbone.2": 16, "feature": 24}
STRIDES = {"backbone.0": 4, "backbone.1": 8, "backbone.2": 16, "feature": 4}
SIZES = {"backbone.0": (9, 13), "backbone.1": (5, 7), "backbone.2": (3, 4), "feature": (9, 13)}
FEATURES = {name: torch.randn(2, c, *SIZES[name]) for name, c in CHANNELS.items()}
OUTPUT = Output(logits=torch.zeros(2, 5, 9, 13))


def made(outputs=None, **options) -> BoundaryHead:
    return BoundaryHead(CHANNELS, STRIDES, outputs or {"boundary": 1}, **options)


def test_it_is_one_convolution_of_the_concatenated_maps():
    head = made()
    maps = [F.interpolate(FEATURES[name], (9, 13), mode="bilinear") for name in head.names]
    weight = torch.cat([conv.weight for conv in head.convolutions], 1)
    expected = F.conv2d(torch.cat(maps, 1), weight, head.convolutions[0].bias)
    torch.testing.assert_close(head(FEATURES, OUTPUT), expected, rtol=1e-4, atol=1e-5)
    assert head.stride == 4


def test_it_reads_the_decoded_feature_where_it_is_told_to():
    head = made(source="decoder")
    assert head(FEATURES, OUTPUT).shape == (2, 1, 9, 13)
    assert sum(p.numel() for p in head.parameters()) == CHANNELS["feature"] + 1


def test_a_hidden_layer_stands_between_two_convolutions():
    head = made(hidden=6)
    assert head(FEATURES, OUTPUT).shape == (2, 1, 9, 13)
    assert sum(p.numel() for p in head.parameters()) == (8 + 12 + 16) * 6 + 6 + 12 + 7


def test_options_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match=r"heads\.boundary\.source=image"):
        made(source="image")
    with pytest.raises(ConfigError, match=r"heads\.boundary\.hidden=-1"):
        made(hidden=-1)
    with pytest.raises(ConfigError, match=r"boundary\.a, boundary\.b"):
        made({"boundary.a": 1, "boundary.b": 1})
