"""FFNet's decoder and its image classifier, as networks of the configuration."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from seglab.decoders import FFNet, FFNetCategory
from seglab.decoders.ffnet import SEG_HEADS, UP_HEADS
from seglab.errors import ConfigError
from tests.conftest import network

CHANNELS, STRIDES = (8, 12, 16, 20), (4, 8, 16, 32)
NET = ["backbone=ffnet", "backbone.name=ffnet22S", "decoder=ffnet", "decoder.up=C", "decoder.seg=C"]


def maps(batch: int = 2) -> list[torch.Tensor]:
    torch.manual_seed(0)
    sizes = [(17, 25), (9, 13), (5, 7), (3, 4)]
    return [torch.randn(batch, c, *size) for c, size in zip(CHANNELS, sizes, strict=True)]


@pytest.mark.parametrize("up", UP_HEADS)
@pytest.mark.parametrize("seg", SEG_HEADS)
def test_heads_have_the_published_channels(up, seg):
    decoder = FFNet(CHANNELS, STRIDES, 5, up, seg).eval()
    levels = decoder.top_down(maps())
    assert [x.shape[1] for x in levels] == list(UP_HEADS[up][1])
    feature = decoder(maps()).feature
    assert feature.shape == (2, decoder.out_channels, 17, 25)
    assert decoder.out_channels == SEG_HEADS[seg]


@pytest.mark.parametrize(("upsampling", "aligned"), [("bilinear", True), ("nearest", None)])
def test_every_level_is_resized_to_the_finest_at_once(upsampling, aligned):
    decoder = FFNet(CHANNELS, STRIDES, 5, "C", "C", upsampling).eval()
    seen = []
    decoder.fuse.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    decoder(maps())
    levels = decoder.top_down(maps())
    expected = [levels[0]]
    expected += [F.interpolate(x, size=(17, 25), mode=upsampling, align_corners=aligned) for x in levels[1:]]
    torch.testing.assert_close(seen[0], torch.cat(expected, 1))


@pytest.mark.parametrize("option", ["up", "seg", "upsampling"])
def test_an_unknown_head_is_refused(option):
    with pytest.raises(ConfigError, match=rf"decoder.{option}=D — expected one of"):
        FFNet(CHANNELS, STRIDES, 5, **{option: "D"})


def test_other_numbers_of_maps_and_maps_that_do_not_halve_are_refused():
    with pytest.raises(ConfigError, match="3 maps — expected 4: set backbone.out_indices"):
        FFNet(CHANNELS[:3], STRIDES[:3], 5)
    with pytest.raises(ConfigError, match=r"strides \(4, 8, 8, 8\)"):
        FFNetCategory(CHANNELS, (4, 8, 8, 8), 5)


def test_the_image_classifier_gives_one_feature_at_the_coarsest_stride_and_trains_all_of_itself():
    decoder = FFNetCategory(CHANNELS, STRIDES, 5, "C", width=32)
    feature = decoder(maps()).feature
    assert feature.shape == (2, 32, 3, 4)
    assert (decoder.out_channels, decoder.stride) == (32, 32)
    feature.square().sum().backward()
    assert all(p.grad is not None for p in decoder.parameters())
    assert FFNetCategory(CHANNELS, STRIDES, 5).out_channels == 2048


@pytest.mark.parametrize("name", ["ffnet22S", "ffnet22S_d", "ffnet22S_pre_down", "ffnet46NS"])
def test_a_network_takes_raw_images_of_any_size_and_a_copy_of_it_says_the_same(name, compose):
    cfg = compose("train", [*NET, f"backbone.name={name}", "classifier.kernel=3", "run_dir=."])
    model, again = network(cfg, 3).eval(), network({**cfg, "seed": 1}, 3).eval()
    again.load_state_dict(model.state_dict())
    for size in ((64, 64), (50, 75)):
        image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
        with torch.no_grad():
            logits = model(image).logits
            assert torch.equal(copy.deepcopy(model)(image).logits, logits)
            assert torch.equal(again(image).logits, logits)
        stride, (height, width) = model.decoder.stride, size
        if "pre_down" in name:  # the published blur has no padding at the left and right
            stride, height, width = stride // 2, (height - 1) // 2, (width - 3) // 2
        assert logits.shape == (1, 3, -(-height // stride), -(-width // stride))


def test_an_image_classifier_of_three_stages_takes_one_image_and_drops_a_fifth_in_training(compose):
    words = ["task=classification", "backbone=ffnet", "backbone.name=ffnet46NS", "decoder=ffnet_category"]
    cfg = compose("train", [*words, "decoder.width=32", "classifier.dropout=0.2", "run_dir=."])
    model = network(cfg, 10).eval()
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    assert model(image).logits.shape == (1, 10)
    assert model.classifier.dropout.p == 0.2
    assert model.train()(image.expand(4, 3, 64, 64)).logits.isfinite().all()
