"""The network for small images: its layers, its encodings, and what it refuses."""

from __future__ import annotations

import copy

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.nn import functional as F

from seglab import build, cli
from seglab.backbones import EncNetCifar
from seglab.backbones.encnet_cifar import Block, ChannelEncoding
from seglab.errors import ConfigError
from seglab.ops.encoding import encode


def depth(backbone: nn.Module) -> int:
    """Layers as papers count them: 3x3 convolutions, and the classifier."""
    return 1 + sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in backbone.modules())


def made(option: str) -> EncNetCifar:
    """An option of ``backbone=``, without memory for its tensors."""
    with hydra.initialize_config_dir(str(cli.conf_dir()), version_base="1.3"):
        node = OmegaConf.to_container(hydra.compose(f"backbone/{option}"))["backbone"]
    with torch.device("meta"):
        return build.instantiate(node, "backbone")


@pytest.mark.parametrize(
    ("option", "layers", "channels", "codewords"),
    [
        ("encnet_cifar", 14, (128, 256, 512), 32),
        ("encnetdrop_cifar", 14, (128, 256, 512), 32),
        ("plain14_cifar", 14, (128, 256, 512), None),
        ("plain140_cifar", 140, (16, 32, 64), None),
    ],
)
def test_every_option_has_the_published_layers_channels_and_codewords(option, layers, channels, codewords):
    backbone = made(option)
    assert depth(backbone) == layers
    assert backbone.channels == channels
    found = [(c, m) for c, stage in zip(channels, backbone.stages, strict=True) for m in stage.modules()]
    encodings = [(c, m.encoding) for c, m in found if isinstance(m, ChannelEncoding)]
    assert len(encodings) == (0 if codewords is None else 6)
    assert all(encoding.codewords.shape == (codewords, c // 4) for c, encoding in encodings)
    assert {encoding.smoothing is None for _, encoding in encodings} <= {option == "encnetdrop_cifar"}


@pytest.mark.parametrize("encoding", ["learned", "noise", "none"])
@pytest.mark.parametrize("size", [(32, 32), (17, 30), (5, 3)], ids=str)
def test_maps_have_the_published_strides_and_every_parameter_is_trained(size, encoding):
    backbone = EncNetCifar(widen=1, codewords=3, encoding=encoding)
    maps = backbone(torch.randn(2, 3, *size))
    for x, channels, stride in zip(maps, backbone.channels, backbone.strides, strict=True):
        assert x.shape == (2, channels, *(-(-n // stride) for n in size))
    sum(x.square().sum() for x in maps).backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []


def test_a_channel_is_multiplied_by_what_the_codebook_says():
    layer = ChannelEncoding(8, 3, noise=False).double().eval()
    x = torch.randn(2, 8, 4, 5, dtype=torch.float64)
    encoded = encode(layer.reduce(x), layer.encoding.codewords, layer.encoding.smoothing).reshape(2, -1)
    gate = torch.sigmoid(F.linear(encoded / encoded.norm(dim=1, keepdim=True), layer.gate.weight, layer.gate.bias))
    assert torch.allclose(layer(x), x * gate[:, :, None, None])


def test_the_encoding_acts_on_the_residual_and_not_on_the_shortcut():
    layer = ChannelEncoding(8, 3, noise=False)
    block = Block(4, 8, 2, layer).eval()
    x = torch.randn(2, 4, 5, 7)
    nn.init.zeros_(layer.gate.weight)
    nn.init.constant_(layer.gate.bias, -1e4)
    assert torch.equal(block(x), block.shortcut(x).relu())
    nn.init.constant_(layer.gate.bias, 1e4)
    assert torch.allclose(block(x), (block.shortcut(x) + block.convs(x)).relu())


def test_noise_acts_in_training_only():
    backbone = EncNetCifar(widen=1, codewords=3, encoding="noise")
    image = torch.randn(2, 3, 8, 8)
    assert not torch.equal(backbone(image)[-1], backbone(image)[-1])
    backbone.eval()
    assert torch.equal(backbone(image)[-1], copy.deepcopy(backbone)(image)[-1])
    assert not any("smoothing" in name for name, _ in backbone.named_parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codewords": 0}, r"backbone\.codewords=0"),
        ({"widen": 0}, r"backbone\.widen=0"),
        ({"blocks": 0}, r"backbone\.blocks=0"),
        ({"encoding": "drop"}, r"backbone\.encoding=drop — expected one of learned, noise, none"),
        ({"pretrained": True}, r"set backbone\.pretrained=false"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        EncNetCifar(**options)


def test_the_experiment_is_the_published_recipe():
    cfg = cli.compose("train", ["experiment=encnet_cifar10", "run_dir=."])
    assert build.task_class(cfg).__name__ == "Classification"
    assert (cfg["backbone"]["encoding"], cfg["backbone"]["codewords"], cfg["backbone"]["widen"]) == ("learned", 32, 8)
    assert cfg["trainer"]["max_steps"] == 600 * 50_000 // cfg["data"]["batch_size"]
    assert cfg["data"]["batch_size"] == 128
    optimizer, schedule = cfg["optim"]["optimizer"], cfg["optim"]["schedule"]
    assert (optimizer["lr"], optimizer["momentum"], optimizer["weight_decay"]) == (0.1, 0.9, 1e-4)
    assert schedule["_target_"].endswith("cosine")
    assert (schedule["min_lr"], schedule["warmup"]) == (0, 0)
    assert cfg["optim"]["no_decay"] == []
    assert cfg["augment"]["crop"] == [32, 32]
    assert cfg["augment"]["flip"] == 0.5
    assert [each["_target_"] for each in cfg["augment"]["extra"]] == ["albumentations.Pad", "albumentations.RandomCrop"]
    assert cfg["normalize"]["mean"] == pytest.approx([255 * x for x in (0.4914, 0.4822, 0.4465)])
    assert cfg["normalize"]["std"] == pytest.approx([255 * x for x in (0.2023, 0.1994, 0.2010)])
    assert cfg["classifier"]["dropout"] == 0


def test_it_trains_on_a_miniature_and_is_scored(cifar10, tmp_path):
    from seglab.train import fit

    small = ["backbone.widen=1", "backbone.codewords=2", "data.batch_size=8", "data.num_workers=0"]
    short = ["trainer.max_steps=2", "trainer.val_check_interval=2", "trainer.accelerator=cpu"]
    options = ["experiment=encnet_cifar10", *small, *short, f"data.root={cifar10}", f"run_dir={tmp_path}"]
    results = fit(cli.compose("train", options), tmp_path)
    assert 0 <= results["test/top1_error"] <= 1
