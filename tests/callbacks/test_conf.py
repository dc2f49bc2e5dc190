"""Every file in conf/callbacks and conf/logger makes what it names."""

import hydra
import pytest
from hydra.utils import instantiate
from lightning import Callback
from lightning.pytorch.loggers import Logger
from omegaconf import OmegaConf

from seglab.cli import conf_dir

FILES = [(kind, path.stem) for kind in ("callbacks", "logger") for path in sorted((conf_dir() / kind).glob("*.yaml"))]


@pytest.mark.parametrize(("kind", "name"), FILES)
def test_a_shipped_choice_can_be_built(kind, name, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        chosen = hydra.compose(f"{kind}/{name}")[kind] or {}
    for node in chosen.values():
        if node is not None:
            if "save_dir" in node:
                node.save_dir = str(tmp_path)
            made = instantiate(node, _convert_="all")
            assert isinstance(made, Callback if kind == "callbacks" else Logger)


def test_none_means_no_logger():
    assert not OmegaConf.load(conf_dir() / "logger/none.yaml")
