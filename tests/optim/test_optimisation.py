"""From conf/optim to an optimiser and its schedule."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn

from seglab.backbones import Timm
from seglab.errors import ConfigError
from seglab.optim import Optimisation, poly

CONF = Path(__file__).parents[2] / "conf"


def network() -> nn.Module:
    return nn.ModuleDict({"backbone": Timm("test_vit"), "classifier": nn.Conv2d(64, 3, 1)})


def load(name: str, *overrides: str) -> Optimisation:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose(f"optim/{name}", overrides=list(overrides)).optim, _convert_="all")


@pytest.mark.parametrize("path", sorted((CONF / "optim").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_option_makes_an_optimiser_that_steps(path: Path) -> None:
    model = network()
    made = load(path.stem)(model, 100)
    assert made["lr_scheduler"]["interval"] == "step"
    assert made["lr_scheduler"]["scheduler"].optimizer is made["optimizer"]
    before = model["classifier"].weight.clone()
    for _ in range(2):
        sum(x.square().mean() for x in model["backbone"](torch.randn(2, 3, 32, 32))).backward()
        model["classifier"](torch.randn(2, 64, 2, 2)).sum().backward()
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    assert not torch.equal(before, model["classifier"].weight)


def test_published_recipes_are_what_the_papers_state() -> None:
    swin = load("adamw_swin")(network(), 160_000)
    options = swin["optimizer"].defaults
    assert isinstance(swin["optimizer"], torch.optim.AdamW)
    assert (options["lr"], options["betas"], options["weight_decay"]) == (6e-5, (0.9, 0.999), 0.01)
    rate = swin["lr_scheduler"]["scheduler"].lr_lambdas[0]
    assert [rate(0), rate(1500), rate(80_000), rate(160_000)] == pytest.approx([1e-6, 1 - 1500 / 160_000, 0.5, 0.0])
    sgd = load("sgd")(network(), 160_000)
    assert isinstance(sgd["optimizer"], torch.optim.SGD)
    assert all(
        (g["initial_lr"], g["momentum"], g["weight_decay"]) == (0.01, 0.9, 5e-4) for g in sgd["optimizer"].param_groups
    )
    rate = sgd["lr_scheduler"]["scheduler"].lr_lambdas[0]
    assert [rate(0), rate(160_000)] == pytest.approx([1.0, 0.01])


def test_numbers_from_the_command_line_reach_the_groups() -> None:
    groups = load("adamw_swin", "optim.head_lr=10", "optim.optimizer.lr=1e-4")(network(), 10)["optimizer"].param_groups
    assert {g["name"]: g["initial_lr"] for g in groups}["head"] == pytest.approx(1e-3)


def test_a_rate_that_is_no_number_is_refused() -> None:
    for lr in ("1e-3", float("nan"), -1.0, True):
        with pytest.raises(ConfigError, match=r"optim\.optimizer\.lr"):
            Optimisation(partial(torch.optim.AdamW, lr=lr), poly)
