"""The auxiliary head: logits of an inner stage, and the loss term that comes with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from seglab.decoders import AuxiliaryFCN
from seglab.errors import ConfigError

CONF = Path(__file__).parents[2] / "conf"
MAPS = [torch.randn(2, c, 32 // s, 48 // s) for c, s in zip((8, 12, 16, 20), (4, 8, 16, 32), strict=True)]


def test_logits_have_the_size_of_the_stage_before_the_last() -> None:
    head = AuxiliaryFCN((8, 12, 16, 20), (4, 8, 16, 32), 5, width=16)
    assert head(MAPS).shape == (2, 5, 2, 3)
    assert head.stride == 16


def test_it_drops_channels_in_training_only() -> None:
    head = AuxiliaryFCN((8, 12, 16, 20), (4, 8, 16, 32), 5, width=64, dropout=0.5)
    assert not torch.equal(head(MAPS), head(MAPS))
    assert torch.equal(head.eval()(MAPS), head(MAPS))


def test_a_stage_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="stage -5"):
        AuxiliaryFCN((8, 12, 16, 20), (4, 8, 16, 32), 5, stage=-5)


def test_the_option_brings_its_loss_term() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        chosen, without = compose("auxiliary/fcn"), compose("auxiliary/none")
    head = instantiate(chosen.auxiliary, _convert_="all")(
        channels=(8, 12, 16, 20), strides=(4, 8, 16, 32), num_classes=5
    )
    assert head.decoder.out_channels == 256
    assert (chosen.loss.aux.branch, chosen.loss.aux.weight, chosen.loss.aux.average) == ("auxiliary", 0.4, "all")
    assert without.auxiliary is None
    assert "loss" not in without
