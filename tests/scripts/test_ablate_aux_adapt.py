"""The ablation of AuxAdapt evaluates every row once and keeps a table."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image

from seglab import build, checkpoint, cli
from tests.pages import script

ablation = script("ablate_aux_adapt")
NET = ["backbone.name=test_resnet.r160_in1k", "decoder.width=16"]


@pytest.fixture
def runs(tmp_path):
    """A folder of two videos, and the checkpoints of two untrained networks."""
    folder, generator = tmp_path / "videos", np.random.default_rng(0)
    for split, name, frame in product(("train", "val"), ("a", "b"), ("f8", "f9")):
        for kind, high, shape in (("images", 255, (64, 64, 3)), ("labels", 3, (64, 64))):
            (folder / kind / split / name).mkdir(parents=True, exist_ok=True)
            values = generator.integers(0, high, shape).astype(np.uint8)
            Image.fromarray(values).save(folder / kind / split / name / f"{frame}.png")
    (folder / "classes.txt").write_text("red\ngreen\nblue\n")
    made = []
    for seed in (0, 1):
        common = ["data=folder", f"data.root={folder}", "data.splits.test=val", "data.num_workers=0", f"seed={seed}"]
        config = cli.compose("train", [*common, "data.batch_size=1", "run_dir=.", *NET])
        module = build.build_training(config, build.build_data(config).spec)
        content = {"state_dict": module.state_dict(), "global_step": 7}
        checkpoint.embed(content, module.config, module.task.spec, module.task.TRAINING_PARTS)
        made.append(tmp_path / f"{seed}.ckpt")
        torch.save(content, made[-1])
    return made


def test_every_row_is_evaluated_once_with_its_time(runs, tmp_path, monkeypatch):
    evaluated = []
    score = ablation.evaluate.score
    monkeypatch.setattr(ablation.evaluate, "score", lambda options: evaluated.append(options) or score(options))
    rows = {name: ablation.ROWS[name] for name in ("main", "frozen ensemble", "AuxAdapt")}
    monkeypatch.setattr(ablation, "ROWS", rows)
    output = tmp_path / "out"
    typed = ["--main", str(runs[0]), "--aux", str(runs[1]), "--output", str(output), "--rates", "1", "--frames", "2"]
    typed += ["split=val", "trainer.accelerator=cpu"]
    ablation.main(typed)
    found = json.loads((output / "results.json").read_text())["rows"]
    assert list(found) == ["main", "frozen ensemble", "AuxAdapt", "AuxAdapt, lr 1"]
    assert len(evaluated) == 4
    assert all(row["frame_ms"] > 0 and 0 <= row["mIoU"] <= 1 for row in found.values())
    assert len({row["mIoU"] for row in found.values()}) > 2
    lines = (output / "results.md").read_text().splitlines()
    assert len(lines) == 6
    assert f"{found['main']['mIoU']:.4f}" in lines[2]
    ablation.main([*typed, "--frames", "0"])
    assert len(evaluated) == 4, "what is there is not evaluated again"


def test_the_rows_are_those_that_the_paper_is_compared_with():
    made = ablation.rows((0.1,), "AUX")
    assert made["adapting main"][1] == "predictor.refine.target=main"
    assert made["AuxAdapt, lr 0.1"][1] == "predictor.refine.optimizer.lr=0.1"
    assert all(("predictor.aux=AUX" in row) == (row[0] == "predictor=aux_adapt") for row in made.values())
    for row in made.values():
        cli.compose("evaluate", ["ckpt=x", *row])
