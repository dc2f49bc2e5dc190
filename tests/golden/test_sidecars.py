"""A reference file cannot pass for having been computed in a way that the tests did not look at."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from tests.golden.conftest import Golden


@pytest.fixture
def golden(tmp_path):
    """``golden(**config)``: a reference file of that configuration."""

    def write(**config):
        save_file({"feat": torch.zeros(2, 3, 4, 5)}, tmp_path / "a.safetensors")
        (tmp_path / "a.json").write_text(json.dumps({"note": "made up", "config": config}))
        return Golden(tmp_path / "a.json")

    return write


def test_an_option_is_handed_to_the_test_that_asks_for_it(golden):
    assert golden(B=2, head_align_corners=True).understand("head_align_corners", "dropout") == {
        "head_align_corners": True
    }


def test_an_option_that_no_test_asks_for_fails(golden):
    with pytest.raises(AssertionError, match="head_align_corners.*does not understand"):
        golden(B=2, head_align_corners=True).understand("dropout")


@pytest.mark.parametrize("config", [{"B": 3}, {"C": 2}, {"feat_hw": [5, 4]}, {"ignore_index": 0}])
def test_a_fact_that_the_tensors_contradict_fails(golden, config):
    golden(B=2, C=3, feat_hw=[4, 5], ignore_index=255).understand()
    with pytest.raises(AssertionError):
        golden(**config).understand()
