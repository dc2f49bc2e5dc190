"""Composed configurations and small runs, as every test of the whole needs them."""

from __future__ import annotations

import copy
import gc
import importlib.util
import json
import os
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from hydra._internal.config_repository import ConfigRepository
from hydra.plugins.config_source import ConfigResult

from seglab import build, cli
from seglab.data.scenes.renderer import Frame
from seglab.data.scenes.source import Scenes
from seglab.runs import atomic
from seglab.train import fit

# The tests run side by side, and so do the processes that they start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)
gc.set_threshold(50_000)  # composing makes and drops objects by the hundred thousand

TINY = [
    "data.dataset.size=[48,64]", "data.dataset.lengths={train: 24, val: 3, test: 5}", "data.batch_size=4", "data.num_workers=0",
    "augment.long_short=null", "augment.crop=[48,64]",
    "trainer.max_steps=2", "trainer.val_check_interval=1", "trainer.accelerator=cpu",
]  # fmt: skip
"""The embedded scenes, very small."""
CLASSIFIED = [
    "data.batch_size=8", "data.eval_batch_size=8", "data.num_workers=0", "backbone.name=test_resnet.r160_in1k",
    "trainer.max_steps=2", "trainer.val_check_interval=1", "trainer.accelerator=cpu",
]  # fmt: skip
"""Whole images of CIFAR-10 in miniature; ``data.root`` is the fixture ``cifar10``."""
PAIRED = [
    "data.dataset.size=[64,64]", TINY[1], "data.batch_size=4", "data.num_workers=0", "augment.crop=[64,64]",
    "inverse_net.tile=32", "task.windows=2",
    "trainer.max_steps=2", "trainer.val_check_interval=1", "trainer.accelerator=cpu",
]  # fmt: skip
"""Label maps of ``task=inverse_net``, few and small."""
SMALL_NET = ["backbone.name=test_resnet.r160_in1k", "decoder.width=16"]


def options(group: str) -> list[str]:
    """The options of a configuration group, so that a new one is tested without being listed."""
    return sorted(path.stem for path in (cli.conf_dir() / group).glob("*.yaml"))


@pytest.fixture(autouse=True, scope="session")
def parsed_once():
    """Every file of ``conf`` is read once in a process: that is a third of what composing takes, a thousand times."""
    read, known, own = ConfigRepository.load_config, {}, str(cli.conf_dir())

    def load(repository: ConfigRepository, config_path: str) -> ConfigResult | None:
        if {each.path for each in repository.get_sources() if each.scheme() == "file"} != {own}:
            return read(repository, config_path)
        if config_path not in known:
            known[config_path] = read(repository, config_path)
        return copy.deepcopy(known[config_path])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigRepository, "load_config", load)
        yield


render, rendered = Scenes.frame, {}


def frame(scenes: Scenes, split: str, index: int, time: float = 0.0) -> Frame:
    """A frame that is rendered once, with arrays of its own."""
    if index >= scenes.lengths[split]:
        return render(scenes, split, index, time)
    key = (scenes.size, scenes.seed, scenes.noise, scenes.variation, split, index, time)
    if key not in rendered:
        rendered[key] = render(scenes, split, index, time)
    return copy.deepcopy(rendered[key])


@pytest.fixture(autouse=True)
def rendered_once(request, monkeypatch):
    """Hundreds of tiny runs see the same two dozen scenes; the tests of scenes render their own."""
    if "scenes" not in request.path.parts:
        monkeypatch.setattr(Scenes, "frame", frame)


@pytest.fixture(autouse=True, scope="session")
def no_power_cut():
    """Files are not forced to the disk: that is for a power cut, and thousands of times it takes as long as the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atomic.os, "fsync", lambda handle: None)
        yield


def each(names: list[str], *first: str) -> list:
    """Cases of a test: some now, the others with ``-m slow``."""
    assert set(first) <= set(names)
    return [name if name in first else pytest.param(name, marks=pytest.mark.slow) for name in names]


@lru_cache
def composed_once(overrides: tuple[str, ...]) -> str:
    """A training's configuration as JSON, for a run folder to be filled in."""
    cfg = cli.compose("train", [*overrides, "run_dir=RUN_DIR"])
    images = (cfg["callbacks"] or {}).get("images")
    if images and TINY[0] in overrides and not any(each.startswith("callbacks.images") for each in overrides):
        images.update(count=1, width=40)  # drawing four of them takes as long as some steps
    return json.dumps(cfg)


def tiny(folder: Path, *overrides: str) -> dict:
    """The configuration of a tiny run in a folder; composing it costs as much as some of its steps."""
    return in_folder(composed_once((*TINY, *SMALL_NET, *overrides)), folder)


def in_folder(text: str, folder: Path) -> dict:
    """A configuration that was composed once, for a run folder."""
    return json.loads(text.replace("RUN_DIR", json.dumps(str(folder))[1:-1]))


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory):
    """``trained_once(task)``: the run folder of a tiny network of a task, for options that start from one."""

    @lru_cache
    def trained(task: str) -> Path:
        folder = tmp_path_factory.mktemp("trained") / "run"
        small = PAIRED if task == "inverse_net" else [*TINY, *SMALL_NET]
        fit(in_folder(composed_once((f"task={task}", *small, "test=null", "trainer.max_steps=1")), folder), folder)
        return folder

    return trained


@pytest.fixture
def compose(tmp_path):
    """``compose("train", [overrides]) -> plain dict`` as the command line would resolve it."""

    def composed(name: str, overrides: list[str]) -> dict:
        return in_folder(composed_once(tuple(overrides)), tmp_path) if name == "train" else cli.compose(name, overrides)

    return composed


def network(config: dict, num_classes: int):
    """The deployed network of a configuration, untrained."""
    return build.task_class(config).assemble(build.Maker(config, num_classes, None))


@pytest.fixture(scope="session")
def cifar10(tmp_path_factory) -> Path:
    """The root of a generated miniature of the official files."""
    spec = importlib.util.spec_from_file_location("miniature", cli.conf_dir().parent / "scripts/cifar10_miniature.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    root = tmp_path_factory.mktemp("cifar10")
    script.write(root, per_class=4)
    return root
