"""docs/extending is what happens: each page's files, saved under their names, train with the page's command."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import seglab
from seglab import build, checkpoint, cli
from seglab.types import IGNORE, Batch, Evaluated, Output
from tests.commands import Done, run
from tests.conftest import SMALL_NET, TINY
from tests.pages import ROOT, commands, files
from tests.predicting import network, photograph

PAGES = {path.stem: path for path in (ROOT / "docs/extending").glob("*.md") if path.stem != "README"}


@pytest.fixture
def project(tmp_path):
    """A folder with the files of every page, as a user with all of them would have it."""
    for page in PAGES.values():
        for name, text in files(page).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "my_project"]:
        del sys.modules[name]


def shown(name: str, module: str = "seglab.train", number: int = 0) -> tuple[str, ...]:
    """The arguments of a command that the page shows."""
    return commands(PAGES[name], module)[number].arguments


def execute(project: Path, *arguments: str, module: str = "seglab.train", check: bool = True) -> Done:
    return run(*arguments, cwd=project, module=module, env={"PYTHONPATH": str(project)}, check=check)


def trained(project: Path, name: str, *more: str, net: list[str] = SMALL_NET, number: int = 0) -> dict:
    """Metrics of a tiny run of the page's command, in the folder ``run``."""
    execute(project, *shown(name, number=number), *TINY, *net, "hydra.run.dir=run", *more)
    return json.loads((project / "run/metrics.json").read_text())


def logged(project: Path) -> dict[str, list[float]]:
    """The columns of metrics.csv, without their gaps."""
    rows = list(csv.DictReader((project / "run/metrics.csv").open()))
    return {key: [float(row[key]) for row in rows if row[key]] for key in rows[0]}


def stored(project: Path) -> dict[str, torch.Tensor]:
    return checkpoint.open_file(project / "run/checkpoints/last.ckpt")[0]


def test_every_page_has_a_file_of_each_kind_and_a_command():
    assert PAGES.keys() >= {"classifier", "decoder", "head", "loss", "metric", "dataset", "predictor", "task"}
    for name, page in PAGES.items():
        assert {path.rsplit(".", 1)[1] for path in files(page)} == {"py", "yaml"}, name
        assert commands(page), name


def test_a_classifier(project):
    assert trained(project, "classifier")["test/mIoU"] >= 0
    assert stored(project)["classifier.scale"] != 5, "it learns from its start"

    Image.new("RGB", (64, 48), (90, 120, 30)).save(project / "a.png")
    (command,) = commands(PAGES["classifier"], "seglab.predict")
    typed = {"RUN": "run", "photos": "a.png"}
    arguments = [f"{key}={typed.get(value, value)}" for key, value in (a.split("=", 1) for a in command.arguments)]
    assert arguments[-1] == "trust=true"
    refused = execute(project, *arguments[:-1], module="seglab.predict", check=False)
    assert refused.returncode == 2
    assert "my_project.scaled.Scaled" in refused.stderr
    assert "trust=true" in refused.stderr
    execute(project, *arguments, module="seglab.predict")
    assert (project / "predicted/index/a.png").is_file()


