"""Any timm network as a backbone: what it publishes is what it gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from seglab.backbones import Timm
from seglab.errors import ConfigError
from tests.conftest import each, options

CONF = Path(__file__).parents[2] / "conf"
NHWC = ["test_mambaout", "swin_tiny_patch4_window7_224"]
NCHW = ["test_resnet", "test_convnext", "test_efficientnet", "test_vit", "hrnet_w18_small", "eva02_tiny_patch14_224"]


def maps_of(backbone: Timm, height: int, width: int) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return backbone.eval()(torch.randn(2, 3, height, width))


@pytest.mark.parametrize("name", NHWC + NCHW)
@pytest.mark.parametrize("size", [(64, 96), (65, 97), (49, 33)])
def test_published_channels_and_strides_are_those_of_the_maps(name: str, size: tuple[int, int]) -> None:
    backbone = Timm(name)
    maps = maps_of(backbone, *size)
    assert tuple(x.shape[1] for x in maps) == backbone.channels
    assert list(backbone.strides) == sorted(backbone.strides), "finest first"
    for x, stride in zip(maps, backbone.strides, strict=True):
        for side, found in zip(size, x.shape[-2:], strict=True):
            assert side // stride <= found <= -(-side // stride)


@pytest.mark.parametrize("name", NHWC)
def test_channels_last_networks_give_the_maps_that_timm_gives_transposed(name: str) -> None:
    backbone = Timm(name).eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for ours, theirs in zip(backbone(image), backbone.model(image), strict=True):
            assert torch.equal(ours, theirs.movedim(-1, 1))


@pytest.mark.parametrize(
    ("name", "strides"), [("test_resnet", (4, 8)), ("test_efficientnet", (4, 8)), ("test_convnext", (4, 8))]
)
@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilation_keeps_the_coarse_maps_at_the_output_stride(
    name: str, strides: tuple[int, ...], output_stride: int
) -> None:
    backbone = Timm(name, output_stride=output_stride)
    assert backbone.strides == (*strides, min(16, output_stride), output_stride)
    assert maps_of(backbone, 64, 96)[-1].shape[-2:] == (64 // output_stride, 96 // output_stride)


def test_what_cannot_be_dilated_says_what_it_supports() -> None:
    with pytest.raises(ConfigError, match="output_stride=null"):
        Timm("swin_tiny_patch4_window7_224", output_stride=8)
    with pytest.raises(ConfigError, match="8 or 16 or 32"):
        Timm("test_resnet", output_stride=7)


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="resnet18"):
        Timm("resnet81")
    with pytest.raises(ConfigError, match="r160_in1k"):
        Timm("test_resnet.r161_in1k")


def test_an_option_the_network_lacks_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="image_size"):
        Timm("test_resnet", image_size=64)
    with pytest.raises(ConfigError, match=r"backbone\.out_indices"):
        Timm("test_resnet", out_indices=[0, 9])


def test_a_fixed_grid_network_needs_its_size_and_takes_only_that() -> None:
    with pytest.raises(ConfigError, match="image_size"):
        Timm("test_maxvit")
    backbone = Timm("test_maxvit", image_size=[128, 128])
    assert maps_of(backbone, 128, 128)[0].shape[-2:] == (32, 32)
    with pytest.raises(ConfigError, match="128x128"):
        maps_of(backbone, 128, 160)


def test_chosen_maps_are_given() -> None:
    backbone = Timm("test_resnet", out_indices=[1, 3])
    assert backbone.strides == (4, 16)
    assert len(maps_of(backbone, 64, 64)) == 2


def test_a_plain_vit_gives_four_blocks_spread_over_its_depth_at_one_stride() -> None:
    backbone = Timm("vit_tiny_patch16_224")
    assert backbone.strides == (16, 16, 16, 16)
    assert backbone.options["out_indices"] == (2, 5, 8, 11)


def test_the_pyramid_makes_four_strides_of_one() -> None:
    backbone = Timm("test_vit", pyramid=True)
    assert backbone.strides == (4, 8, 16, 32)
    assert [tuple(x.shape[-2:]) for x in maps_of(backbone, 65, 97)] == [(17, 25), (9, 13), (5, 7), (3, 4)]
    with pytest.raises(ConfigError, match="pyramid=false"):
        Timm("test_resnet", pyramid=True)


def test_padding_changes_nothing_where_the_size_fits() -> None:
    backbone = Timm("hrnet_w18_small").eval()
    image = torch.randn(1, 3, 64, 96)
    assert backbone.multiple == 32
    with torch.no_grad():
        assert torch.equal(backbone(image)[0], backbone.model(image)[0])
        padded = torch.nn.functional.pad(image[..., :50, :70], (0, 26, 0, 14))
        assert torch.equal(backbone(image[..., :50, :70])[0], backbone.model(padded)[0][..., :13, :18])


def test_frozen_normalisation_keeps_statistics_and_parameters() -> None:
    backbone = Timm("test_resnet", frozen_norm=True).train()
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    backbone(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(before[name], value) for name, value in backbone.named_buffers())
    norms = [m for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(p.requires_grad for m in norms for p in m.parameters())


def test_building_leaves_statistics_and_mode_as_they_are() -> None:
    backbone = Timm("test_resnet")
    assert backbone.training
    assert all(m.training for m in backbone.modules())
    assert all(value.eq(0).all() for name, value in backbone.named_buffers() if name.endswith("running_mean"))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_recomputed_activations_give_the_same_gradient(name: str) -> None:
    torch.manual_seed(0)
    image = torch.randn(2, 3, 64, 64)
    plain, recomputed = Timm(name), Timm(name, grad_checkpointing=True)
    recomputed.load_state_dict(plain.state_dict())
    for backbone in (plain, recomputed):
        backbone.train()(image)[-1].square().sum().backward()
    for (key, p), q in zip(plain.named_parameters(), recomputed.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), key
        if p.grad is not None:
            assert torch.allclose(p.grad, q.grad, atol=1e-5, rtol=1e-4), key


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_mambaout", "swin_tiny_patch4_window7_224"])
def test_layers_are_counted_from_the_last_block_down_to_the_stem(name: str) -> None:
    backbone = Timm(name)
    below = backbone.layers_below_head()
    assert set(below) == {key for key, _ in backbone.named_parameters()}
    order = list(below.values())
    assert order[0] == max(order) > 2
    assert order[-1] == min(order) == 1


FAMILIES = (
    "resnet18",
    "resnet50_d8",
    "mobilenetv2_d8",
    "swin_tiny",
    "convnext_tiny",
    "vit_small",
    "efficientnet_lite0",
)


@pytest.mark.parametrize("option", each(options("backbone"), *FAMILIES))
def test_every_option_composes_and_publishes_the_strides_of_its_maps(option: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        node = compose(f"backbone/{option}", overrides=["backbone.pretrained=false"]).backbone
    small = {  # of large ones
        "swin_base": {"name": "swin_tiny_patch4_window7_224"},
        "swin_large": {"name": "swin_tiny_patch4_window7_224"},
        "resnet101_d8": {"name": "resnet26"},
        "resnet101s_d8": {"name": "resnet26"},
        "plain140_cifar": {"blocks": 2},
    }
    node.update(small.get(option, {}))
    with torch.random.fork_rng():
        backbone = instantiate(node, _convert_="all")
    if isinstance(backbone, Timm):
        assert backbone.strides == ((4, 8, 8, 8) if option.endswith("_d8") else (4, 8, 16, 32))
    assert [m.shape[-1] for m in maps_of(backbone, 64, 64)] == [64 // stride for stride in backbone.strides]
