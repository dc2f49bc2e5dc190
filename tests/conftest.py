"""Composed configurations and small runs, as every test of the whole needs them."""

from __future__ import annotations

import importlib
import json
import logging
import signal
import sys
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from hydra.core.singleton import Singleton

from seglab import cli
from seglab.run import REASONS

torch.set_num_threads(1)  # the tests run side by side

TINY = [
    "data.dataset.size=[48,64]", "data.dataset.lengths={train: 24, val: 3, test: 5}", "data.batch_size=4", "data.num_workers=0",
    "augment.scale=null", "augment.crop=[48,64]",
    "trainer.max_steps=2", "trainer.val_check_interval=1", "trainer.accelerator=cpu",
]  # fmt: skip
"""The embedded scenes, very small."""
SMALL_NET = ["backbone.name=test_resnet.r160_in1k", "decoder.width=16"]


@lru_cache
def composed_once(overrides: tuple[str, ...]) -> str:
    """A training's configuration as JSON, for a run folder to be filled in."""
    return json.dumps(cli.compose("train", [*overrides, "run_dir=RUN_DIR"]))


def tiny(folder: Path, *overrides: str) -> dict:
    """The configuration of a tiny run in a folder; composing it costs as much as some of its steps."""
    text = composed_once((*TINY, *SMALL_NET, *overrides))
    return json.loads(text.replace('"RUN_DIR"', json.dumps(str(folder))))


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """``command("seglab.train", "seed=1") -> (exit code, stdout, stderr)``: a command of ours, in this process."""

    def run(module: str, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        for stream in ("stdout", "stderr"):  # they are wrapped
            monkeypatch.setattr(sys, stream, getattr(sys, stream))
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # it is changed
        monkeypatch.chdir(tmp_path)
        before, root = Singleton.get_state(), logging.getLogger()
        handlers, level, signals = root.handlers[:], root.level, {n: signal.getsignal(n) for n in REASONS}
        try:
            importlib.import_module(module).main()
            code = 0
        except SystemExit as left:
            code = left.code or 0
        finally:
            Singleton.set_state(before)
            root.handlers[:], root.level = handlers, level
            for number, handler in signals.items():
                signal.signal(number, handler)
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def compose(tmp_path):
    """``compose("train", [overrides]) -> plain dict`` as the command line would resolve it."""

    def composed(name: str, overrides: list[str]) -> dict:
        return cli.compose(name, [*overrides, *([f"run_dir={tmp_path}"] if name == "train" else [])])

    return composed
