"""Hostile and first data, from the files to the numbers: what trains, what is reported, what is refused."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from PIL import Image

from seglab import cli, train
from tests.conftest import SMALL_NET

QUICK = [
    "data=folder", "data.num_workers=0", "data.batch_size=2", "augment.crop=[32,32]", "logger=none",
    "trainer.max_steps=1", "trainer.val_check_interval=1", "trainer.accelerator=cpu",
]  # fmt: skip


@pytest.fixture
def root(tmp_path):
    """An empty data set of two classes."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/classes.txt").write_text("background\nobject\n")
    return tmp_path / "data"


@pytest.fixture
def add(root):
    """``add(split, *labels)`` writes each label [H, W] with an image; files are counted, or named by ``name``."""

    def write(split: str, *labels: np.ndarray, name: str = "{}") -> None:
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for i, label in enumerate(labels):
            noise = np.random.default_rng(i).integers(0, 256, (*label.shape, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / "images" / split / f"{name.format(i)}.png")
            Image.fromarray(label.astype(np.uint8)).save(root / "labels" / split / f"{name.format(i)}.png")

    return write


@pytest.fixture
def fit(root, tmp_path):
    """``fit(*overrides) -> metrics`` of one step, in ``run``."""

    def run(*overrides: str) -> dict:
        common = [*QUICK, *SMALL_NET, f"data.root={root}", f"run_dir={tmp_path / 'run'}"]
        train.fit(cli.compose("train", [*common, *overrides]), tmp_path / "run")
        return json.loads((tmp_path / "run/metrics.json").read_text())

    return run


def checks(size: tuple[int, int] = (40, 40), ids: tuple[int, ...] = (0, 1)) -> np.ndarray:
    """[H, W] of ids in turn."""
    return np.resize(ids, size[0] * size[1]).reshape(size)


def test_without_a_test_split_nothing_is_tested_and_one_line_says_so(add, fit, tmp_path, caplog, capsys):
    add("train", *[checks()] * 2)
    add("val", checks())
    with caplog.at_level(logging.INFO):
        metrics = fit()
    assert [key for key in metrics if key.startswith("test")] == []
    assert not list((tmp_path / "run/tables").glob("test_*"))
    (line,) = [record.getMessage() for record in caplog.records if "no test" in record.getMessage()]
    assert line == "no test: folder has no split test, only train, val — add it, or set data.splits.test=val"
    assert "test at" not in capsys.readouterr().out
    assert fit("data.splits.test=null")["val/mIoU"] == metrics["val/mIoU"]


def test_a_test_split_is_scored_where_there_is_one(add, fit, caplog, capsys):
    for split in ("train", "val", "test"):
        add(split, *[checks()] * 2)
    with caplog.at_level(logging.INFO):
        metrics = fit()
    assert metrics["test/split"] == "test"
    assert "test: split test, 2 images" in caplog.messages
    assert "test at step 1" in capsys.readouterr().out


def test_a_test_of_the_validated_split_says_that_it_is(add, fit, caplog, capsys):
    add("train", *[checks()] * 2)
    add("val", checks())
    with caplog.at_level(logging.INFO):
        metrics = fit("data.splits.test=val")
    assert metrics["test/split"] == "val"
    assert metrics["test/mIoU"] == metrics["val/mIoU"]
    assert "test: split val, 1 images, which is also validated on" in caplog.messages
    printed = capsys.readouterr().out
    assert "test (split val)" in printed
    assert "val at step 1" in printed


def test_an_unknown_choice_of_weights_to_test_is_refused_before_training(add, fit, tmp_path):
    add("train", *[checks()] * 2)
    add("val", checks())
    with pytest.raises(train.ConfigError, match="test='newest' — expected last, best or null"):
        fit("test=newest")
    assert not (tmp_path / "run").exists()
