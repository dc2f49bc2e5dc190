"""FFNet's encoders: names, maps, weights."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from seglab.backbones import FFNet
from seglab.backbones.ffnet import ENCODERS, KNOWN, NAMES, Encoder, Smoothing, variant
from seglab.errors import CheckpointError, ConfigError
from tests.commands import run

TINY = {"depths": (1, 1, 1, 1), "channels": (8, 12, 16, 20)}
"""A network of stem B."""


def small(stem: str = "B", **options) -> Encoder:
    torch.manual_seed(0)
    return Encoder(stem, **{**TINY, **options})


@pytest.mark.parametrize("name", ["ffnet78S_dBBB_mobile", "segmentation_ffnet78S_dBBB_mobile"])
def test_a_published_name_says_what_it_is_made_of(name):
    found = variant(name)
    assert (found.encoder, found.downsampled, found.pre_down) == ("78S", True, False)
    assert (found.up, found.seg, found.mobile, found.classifies) == ("B", "B", True, False)


def test_there_are_94_published_names_and_one_of_every_encoder_by_itself():
    assert len(NAMES) == 94
    assert {name for name in KNOWN if re.fullmatch(r"ffnet\d+[SN]*", name)} == {f"ffnet{e}" for e in ENCODERS}
    assert "ffnet46N_d" not in KNOWN, "three stages have no d"
    assert "classification_ffnet18_AAX" in KNOWN
    assert "segmentation_ffnet18_AAX" not in KNOWN, "nor is there an image classifier for segmentation"


def test_the_stem_in_a_name_is_its_encoders():
    for name, kind in NAMES.items():
        assert re.fullmatch(rf"ffnet{kind.encoder}_d?{ENCODERS[kind.encoder][0]}..(_\w+)?", name), name


@pytest.mark.parametrize(("name", "nearest"), [("ffnet78_dBBB_mobile", "ffnet78S_dBBB_mobile"), ("fnet18", "ffnet18")])
def test_an_unknown_name_is_refused_with_the_nearest(name, nearest):
    with pytest.raises(ConfigError, match=rf"no FFNet '{name}' — the nearest are .*{nearest}.*; set backbone.name"):
        FFNet(name)


def test_an_unknown_name_ends_the_command_with_exit_code_2(tmp_path):
    done = run("backbone=ffnet", "backbone.name=ffnet78Q", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "ffnet78S" in done.stderr


@pytest.mark.parametrize("size", [(64, 96), (65, 99), (100, 140), (33, 32)])
@pytest.mark.parametrize(
    ("options", "strides"),
    [
        ({"stem": "A"}, (4, 8, 16, 32)),
        ({"stem": "B"}, (4, 8, 16, 32)),
        ({"stem": "B", "downsampled": True}, (8, 16, 32, 64)),
        ({"stem": "C", "depths": (1, 1, 1), "channels": (64, 8, 8, 8)}, (4, 8, 16, 32)),
        ({"stem": "B", "bottleneck": True}, (4, 8, 16, 32)),
    ],
    ids=["A", "B", "d", "three stages", "bottlenecks"],
)
def test_maps_have_the_published_channels_and_cover_the_image_at_their_strides(options, strides, size):
    network = small(**options).eval()
    maps = network(torch.randn(1, 3, *size))
    assert network.strides == strides
    assert [x.shape[1] for x in maps] == list(network.channels)
    assert [tuple(x.shape[-2:]) for x in maps] == [tuple(-(-n // s) for n in size) for s in strides]


def test_the_first_map_of_three_stages_is_the_stems():
    network = small("C", depths=(1, 1, 1), channels=(64, 8, 8, 8)).eval()
    seen = []
    network.layer1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    first, *_ = network(torch.randn(1, 3, 32, 32))
    assert first is seen[0]


def test_smoothing_halves_as_published_and_keeps_the_mean():
    smoothing = Smoothing()
    assert smoothing(torch.zeros(1, 3, 1024, 2048)).shape == (1, 3, 511, 1022)
    assert smoothing.weight[0, 0, 2, 2].item() == pytest.approx(0.32472, abs=1e-5)
    torch.testing.assert_close(smoothing(torch.ones(1, 3, 9, 9)), torch.ones(1, 3, 4, 3))
    image = torch.randn(1, 3, 8, 8)
    rows = torch.cat([image[:, :, 1:2], image, image[:, :, -2:-1]], 2)
    torch.testing.assert_close(smoothing(image), F.conv2d(rows, smoothing.weight, stride=2, groups=3))


def test_a_network_that_halves_the_image_publishes_twice_the_strides_and_is_copied_whole():
    network = small(pre_down=True).eval()
    assert network.strides == (8, 16, 32, 64)
    image = torch.randn(1, 3, 64, 96)
    maps = network(image)
    assert [tuple(x.shape[-2:]) for x in maps] == [(8, 12), (4, 6), (2, 3), (1, 2)]
    assert all(torch.equal(a, b) for a, b in zip(maps, copy.deepcopy(network)(image), strict=True))


def test_half_precision_gives_the_same_maps_up_to_its_rounding():
    network, image = small(pre_down=True).eval(), torch.randn(1, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(image)
    for a, b in zip(network(image), half, strict=True):
        assert (a - b.float()).abs().max() < 0.05 * a.abs().max()


def test_layers_are_counted_from_the_head():
    below = small(depths=(1, 2, 1, 1)).layers_below_head()
    assert below["layer4.0.conv1.weight"] == 1
    assert below["layer2.0.conv1.weight"] == 4
    assert below["layer1.0.bn1.weight"] == 5
    assert below["conv0.weight"] == 6
    assert below.keys() == dict(small(depths=(1, 2, 1, 1)).named_parameters()).keys()


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file with the tensors of an ``ffnet18`` under the published names, and a head's."""
    path = tmp_path_factory.mktemp("published") / "published.safetensors"
    state = {f"backbone_model.{name}": value for name, value in FFNet("ffnet18").state_dict().items()}
    save_file({**state, "head.layers.3.last_layer.3.bias": torch.zeros(19)}, path)
    return path, state


def test_an_encoder_starts_from_a_published_file_with_and_without_a_stride_in_its_first_stage(published):
    path, state = published
    for name in ("ffnet18", "ffnet18_d", "ffnet18_pre_down"):
        torch.manual_seed(1)
        own = FFNet(name, weights=str(path)).state_dict()
        new = {key for key in own if f"backbone_model.{key}" not in state}
        assert all(key.startswith(("layer1.0.downsample.", "smoothing.")) for key in new)
        assert all(torch.equal(own[key], state[f"backbone_model.{key}"]) for key in own.keys() - new)


def test_weights_of_another_encoder_and_weights_that_nobody_published_are_refused(published):
    with pytest.raises(CheckpointError, match="does not fit backbone ffnet22S: .*set backbone.name"):
        FFNet("ffnet22S", weights=str(published[0]))
    with pytest.raises(ConfigError, match="no ImageNet weights of ffnet78S"):
        FFNet("ffnet78S", pretrained=True)
    with pytest.raises(ConfigError, match="expected one source"):
        FFNet("ffnet18", pretrained=True, weights="file")
