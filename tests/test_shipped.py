"""Networks that come with the package."""

from __future__ import annotations

import json

import pytest

import seglab
from seglab import checkpoint
from seglab.errors import CheckpointError
from tests.commands import run


def test_they_are_small_whole_and_name_no_place(tmp_path):
    files = [path for path in checkpoint.WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 2 * 2**20
    for folder in checkpoint.WEIGHTS.iterdir():
        assert seglab.load(f"seglab:{folder.name}").model is not None  # its checksum is verified
        assert not [
            text for text in json.dumps(json.loads((folder / "config.json").read_text())).split('"') if text[:1] == "/"
        ]


def test_an_unknown_name_is_answered_with_those_that_there_are():
    with pytest.raises(CheckpointError, match="inverse_net"):
        seglab.load("seglab:nothing")


def test_the_inverse_network_is_accepted_as_a_loss(tmp_path):
    options = ["trainer.limit_test_batches=4", "trainer.accelerator=cpu", "images=0", "data.num_workers=0"]
    run("ckpt=seglab:inverse_net", f"output={tmp_path / 'out'}", *options, cwd=tmp_path, module="seglab.evaluate")
    found = json.loads((tmp_path / "out/metrics.json").read_text())
    assert found["test/accepted"] == 1
    assert found["test/R2"] > 0.8
