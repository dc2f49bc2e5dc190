"""docs/binary.md is what happens: its script, its refusal and its commands, with fewer steps of a smaller network."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seglab import build, cli, evaluate, predict, train
from seglab.errors import DataError
from tests import pages
from tests.conftest import SMALL_NET
from tests.pages import ROOT

PAGE = (ROOT / "docs/binary.md").read_text()
QUICK = [
    *SMALL_NET,
    "trainer.max_steps=2",
    "trainer.accelerator=cpu",
    "data.num_workers=0",
    "logger=none",
    "overwrite=true",
]


def commands(module: str) -> list[list[str]]:
    """The overrides of every command line of a module, as the shell hands them on."""
    return [list(command.arguments) for command in pages.commands(PAGE, module)]


@pytest.fixture
def blobs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(pages.blocks(PAGE, "python")[0], "blobs.py", "exec"), {})
    return tmp_path / "blobs"


def trained(overrides: list[str]) -> dict:
    kept = [override for override in overrides if not override.startswith("hydra.run.dir=")]
    train.fit(cli.compose("train", [*kept, *QUICK, "run_dir=binary"]), "binary")
    return json.loads(Path("binary/metrics.json").read_text())


def test_the_page_is_true_from_the_masks_to_the_masks(blobs):
    bare, mapped = commands("seglab.train")
    assert "hydra.run.dir=binary" in mapped
    with pytest.raises(DataError) as caught:
        trained(bare)
    assert str(caught.value) == pages.blocks(PAGE, "text")[0].strip()
    metrics = trained(mapped)
    assert metrics["test/split"] == "test"
    assert metrics["test/classes"] == 2

    (overrides,) = commands("seglab.predict")
    predict.predict_images(cli.compose("predict", [*overrides, "device=cpu"]))
    masks = [np.asarray(Image.open(path)) for path in Path("predicted/index").iterdir()]
    assert len(masks) == 16
    assert set(np.unique(masks)) <= {0, 255}

    (overrides,) = commands("seglab.evaluate")
    assert evaluate.score(cli.compose("evaluate", [*overrides, "trainer.accelerator=cpu", "images=0"]))["mIoU"] >= 0


STORED = {
    "0, 1 and 255": lambda i, mask: mask // 255,
    "some files with 1 and others with 255": lambda i, mask: mask if i % 2 else mask // 255,
    "black and white as RGB": lambda i, mask: np.dstack([mask] * 3),
}


@pytest.mark.parametrize("how", STORED)
def test_other_ways_to_store_masks_are_read_as_the_page_says(blobs, how):
    (row,) = re.findall(rf"^\| {how}.*", PAGE, re.MULTILINE)
    (override,) = re.findall(r"`'?(data\.dataset\.[^`']*)'?`", row)
    for i, path in enumerate(sorted((blobs / "labels").rglob("*.png"))):
        Image.fromarray(STORED[how](i, np.asarray(Image.open(path)))).save(path)
    config = cli.compose("train", [*commands("seglab.train")[0], override, "run_dir=binary"])
    data = build.build_data(config)
    data.setup("fit")
    assert {int(k) for label in (data.items("train").read(i).label for i in range(8)) for k in np.unique(label)} == {
        0,
        1,
    }
