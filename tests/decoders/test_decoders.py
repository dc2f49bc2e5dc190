"""Decoders: feature before dropout and classifier, at the stride they publish, for maps of any sizes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn

from seglab import cli
from seglab.decoders import FCN, FPN, IFA, MLP, Decoder, FFNet, UPerNet
from seglab.decoders.blocks import PyramidPooling, group_norm
from seglab.errors import ConfigError

CONF = Path(__file__).parents[2] / "conf"
CHANNELS = (8, 12, 16, 20)
SMALL = [*(partial(kind, width=16) for kind in (FCN, FPN, MLP, UPerNet, IFA)), partial(FFNet, up="C", seg="C")]
SIZES = {
    "divisible": [(16, 24), (8, 12), (4, 6), (2, 3)],
    "odd": [(17, 25), (9, 13), (5, 7), (3, 4)],
    "rounded down": [(17, 25), (8, 12), (4, 6), (2, 3)],
    "dilated": [(16, 24), (8, 12), (8, 12), (8, 12)],
    "one stride": [(4, 6)] * 4,
    "one pixel": [(4, 4), (2, 2), (1, 1), (1, 1)],
}
STRIDES = {"dilated": (4, 8, 8, 8), "one stride": (16, 16, 16, 16)}


def maps_of(sizes: list[tuple[int, int]], batch: int = 2) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(batch, c, *size) for c, size in zip(CHANNELS, sizes, strict=True)]


@pytest.mark.parametrize("make", SMALL, ids=lambda make: make.func.__name__)
@pytest.mark.parametrize("kind", SIZES)
def test_feature_has_the_published_channels_and_the_size_of_its_stage(make: partial, kind: str) -> None:
    decoder: Decoder = make(CHANNELS, STRIDES.get(kind, (4, 8, 16, 32)), 5)
    feature = decoder(maps_of(SIZES[kind])).feature
    stage = -1 if isinstance(decoder, FCN) else 0
    assert feature.shape == (2, decoder.out_channels, *SIZES[kind][stage])
    assert decoder.stride == decoder.strides[stage]


@pytest.mark.parametrize("make", SMALL, ids=lambda make: make.func.__name__)
def test_every_parameter_is_trained_and_the_maps_are_left_alone(make: partial) -> None:
    decoder = make(CHANNELS, (4, 8, 16, 32), 5)
    maps = maps_of(SIZES["odd"])
    before = [x.clone() for x in maps]
    decoder(maps).feature.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in decoder.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, maps, strict=True))


@pytest.mark.parametrize("make", SMALL, ids=lambda make: make.func.__name__)
def test_the_same_features_in_training_twice_there_is_no_dropout(make: partial) -> None:
    decoder = make(CHANNELS, (4, 8, 16, 32), 5).train()
    maps = maps_of(SIZES["odd"])
    assert torch.equal(decoder(maps).feature, decoder(maps).feature)


@pytest.mark.parametrize("make", SMALL, ids=lambda make: make.func.__name__)
def test_the_norm_is_a_choice(make: partial) -> None:
    decoder = make(CHANNELS, (4, 8, 16, 32), 5, norm=partial(group_norm, groups=4))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in decoder.modules())
    assert decoder(maps_of(SIZES["odd"], batch=1)).feature.isfinite().all()


@pytest.mark.parametrize("make", [SMALL[i] for i in (1, 3, 5)], ids=lambda make: make.func.__name__)
def test_levels_are_branches_with_the_channels_and_size_that_they_publish_where_they_are_wanted(make: partial) -> None:
    decoder, maps = make(CHANNELS, (4, 8, 16, 32), 5).eval(), maps_of(SIZES["odd"])
    levels = {f"decoder.{i}": i for i in range(4)}
    assert decoder.branches.keys() == levels.keys()
    assert [stride for _, stride in decoder.branches.values()] == [4, 8, 16, 32]
    decoded = decoder(maps, frozenset(levels))
    for name, i in levels.items():
        assert decoded.extra[name].shape == (2, decoder.branches[name][0], *SIZES["odd"][i])
    assert torch.equal(decoded.feature, decoder(maps).feature)
    assert decoder(maps, frozenset({"decoder.2", "feature"})).extra.keys() == {"decoder.2"}
    if isinstance(decoder, FPN):
        assert torch.equal(decoded.extra["decoder.0"], decoded.feature)


def test_fcn_without_convolutions_is_the_bare_classifier() -> None:
    maps = maps_of(SIZES["divisible"])
    decoder = FCN(CHANNELS, (4, 8, 16, 32), 5, num_convs=0, concat_input=False, stage=2)
    assert torch.equal(decoder(maps).feature, maps[2])
    assert (decoder.out_channels, decoder.stride) == (CHANNELS[2], 16)


def test_fcn_refuses_a_stage_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="4 maps"):
        FCN(CHANNELS, (4, 8, 16, 32), 5, stage=4)


def test_pyramid_pooling_of_one_image_is_refused_before_torch_is_confused() -> None:
    pooling = PyramidPooling(8, 4)
    with pytest.raises(ConfigError, match="batch_size=2"):
        pooling.train()(torch.randn(1, 8, 6, 6))
    assert pooling.eval()(torch.randn(1, 8, 6, 6)).shape == (1, 4, 6, 6)
    PyramidPooling(8, 4, bins=(2, 3)).train()(torch.randn(1, 8, 6, 6))


def test_pooling_to_one_cell_is_the_mean_of_the_map() -> None:
    pooling = PyramidPooling(3, 3, bins=(1,), norm=nn.Identity).eval()
    eye = torch.zeros(3, 6, 3, 3)
    eye[:, 3:, 1, 1] = torch.eye(3)  # pass the pooled branch on, ignore the input
    pooling.fuse[0].weight.data = eye
    pooling.branches[0][0].weight.data = torch.eye(3)[..., None, None]
    x = torch.rand(2, 3, 5, 7)
    assert torch.allclose(pooling(x), x.mean((2, 3), keepdim=True).expand_as(x), atol=1e-6)


def test_upernet_has_the_parameters_of_the_published_head() -> None:
    decoder = UPerNet((96, 192, 384, 768), (4, 8, 16, 32), 150)
    convs = 4 * 768 * 512 + (768 + 4 * 512) * 512 * 9  # pyramid pooling
    convs += (96 + 192 + 384) * 512 + 3 * 512 * 512 * 9 + 4 * 512 * 512 * 9
    norms = 2 * 512 * (4 + 1 + 3 + 3 + 1)
    assert sum(p.numel() for p in decoder.parameters()) == convs + norms


PUBLISHED = {"ifa": 256, "fcn": 512, "encnet": 512, "upernet": 512, "mlp": 256, "fpn": 96}
"""Widths of decoders that a paper gives one for."""


def test_every_published_width_is_of_an_option() -> None:
    assert PUBLISHED.keys() <= {path.stem for path in (CONF / "decoder").glob("*.yaml")}


@pytest.mark.parametrize("path", sorted((CONF / "decoder").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_option_builds_and_gives_the_width_that_it_publishes(path: Path) -> None:
    cli.register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        node = compose(f"decoder/{path.stem}").decoder
    decoder = instantiate(node, _convert_="all")(channels=CHANNELS, strides=(4, 8, 16, 32), num_classes=5)
    assert isinstance(decoder, Decoder)
    assert decoder(maps_of(SIZES["odd"])).feature.shape[1] == decoder.out_channels
    if path.stem in PUBLISHED:
        assert decoder.out_channels == PUBLISHED[path.stem]
