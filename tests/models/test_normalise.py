from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from seglab.errors import ConfigError
from seglab.models.normalise import Normalise

IMAGENET = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
CIFAR = {"mean": [125.307, 122.961, 113.8575], "std": [51.5865, 50.847, 51.255]}
LEVELS = torch.arange(256, dtype=torch.uint8).expand(3, 16, 256).contiguous()


def table(mean, std) -> torch.Tensor:
    """[3, 256] of each level, as the data side computed it until images stayed uint8."""
    levels = np.arange(256, dtype=np.float32)[:, None]
    return torch.from_numpy(((levels - np.array(mean, "f4")) / np.array(std, "f4")).T.copy())


@pytest.mark.parametrize("options", [IMAGENET, CIFAR])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_every_level_is_the_same_number_bit_for_bit_as_by_the_table(options, memory_format):
    found = Normalise(**options)(LEVELS[None].contiguous(memory_format=memory_format))
    assert found.dtype == torch.float32
    assert torch.equal(found, table(**options)[None, :, None].expand_as(found))
    assert found.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("lead", [(), (2,), (2, 4)])
def test_any_leading_dimensions(lead):
    assert Normalise(**IMAGENET)(torch.zeros(*lead, 3, 4, 5, dtype=torch.uint8)).shape == (*lead, 3, 4, 5)


def test_a_floating_image_is_normalised_already():
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        image = torch.randn(1, 3, 4, 5, dtype=dtype)
        assert Normalise(**IMAGENET)(image) is image


def test_a_network_in_half_precision_neither_rounds_nor_stores_the_numbers():
    expected = table(**IMAGENET)[:, None]
    network = nn.Sequential(Normalise(**IMAGENET), nn.Conv2d(3, 1, 1))
    assert set(network.state_dict()) == {"1.weight", "1.bias"}
    assert not list(network[0].buffers())
    for change in (
        nn.Module.half,
        nn.Module.double,
        lambda m: m.to(torch.bfloat16),
        lambda m: m.to(memory_format=torch.channels_last),
        lambda m: m.to("meta").to_empty(device="cpu"),
        copy.deepcopy,
        lambda m: pickle.loads(pickle.dumps(m)),
        nn.Module.share_memory,
    ):
        found = change(network)[0](LEVELS)
        assert found.dtype == torch.float32
        assert torch.equal(found, expected.expand_as(found))


def test_it_moves_with_the_network_and_follows_an_image_elsewhere():
    moved = Normalise(**IMAGENET).to("meta")
    assert moved(torch.zeros(3, 4, 5, dtype=torch.uint8, device="meta")).device.type == "meta"
    if torch.cuda.is_available():
        expected = table(**IMAGENET)[:, None]
        for made in (Normalise(**IMAGENET), Normalise(**IMAGENET).cuda().half()):
            found = made(LEVELS.cuda())
            assert torch.equal(found.cpu(), expected.expand_as(found))


def test_it_can_be_compiled_whole():
    compiled = torch.compile(Normalise(**IMAGENET), fullgraph=True, backend="eager")
    assert torch.equal(compiled(LEVELS), Normalise(**IMAGENET)(LEVELS))


@pytest.mark.parametrize("options", [IMAGENET, CIFAR])
def test_a_normalised_image_can_be_shown(options):
    normalise = Normalise(**options)
    assert torch.equal(normalise.to_uint8(normalise(LEVELS)), LEVELS)
    assert normalise.to_uint8(LEVELS) is LEVELS
    assert normalise.to_uint8(torch.tensor([-99.0, 99.0]).expand(3, 1, 2))[0, 0].tolist() == [0, 255]


def test_the_fill_colour_is_the_rounded_mean():
    assert Normalise(**IMAGENET).fill == (124, 116, 104)
    assert Normalise([-3, 300, 0], [1, 1, 1]).fill == (0, 255, 0)


@pytest.mark.parametrize(
    ("key", "wrong"),
    [("std", [0, 1, 1]), ("std", [-1, 1, 1]), ("std", [1, 1]), ("mean", [1]), ("mean", [float("nan"), 0, 0])],
)
def test_numbers_that_cannot_be_meant_are_refused_by_their_key(key, wrong):
    with pytest.raises(ConfigError, match=rf"normalize\.{key}=\[.*expected three numbers"):
        Normalise(**{**IMAGENET, key: wrong})
