"""The inverse-transformation network: its matrices, its parts, what it is given."""

from __future__ import annotations

import math

import pytest
import torch

from seglab.errors import ConfigError
from seglab.models.inverse_net import MLP, Convolutional, InverseNet, Transformations
from seglab.models.normalise import Normalise


def network(net) -> InverseNet:
    return InverseNet(Normalise([0.0] * 3, [1.0] * 3), net)


@pytest.mark.parametrize("parameters", [4, 6, 8])
def test_the_vector_0_is_the_identity_and_a_1_is_half_of_a_range(parameters):
    transformations = Transformations(parameters)
    vector = torch.zeros(1, parameters)
    assert torch.equal(transformations.matrix(vector)[0], torch.eye(3))
    shifted, scaled = vector.clone(), vector.clone()
    shifted[0, :2] = torch.tensor([1.0, -0.5])
    scaled[0, 2:4] = torch.tensor([1.0, -1.0])
    torch.testing.assert_close(transformations.matrix(shifted)[0, :2, 2], torch.tensor([0.15, -0.075]))
    torch.testing.assert_close(transformations.matrix(scaled)[0].diagonal(), torch.tensor([1.15, 0.85, 1.0]))


def test_angles_shear_and_perspective_stand_where_they_belong():
    vector = torch.zeros(3, 8)
    vector[0, 4] = vector[1, 5] = vector[2, 6] = 1
    turned, sheared, seen = Transformations(8).matrix(vector)
    angle = math.radians(10)
    expected = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    torch.testing.assert_close(turned[:2, :2], torch.tensor(expected))
    torch.testing.assert_close(sheared, torch.tensor([[1.0, 0.1, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    torch.testing.assert_close(seen[2], torch.tensor([0.05, 0.0, 1.0]))


@pytest.mark.parametrize("net", [MLP(16, (10,)), Convolutional(16), Convolutional(17, widths=(4, 4))], ids=str)
def test_it_gives_vectors_and_their_matrices_and_the_truth_where_it_is_shown(net):
    model = network(net)
    tiles = torch.rand(3, 2, model.tile, model.tile)
    output = model(tiles)
    assert output.logits.shape == (3, 4)
    torch.testing.assert_close(output.theta, model.transformations.matrix(output.logits))
    assert output.truth is output.true_theta is None
    truth = torch.zeros(3, 4)
    shown = model(tiles, truth)
    assert torch.equal(shown.truth, truth)
    assert torch.equal(shown.true_theta, torch.eye(3).expand(3, 3, 3))


def test_the_prediction_comes_first():
    tiles = torch.rand(1, 2, 16, 16)
    model = network(MLP(16, (10,)))
    by_hand = model.inverse_net.fc(torch.cat([tiles[:, 0].flatten(1), tiles[:, 1].flatten(1)], 1))
    torch.testing.assert_close(model(tiles).logits, by_hand)


@pytest.mark.parametrize("shape", [(1, 2, 32, 32), (1, 3, 16, 16), (1, 2, 16, 15)])
def test_tiles_of_another_size_are_refused(shape):
    with pytest.raises(ConfigError, match=r"tiles of 16x16.*loss\.inverse\.network\.path.*inverse_net\.tile"):
        network(MLP(16, (10,)))(torch.rand(shape))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Transformations(5), "parameters=5"),
        (lambda: Transformations(4, shift=0.0), "transformations.shift=0"),
        (lambda: Transformations(8, perspective=0.9), "transformations.perspective=0.9"),
        (lambda: MLP(4), "inverse_net.tile=4"),
        (lambda: Convolutional(16, widths=(0,)), "inverse_net.widths=0"),
    ],
)
def test_options_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        wrong()
