import csv
import json
import math

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from seglab.callbacks.class_table import ClassTable
from seglab.errors import ConfigError


def test_each_validation_leaves_its_table_and_prints_it(fit, tmp_path, capsys):
    _, module = fit(tmp_path, ClassTable(), max_steps=8, val_every=4)
    assert sorted(p.name for p in (tmp_path / "tables").iterdir()) == [
        f"val_{step:06d}.{kind}" for step in (4, 8) for kind in ("csv", "json")
    ]
    rows = list(csv.DictReader((tmp_path / "tables/val_000008.csv").open()))
    assert [row["class"] for row in rows] == ["sky", "road", "tree"]
    assert [float(row["IoU"]) for row in rows] == module.results.values["IoU"]
    written = json.loads((tmp_path / "tables/val_000008.json").read_text())
    assert written["mIoU"] == module.results.values["mIoU"]
    assert torch.tensor(written["matrix"]).equal(module.results.values["matrix"])
    printed = capsys.readouterr().out
    assert "val at step 8" in printed
    assert "road" in printed


def test_a_class_that_does_not_occur_is_null_and_not_zero(fit, toy, tmp_path):
    class Absent(toy):
        def on_validation_epoch_end(self):
            super().on_validation_epoch_end()
            self.results.values["IoU"][1] = math.nan

    fit(tmp_path, ClassTable(), module=Absent(), max_steps=4)
    assert json.loads((tmp_path / "tables/val_000004.json").read_text())["IoU"][1] is None
    assert list(csv.DictReader((tmp_path / "tables/val_000004.csv").open()))[1]["IoU"] == ""


def test_many_classes_are_printed_as_one_line(fit, tmp_path, capsys):
    fit(tmp_path, ClassTable(max_rows=2), max_steps=4)
    printed = capsys.readouterr().out
    assert "mIoU" in printed
    assert "road" not in printed


def test_tensorboard_gets_a_curve_per_class_and_the_matrix(fit, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(str(tmp_path), "tensorboard", "")
    _, module = fit(tmp_path, ClassTable(), max_steps=4, logger=logger)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (road,) = events.Scalars("val/IoU/road")
    assert road.step == 4
    assert road.value == pytest.approx(module.results.values["IoU"][1])
    assert len(events.Images("val/confusion")) == 1


def test_a_negative_number_of_rows_is_refused():
    with pytest.raises(ConfigError, match="max_rows"):
        ClassTable(max_rows=-1)


def test_no_figure_is_drawn_for_a_logger_that_shows_none(fit, tmp_path, monkeypatch):
    def drawn(*_):
        raise AssertionError("half a second for nobody")

    monkeypatch.setattr("seglab.visualize.confusion_figure", drawn)
    fit(tmp_path, ClassTable(), max_steps=4)
    assert (tmp_path / "tables/val_000004.csv").is_file()
