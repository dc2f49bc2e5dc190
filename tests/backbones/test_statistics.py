"""Normalisation is a property of the backbone's weights."""

from __future__ import annotations

import pytest
import timm

from seglab.backbones import Timm, statistics

IMAGENET = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
HALF = [127.5] * 3, [127.5] * 3


def of(**node: str) -> tuple[list[float], list[float]]:
    return statistics.of(node, "mean"), statistics.of(node, "std")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", IMAGENET),
        ("swin_tiny_patch4_window7_224.ms_in1k", IMAGENET),
        ("tf_efficientnet_lite0.in1k", HALF),
        ("vit_small_patch16_224.augreg_in21k", HALF),
        ("vit_base_patch16_clip_224.openai", tuple([round(255 * x, 6) for x in v] for v in (
            (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)))),
        ("no_such_network", IMAGENET),  # refused where it is built
    ],
)  # fmt: skip
def test_a_timm_network_has_those_of_its_weights(name, expected):
    assert of(_target_="seglab.backbones.Timm", name=name) == expected


def test_a_tag_tells_weights_of_one_network_apart():
    tags = ("vit_large_patch14_clip_224.openai", "vit_large_patch14_clip_224.laion2b")
    means = [of(_target_="seglab.backbones.Timm", name=name)[0] for name in tags]
    assert means[0] != means[1]
    assert means[1] == [round(255 * x, 6) for x in timm.get_pretrained_cfg(tags[1]).mean]


class Mine:
    @staticmethod
    def statistics(node):
        return {"mean": (0.1, 0.2, float(node["red"])), "std": (1, 1, 0.5)}


def test_a_backbone_of_ones_own_can_say_so_and_else_is_normalised_as_imagenet(monkeypatch):
    monkeypatch.setattr(Timm, "statistics", Mine.statistics)
    assert of(_target_="seglab.backbones.Timm", red="0.4") == ([25.5, 51.0, 102.0], [255.0, 255.0, 127.5])
    assert of(_target_="torch.nn.Identity") == of(_target_="nothing.There") == of() == IMAGENET


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], IMAGENET),
        (["backbone=efficientnet_lite0"], HALF),
        (["backbone=vit_small", "normalize=imagenet"], IMAGENET),
        (["backbone=vit_small", "normalize.mean=[1,2,3]"], ([1, 2, 3], HALF[1])),
    ],
)
def test_the_configuration_follows_the_backbone_unless_told_otherwise(compose, overrides, expected):
    node = compose("train", ["run_dir=.", *overrides])["normalize"]
    assert (node["mean"], node["std"]) == expected
