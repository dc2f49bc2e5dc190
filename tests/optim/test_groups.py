"""Parameter groups: every trainable parameter once, with the rate and the decay that its place gives it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from seglab.backbones import Timm
from seglab.errors import ConfigError
from seglab.optim import parameter_groups


class Net(nn.Module):
    def __init__(self, name: str = "test_vit") -> None:
        super().__init__()
        self.backbone = Timm(name)
        self.decoder = nn.Sequential(nn.Conv2d(64, 8, 1), nn.BatchNorm2d(8))
        self.classifier = nn.Conv2d(8, 3, 1)


@pytest.fixture(scope="module")
def net() -> Net:
    return Net()


def settings(model: nn.Module, groups: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[p]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


OPTIONS: list[dict[str, Any]] = [
    {},
    {"head_lr": 10.0},
    {"no_decay": ["norm", "bias", "position", "vector"]},
    {"layer_decay": 0.9, "no_decay": ["norm"]},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_trainable_parameter_is_in_exactly_one_group(net: Net, options: dict[str, Any]) -> None:
    groups = parameter_groups(net, 1e-3, 0.01, **options)
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in net.parameters())
    assert len({group["name"] for group in groups}) == len(groups)
    torch.optim.AdamW(groups)


def test_frozen_parameters_are_left_out() -> None:
    model = Net()
    model.decoder.requires_grad_(False)
    assert not any(name.startswith("decoder") for name in settings(model, parameter_groups(model, 1e-3)))
    with pytest.raises(ConfigError, match="no trainable"):
        parameter_groups(model.requires_grad_(False), 1e-3)


def test_a_shared_parameter_counts_once() -> None:
    model = Net()
    model.classifier.bias = nn.Parameter(torch.zeros(3))
    model.other = nn.Linear(2, 3)
    model.other.bias = model.classifier.bias
    assert len(settings(model, parameter_groups(model, 1e-3))) == len(list(model.parameters()))


def test_the_head_is_everything_but_the_backbone(net: Net) -> None:
    rates = settings(net, parameter_groups(net, 1e-3, head_lr=10.0))
    assert all(lr == pytest.approx(1e-3 if name.startswith("backbone.") else 1e-2) for name, (lr, _) in rates.items())


def test_decay_spares_the_chosen_kinds_only(net: Net) -> None:
    decay = {
        k: d for k, (_, d) in settings(net, parameter_groups(net, 1e-3, 0.01, no_decay=["norm", "position"])).items()
    }
    assert decay["backbone.model.model.pos_embed"] == 0
    assert decay["backbone.model.model.cls_token"] == 0
    assert decay["backbone.model.model.blocks.0.norm1.weight"] == 0
    assert decay["backbone.model.model.blocks.0.norm1.bias"] == 0
    assert decay["decoder.1.weight"] == 0
    assert decay["backbone.model.model.blocks.0.attn.qkv.bias"] == 0.01
    assert decay["decoder.0.bias"] == 0.01
    bias = {k: d for k, (_, d) in settings(net, parameter_groups(net, 1e-3, 0.01, no_decay=["bias"])).items()}
    assert {k for k, d in bias.items() if d == 0} == {k for k in bias if k.endswith("bias")}


def test_swins_position_tables_are_found() -> None:
    model = Net("swin_tiny_patch4_window7_224")
    decay = {k: d for k, (_, d) in settings(model, parameter_groups(model, 1e-3, 0.01, no_decay=["position"])).items()}
    assert {k for k, d in decay.items() if d == 0} == {k for k in decay if "relative_position_bias_table" in k}
    assert 0 in decay.values()


def test_without_exemptions_everything_decays(net: Net) -> None:
    assert all(decay == 5e-4 for _, decay in settings(net, parameter_groups(net, 0.01, 5e-4)).values())


def test_layer_decay_falls_from_the_head_to_the_stem(net: Net) -> None:
    rates = {k: lr for k, (lr, _) in settings(net, parameter_groups(net, 1.0, layer_decay=0.5, head_lr=3.0)).items()}
    blocks = [rates[f"backbone.model.model.blocks.{i}.mlp.fc1.weight"] for i in range(6)]
    assert all(b == pytest.approx(2 * a) for a, b in pairwise(blocks))
    assert rates["backbone.model.model.patch_embed.proj.weight"] == pytest.approx(blocks[0] / 2)
    assert blocks[-1] == 0.5
    assert rates["classifier.weight"] == 3.0


def test_wrong_settings_are_refused(net: Net) -> None:
    with pytest.raises(ConfigError, match="norms"):
        parameter_groups(net, 1e-3, no_decay=["norms"])
    with pytest.raises(ConfigError, match="head_lr"):
        parameter_groups(net, 1e-3, head_lr=0)
    with pytest.raises(ConfigError, match="layer_decay=null"):
        parameter_groups(nn.ModuleDict({"backbone": nn.Linear(2, 2)}), 1e-3, layer_decay=0.9)
