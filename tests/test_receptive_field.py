"""The effective receptive field of networks whose field is known."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from seglab import benchmark
from seglab.errors import ConfigError
from seglab.receptive_field import asked, calibrate, measure, of_networks, sides, starts


def convolutions(number: int, dilation: int = 1) -> nn.Sequential:
    """Each pixel of a window counts the same; channels differ so that no signs can cancel them."""
    layers = [nn.Conv2d(3 if i == 0 else 4, 4, 3, padding=dilation, dilation=dilation) for i in range(number)]
    for layer in layers:
        layer.weight.data[:] = 2.0 ** torch.arange(4)[:, None, None, None]
    return nn.Sequential(*layers)


@pytest.mark.parametrize(("number", "dilation"), [(1, 1), (2, 1), (1, 3)])
def test_nothing_outside_of_the_theoretical_field_counts(number, dilation):
    network = convolutions(number, dilation)
    found = measure(network, network, (31, 41), images=2)
    reach = number * dilation
    rows, columns = np.nonzero(found.gradient)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (15 - reach, 15 + reach, 20 - reach, 20 + reach)


def test_one_convolution_of_equal_weights_has_its_own_size():
    network = convolutions(1)
    found = measure(network, network, (31, 41), images=1)
    assert found.size == pytest.approx(3)
    assert found.sides == {0.5: 3, 0.95: 3}
    assert found.gradient.max() == 1


def test_squares_hold_their_share():
    gradient = np.zeros((9, 9))
    gradient[4, 4], gradient[4, 6], gradient[0, 0] = 6, 3, 1
    assert sides(gradient, [0.6, 0.61, 0.9, 0.95]) == {0.6: 1, 0.61: 5, 0.9: 5, 0.95: 9}


def test_a_branch_that_training_has_not_opened_counts_and_one_that_it_has_is_left_alone():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    nn.init.zeros_(network[1].weight)
    network[2].num_batches_tracked += 1
    nn.init.zeros_(network[2].weight)
    image = torch.randn(2, 3, 16, 16) + 5
    network.eval()
    calibrate(network, image)
    assert network[1].weight.tolist() == [1] * 4
    torch.testing.assert_close(network[1].running_mean, network[0](image).mean((0, 2, 3)))
    assert network[2].weight.tolist() == [0] * 4
    assert network[2].running_mean.tolist() == [0] * 4
    assert not network[1].training
    assert network[1].momentum == 0.1


def test_parameters_are_trainable_afterwards_and_a_constant_is_refused():
    network = convolutions(1)
    measure(network, network, (9, 9), images=1)
    assert all(p.requires_grad for p in network.parameters())
    with pytest.raises(ConfigError, match="depends on no pixel"):
        measure(network, lambda image: 0 * network(image), (9, 9), images=1)


def test_the_command_takes_its_own_key():
    assert asked(["seed=1", "receptive_field=true"]) == (["seed=1"], "backbone")
    assert asked(["receptive_field=logits"]) == ([], "logits")
    assert asked(["receptive_field=false"]) == ([], None)
    assert asked(["seed=1"]) == (["seed=1"], None)
    with pytest.raises(ConfigError, match="receptive_field=heads — expected one of backbone, logits"):
        asked(["receptive_field=heads"])


def test_the_command_measures_every_variant_and_keeps_what_it_prints(tmp_path, monkeypatch, capsys):
    words = ["receptive_field=logits", "backbone.name=test_resnet.r160_in1k", "decoder=last,fpn"]
    options = ["--size", "64", "64", "--classes", "3", "--rounds", "1", "--json", "a.json", "--image", "a.png"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["benchmark", *words, *options])
    benchmark.main()
    kept = json.loads(Path("a.json").read_text())
    last, fpn = kept["variants"]
    assert [last["variant"], fpn["variant"]] == ["decoder=last, initial weights", "decoder=fpn, initial weights"]
    assert last["size_px"] != fpn["size_px"]
    printed = capsys.readouterr().out
    assert all(f"{each['size_px']:.0f}" in printed and each["variant"] in printed for each in kept["variants"])
    assert np.asarray(Image.open("a.png")).std() > 0


def test_a_backbones_field_is_that_of_its_coarsest_map_and_weights_that_cannot_be_had_are_said(compose):
    words = ["backbone.name=test_resnet.r160_in1k", "decoder=last", "backbone.weights=absent.pth", "run_dir=."]
    found = of_networks({"a": compose("train", words)}, "backbone", (64, 64), 3, torch.device("cpu"), 1)
    assert list(found.fields) == ["a, initial weights"]
    (note,) = found.left_out
    assert note.startswith("a, pretrained weights: left out. absent.pth is not a file")
    assert starts({"backbone": {"name": "a", "pretrained": False}}).keys() == {"initial"}
