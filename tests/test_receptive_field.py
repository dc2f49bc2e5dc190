"""The effective receptive field of networks whose field is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from seglab import benchmark
from seglab.errors import ConfigError
from seglab.receptive_field import calibrate, draw, measure, sides


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


def test_it_is_drawn(tmp_path):
    network = convolutions(2)
    draw({"a": measure(network, network, (31, 41), images=1)}, "title", tmp_path / "a.png")
    assert np.asarray(Image.open(tmp_path / "a.png")).std() > 0


def test_the_command_takes_its_own_key_and_measures_every_variant():
    assert benchmark.field_of(["seed=1", "receptive_field=true"]) == (["seed=1"], "backbone")
    assert benchmark.field_of(["receptive_field=logits"]) == ([], "logits")
    assert benchmark.field_of(["seed=1"]) == (["seed=1"], None)
    with pytest.raises(ConfigError, match="receptive_field=heads — expected one of backbone, logits"):
        benchmark.field_of(["receptive_field=heads"])
    chosen = benchmark.variants(["backbone.name=test_resnet.r160_in1k", "decoder=last,fpn"])
    for of in ("backbone", "logits"):
        found, notes = benchmark.receptive_fields(chosen, of, (64, 64), 3, torch.device("cpu"), 1)
        assert list(found) == ["decoder=last, initial weights", "decoder=fpn, initial weights"]
        assert notes == []
    assert found["decoder=fpn, initial weights"].size != found["decoder=last, initial weights"].size


def test_weights_are_measured_beside_the_initial_ones_where_a_configuration_asks_for_them():
    cfg = {"backbone": {"name": "a", "pretrained": True, "weights": None}}
    assert list(benchmark.starts(cfg)) == ["initial", "pretrained"]
    assert benchmark.starts(cfg)["initial"]["backbone"]["pretrained"] is False
    assert list(benchmark.starts({"backbone": {"name": "a", "pretrained": False}})) == ["initial"]
