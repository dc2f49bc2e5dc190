"""Heads on inner layers: one for each branch that a term reads, on whatever layer the branch names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from seglab.errors import ConfigError
from seglab.heads import LayerHeads
from seglab.types import Output

CHANNELS = {"backbone.0": 8, "backbone.1": 12, "decoder.1": 16, "feature": 24, "presence": 5}
STRIDES = {"backbone.0": 4, "backbone.1": 8, "decoder.1": 8, "feature": 4, "presence": 0}
FEATURES = {
    name: torch.randn(2, c, 32 // (STRIDES[name] or 32), 48 // (STRIDES[name] or 48)) for name, c in CHANNELS.items()
}
OUTPUT = Output(logits=torch.zeros(2, 5, 8, 12))


def made(**options) -> LayerHeads:
    wanted = {"layers.backbone.1": 3, "layers.decoder.1": 5, "layers.feature": 2}
    return LayerHeads(CHANNELS, STRIDES, wanted, width=16, **options)


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_each_layer_has_logits_of_its_clusters_at_its_own_stride(kind):
    found = made(kind=kind)(FEATURES, OUTPUT)
    assert {name: tuple(x.shape) for name, x in found.items()} == {
        "backbone.1": (2, 3, 4, 6),
        "decoder.1": (2, 5, 4, 6),
        "feature": (2, 2, 8, 12),
    }


def test_what_it_reads_of_the_decoder_is_asked_of_the_decoder():
    assert list(made().reads) == ["decoder.1"]


def test_the_literal_form_is_one_convolution_and_the_default_a_3x3_with_norm_before():
    assert all(
        isinstance(each, nn.Conv2d) and each.kernel_size == (1, 1) for each in made(kind="linear").classifiers.values()
    )
    convolved = made().classifiers["backbone_1"]
    assert [type(m) for m in convolved[0]] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert convolved[0][0].kernel_size == (3, 3)


@pytest.mark.parametrize("branch", ["layers.backbone.7", "layers.presence", "layers"])
def test_a_layer_that_is_not_there_is_refused_with_those_that_are(branch):
    with pytest.raises(
        ConfigError, match=r"expected some of backbone\.0, backbone\.1, decoder\.1, feature: set regularizer\.layers"
    ):
        LayerHeads(CHANNELS, STRIDES, {branch: 3})


def test_an_unknown_kind_is_refused():
    with pytest.raises(ConfigError, match="kind=mlp"):
        made(kind="mlp")
