"""Composed configurations and small runs, as every test of the whole needs them."""

from __future__ import annotations

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from seglab import cli

torch.set_num_threads(1)  # the tests run side by side

TINY = [
    "data.dataset.size=[48,64]", "data.dataset.lengths={train: 24, val: 3, test: 5}", "data.batch_size=4", "data.num_workers=0",
    "augment.scale=null", "augment.crop=[48,64]",
    "trainer.max_steps=2", "trainer.val_check_interval=1", "trainer.accelerator=cpu",
]  # fmt: skip
"""The embedded scenes, very small."""
SMALL_NET = ["backbone.name=test_resnet.r160_in1k", "decoder.width=16"]


@pytest.fixture
def compose(tmp_path):
    """``compose("train", [overrides]) -> plain dict`` as the command line would resolve it."""

    def composed(name: str, overrides: list[str]) -> dict:
        cli.register_resolvers()
        with hydra.initialize_config_dir(str(cli.conf_dir()), version_base="1.3"):
            cfg = hydra.compose(
                name, overrides=[*overrides, f"hydra.runtime.output_dir={tmp_path}"], return_hydra_config=True
            )
            OmegaConf.set_struct(cfg, False)
            hydra_cfg = cfg.pop("hydra")
        # What `${hydra:...}` points to does not exist outside hydra.main.
        text = OmegaConf.to_yaml(cfg).replace("${hydra:runtime.output_dir}", str(tmp_path))
        assert "${hydra:" not in text, hydra_cfg and text
        return OmegaConf.to_container(OmegaConf.create(text), resolve=True)

    return composed
