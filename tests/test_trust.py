"""A configuration from a file is data: nothing in it is resolved, and it names parts of networks only."""

import pytest

from seglab import build, trust
from seglab.errors import CheckpointError, ConfigError

NODE = {"_target_": "seglab.decoders.FPN", "norm": {"_target_": "seglab.decoders.blocks.group_norm"}}


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "torch.nn.functional.torch.hub.load",
        "seglab.build.hydra.main",
        "seglab.backbones.weights.fetch",
        "seglab.backbones.weights.read",
        "seglab.backbones.adapter.create",
        "seglab.backbones.Timm.maps",
        "seglab.decoders.blocks.nn.Module.__class__",
        "torch.nn.utils.rnn.PackedSequence",
        "seglab.losses.Dice",
    ],
)
def test_what_is_no_class_of_a_part_is_refused(target):
    with pytest.raises(CheckpointError, match=rf"a\.ckpt: its decoder names {target}.*trust=true"):
        trust.check({"decoder": {"deep": [{"_target_": target}]}}, ["decoder"], "a.ckpt")


def test_parts_of_networks_and_of_losses_may_be_named():
    trust.check({"decoder": NODE}, ["decoder", "heads"], "a.ckpt")
    losses = {
        "loss": {
            "dice": {"_target_": "seglab.losses.Dice", "weight": {"_target_": "seglab.losses.schedules.LinearRamp"}}
        }
    }
    trust.check(losses, ["loss"], "a.ckpt")


def test_arguments_without_names_are_refused():
    with pytest.raises(CheckpointError, match="_args_"):
        trust.check({"backbone": {"_target_": "seglab.backbones.Timm", "_args_": ["resnet18"]}}, ["backbone"], "a.ckpt")


@pytest.mark.parametrize(
    ("node", "key"),
    [
        ({"a": {"b": "${c}"}}, "a.b"),
        ({"a": [1, {"b": "x ${oc.env:HOME} y"}]}, r"a\[1\]\.b"),
        ({"a": {"${oc.env:HOME}": 1}}, r"a\.\$\{oc\.env:HOME\}"),
        ({"a": r"\\${c}"}, "a"),
    ],
)
def test_an_interpolation_is_refused_wherever_it_stands(node, key):
    with pytest.raises(CheckpointError, match=rf"a\.ckpt: {key}="):
        trust.refuse_interpolations(node, "a.ckpt")
    trust.refuse_interpolations({"a": ["$", "{", "$ {x}", 1, None, True]}, "a.ckpt")


def test_weights_are_named_nowhere_in_a_network():
    timm = {"_target_": "seglab.backbones.Timm", "pretrained": True, "weights": "/etc/passwd"}
    config = {"backbone": timm, "classifier": {"deep": [{"er": timm}]}, "loss": {"weights": "kept"}, "seed": 1}
    neutral = {**timm, "pretrained": False, "weights": None}
    expected = {"backbone": neutral, "classifier": {"deep": [{"er": neutral}]}, "loss": {"weights": "kept"}, "seed": 1}
    assert trust.without_weights(config) == expected


@pytest.mark.parametrize("node", [{"a": "${oc.env:HOME}"}, {"a": [{"b": "x${c}"}]}, {"a": {"${b}": 1}}])
def test_building_resolves_nothing(node):
    with pytest.raises(ConfigError, match=r"part\.a"):
        build.instantiate({"_target_": "collections.OrderedDict", **node}, "part")
