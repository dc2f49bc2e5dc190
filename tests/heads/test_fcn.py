"""The auxiliary head: logits of an inner stage, and the loss term that comes with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from seglab.errors import ConfigError
from seglab.heads import FCNHead
from seglab.types import Output

CONF = Path(__file__).parents[2] / "conf"
CHANNELS = {"backbone.0": 8, "backbone.1": 12, "backbone.2": 16, "backbone.3": 20, "feature": 24}
STRIDES = {"backbone.0": 4, "backbone.1": 8, "backbone.2": 16, "backbone.3": 32, "feature": 4}
FEATURES = {name: torch.randn(2, c, 32 // STRIDES[name], 48 // STRIDES[name]) for name, c in CHANNELS.items()}
OUTPUT = Output(logits=torch.zeros(2, 5, 8, 12))


def made(outputs=None, **options) -> FCNHead:
    return FCNHead(CHANNELS, STRIDES, outputs or {"aux": 5}, **options)


def test_logits_have_the_size_of_the_stage_before_the_last() -> None:
    head = made(width=16)
    assert head(FEATURES, OUTPUT).shape == (2, 5, 2, 3)
    assert head.stride == 16


def test_it_has_the_channels_that_its_loss_term_wants() -> None:
    assert made({"edge": 1}, stage=0)(FEATURES, OUTPUT).shape == (2, 1, 8, 12)


def test_it_drops_channels_in_training_only() -> None:
    head = made(width=64, dropout=0.5)
    assert not torch.equal(head(FEATURES, OUTPUT), head(FEATURES, OUTPUT))
    assert torch.equal(head.eval()(FEATURES, OUTPUT), head(FEATURES, OUTPUT))


def test_a_stage_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="stage -5"):
        made(stage=-5)


def test_a_second_branch_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"aux\.a, aux\.b"):
        made({"aux.a": 5, "aux.b": 5})


def test_the_option_brings_its_loss_term() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        chosen, without = compose("heads/fcn"), compose("heads/none")
    head = instantiate(chosen.heads.aux, _convert_="all")(channels=CHANNELS, strides=STRIDES, outputs={"aux": 5})
    assert head.decoder.out_channels == 256
    assert (chosen.loss.aux.branch, chosen.loss.aux.weight, chosen.loss.aux.average) == ("aux", 0.4, "all")
    assert without.heads == {}
    assert "loss" not in without
