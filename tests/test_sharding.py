"""Sharding, in a group of one process; tests/test_train.py has two processes."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from seglab.build import instantiate
from seglab.errors import ConfigError
from seglab.sharding import FullySharded, renamed, split, units, whole
from seglab.trainer import refuse_whole_network
from tests.conftest import SMALL_NET, network


@pytest.fixture
def mesh(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def block(size: int) -> nn.Module:
    return nn.Sequential(nn.Linear(size, size, bias=False))


def found(module: nn.Module) -> list[str]:
    return [name for name, child in module.named_modules() if isinstance(child, FSDPModule)]


def test_blocks_of_a_stage_that_are_large_enough_become_units_innermost_first(mesh):
    net = nn.Module()
    net.stages = nn.ModuleList([nn.Sequential(block(4), block(10)), nn.Sequential(block(3), block(3))])
    net.attention = nn.Linear(20, 20)  # may be read instead of called
    left = units(net, mesh, least=16)
    assert found(net) == ["stages.0.0.0", "stages.0.1.0", "stages.1"]
    assert left == 20 * 20 + 20


def test_a_split_network_computes_what_it_computed_whole(mesh, compose):
    made = compose("train", ["classifier=ssa", "decoder=upernet", "decoder.width=16", *SMALL_NET])
    image = torch.randn(1, 3, 64, 64)
    plain = network(made, 3).eval()
    net = network(made, 3).eval()
    net.load_state_dict(plain.state_dict())
    split(net, mesh, unit=1000)
    assert len(found(net)) > 4
    assert all(isinstance(parameter, DTensor) for parameter in net.parameters())
    for _ in range(2):
        logits = net(image).logits
        torch.testing.assert_close(logits, plain(image).logits)
        logits.square().mean().backward()
    plain(image).logits.square().mean().backward()
    for mine, theirs in zip(net.parameters(), plain.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(whole(mine.grad), 2 * theirs.grad, rtol=1e-4, atol=1e-6)


def test_a_network_is_whole_in_an_evaluation_and_split_again_after_it(mesh, compose):
    net = network(compose("train", ["decoder=upernet", "decoder.width=16", *SMALL_NET]), 3).eval()
    split(net, mesh, unit=1000)
    strategy, image = FullySharded(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = net(image).logits
        strategy.gather(net)
        for _ in range(2):
            torch.testing.assert_close(net(image).logits, expected)
            assert not any(isinstance(parameter, DTensor) for parameter in net.parameters())
        strategy.release(net)
        assert all(isinstance(parameter, DTensor) for parameter in net.parameters())
        torch.testing.assert_close(net(image).logits, expected)


@pytest.mark.parametrize("name", ["ema", "loss_components", "prototype_report"])
def test_a_callback_that_needs_all_of_the_network_is_refused(name, compose):
    node = compose("train", [f"callbacks={name}"])["callbacks"][name]
    with pytest.raises(ConfigError, match=rf"callbacks\.{name} .*trainer=ddp.*~callbacks\.{name}"):
        refuse_whole_network({name: instantiate(node, name)})


def test_an_optimisers_state_is_renamed_everywhere():
    state = {"state": {1: "b", 0: "a"}, "param_groups": [{"lr": 1, "params": [1]}, {"lr": 2, "params": [0]}]}
    assert renamed(state, {0: "x", 1: "y"}) == {
        "state": {"y": "b", "x": "a"},
        "param_groups": [{"lr": 1, "params": ["y"]}, {"lr": 2, "params": ["x"]}],
    }


def test_a_unit_without_parameters_is_refused_by_its_key():
    with pytest.raises(ConfigError, match=r"trainer\.strategy\.unit"):
        FullySharded(unit=0)