def test_a_decoder(project):
    trained(project, "decoder", net=SMALL_NET[:1])
    loaded = seglab.load(project / "run", trust=True)
    assert type(loaded.model.decoder).__name__ == "Weighted"
    assert loaded.model.decoder.out_channels == 64
    image = torch.rand(2, 3, 48, 64)
    with torch.no_grad():
        assert loaded.model(image).read("level_weights") is None
        weights = loaded.model(image, wanted=frozenset({"level_weights"})).read("level_weights")
    assert weights.shape[1:] == (len(loaded.model.decoder.channels), 48 // 4, 64 // 4)
    torch.testing.assert_close(weights.sum(1), torch.ones(2, 12, 16))


def test_a_head(project, monkeypatch):
    trained(project, "head", number=1)
    columns = logged(project)
    assert all(value > 0 for value in columns["train/detail"])
    assert "train/aux" in columns, "several heads at once"
    assert any(name.startswith("heads.detail.") for name in stored(project))
    assert not any("heads" in name for name in seglab.load(project / "run", trust=True).model.state_dict())

    monkeypatch.chdir(project)
    monkeypatch.syspath_prepend(project)
    for weight, built in {"0.1": {"detail"}, "0": set()}.items():
        where, choice, last = shown("head")
        assert last == "loss.detail.weight=0.1"
        cfg = cli.compose("train", [where, choice, f"loss.detail.weight={weight}", *SMALL_NET, "run_dir=."])
        task = build.build_task(cfg, build.build_data(cfg).spec, build.build_criterion(cfg))
        assert set(task.model.heads) == built


def test_a_loss(project):
    trained(project, "loss")
    columns = logged(project)
    for stage in ("train", "val"):
        assert all(0 < value < 1 for value in columns[f"{stage}/tversky"])
    # main has weight 1, the new term what its file says
    expected = [main + 0.5 * own for main, own in zip(columns["train/main"], columns["train/tversky"], strict=True)]
    assert columns["train/loss"] == pytest.approx(expected)

    from my_project.tversky import Tversky

    logits = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    label = torch.randint(3, (2, 8, 8))
    label[:, :3] = IGNORE
    moved = logits.detach().clone()
    moved[:, :, 0] += 7  # its pixels reach void rows only
    batch = Batch(image=torch.zeros(2, 3, 8, 8), label=label, names=("a", "b"))
    term = Tversky(align_corners=False)
    assert term(Output(logits=logits), batch).item() == pytest.approx(term(Output(logits=moved), batch).item())
    perfect = torch.nn.functional.one_hot(torch.randint(3, (1, 8, 8)), 3).permute(0, 3, 1, 2) * 100.0
    same = Batch(image=batch.image[:1], label=perfect.argmax(1), names=("a",))
    assert term(Output(logits=perfect), same).item() == pytest.approx(0, abs=1e-6)
    nothing = Batch(image=batch.image, label=torch.full_like(label, IGNORE), names=("a", "b"))
    value = term(Output(logits=logits), nothing)
    value.backward()
    assert value == 0
    assert logits.grad.isfinite().all()


def test_a_metric(project):
    metrics = trained(project, "metric")
    assert 0 <= metrics["test/image_mIoU"] <= 1
    assert "val/image_mIoU" in logged(project)
    assert "test/mIoU" in metrics

    arguments = [a.replace("ckpt=RUN", "ckpt=run/checkpoints/last.ckpt") for a in shown("metric", "seglab.evaluate")]
    execute(project, *arguments, "output=evaluated", "trainer.accelerator=cpu", module="seglab.evaluate")
    again = json.loads((project / "evaluated/metrics.json").read_text())
    assert again["test/image_mIoU"] == pytest.approx(metrics["test/image_mIoU"])

    from my_project.image_iou import ImageIoU

    metric = ImageIoU(2)
    label = torch.tensor([[[0, 0, 1, IGNORE]], [[0, 0, 0, 0]]])
    ids = torch.tensor([[[0, 1, 1, 1]], [[0, 0, 0, 0]]])
    scores = torch.nn.functional.one_hot(ids, 2).permute(0, 3, 1, 2).float()
    metric.update(Evaluated(batch=Batch(image=scores, label=label, names=("a", "b")), scores=scores))
    assert metric.compute()["image_mIoU"] == pytest.approx((0.5 + 1) / 2)


def test_a_data_set(project):
    generator = np.random.default_rng(0)
    for split, count in {"train": 8, "val": 3}.items():
        (project / "ORCHARD" / split).mkdir(parents=True)
        for i in range(count):
            label = generator.integers(0, 4, (6, 8), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            colours = np.array([(0, 0, 0), (120, 180, 80), (40, 90, 40), (220, 40, 40)], np.uint8)
            Image.fromarray(colours[label]).save(project / f"ORCHARD/{split}/{i}.jpg")
            Image.fromarray(label).save(project / f"ORCHARD/{split}/{i}_mask.png")
    quick = [entry for entry in TINY if not entry.startswith("data.dataset")]
    execute(project, *shown("dataset"), *quick, *SMALL_NET, "hydra.run.dir=run")
    loaded = seglab.load(project / "run")
    assert loaded.spec.classes == ("grass", "tree", "fruit")
    assert "val/mIoU" in logged(project)

    refused = execute(project, *shown("dataset"), *quick, "data.root=nowhere", "hydra.run.dir=refused", check=False)
    assert refused.returncode == 2
    assert "{train,val}/<name>_mask.png" in refused.stderr
    Image.fromarray(np.full((48, 64), 9, np.uint8)).save(project / "ORCHARD/train/0_mask.png")
    refused = execute(project, *shown("dataset"), *quick, "data.check=full", "hydra.run.dir=refused", check=False)
    assert refused.returncode == 2
    assert "0_mask.png: ids 9" in refused.stderr


def test_a_task(project):
    found = trained(project, "task", net=SMALL_NET[:1])
    assert 0 <= found["test/presence_error"] <= 1
    assert found["best/presence_error"] == min(logged(project)["val/presence_error"])
    assert json.loads((project / "run/scores.json").read_text())["headline"]["direction"] == "min"
    assert len(found["test/error"]) == 12

    typed = [
        "ckpt=run/checkpoints/last.ckpt",
        "output=out",
        "trainer.accelerator=cpu",
        "images=1",
        "metrics=presence",
        "trust=true",
    ]
    execute(project, *typed, "hydra.searchpath=[file://my_conf]", module="seglab.evaluate")
    again = json.loads((project / "out/metrics.json").read_text())
    assert again["test/presence_error"] == pytest.approx(found["test/presence_error"])
    assert len(list((project / "out/images").rglob("*.png"))) == 1


def test_a_predictor(project):
    """It adapts to each video anew, and moves the predictions to the classes that are certain already."""
    network(project / "RUN")
    for path in ("a/f0.png", "a/f1.png", "b/f0.png"):
        photograph(project / "videos" / path)
    execute(
        project, *shown("predictor", "seglab.predict"), "trust=true", "predictor.refine.lr=50", module="seglab.predict"
    )
    first, second, other = (
        np.array(Image.open(project / f"predicted/index/{name}.png")) for name in ("a/f0", "a/f1", "b/f0")
    )
    assert (first == other).all()
    assert (first != second).any(), "the same image, after one step"
