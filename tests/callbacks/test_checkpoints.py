import json
import math
from types import SimpleNamespace

import pytest
import torch
from lightning import Callback

from seglab.callbacks.checkpoints import Checkpoints
from seglab.callbacks.ema import EMA
from seglab.callbacks.progress import Progress
from seglab.callbacks.status import Status
from seglab.errors import ConfigError
from seglab.metrics import ConfusionMatrix
from seglab.runs import atomic
from seglab.scores import Score


def test_best_is_the_best_validation_and_last_the_last_step(fit, toy, tmp_path):
    fit(tmp_path, module=toy(scores=[0.3, 0.7, 0.5]), max_steps=6, val_every=2)
    saved = {p.stem: torch.load(p, weights_only=True) for p in (tmp_path / "checkpoints").iterdir()}
    assert saved.keys() == {"best", "last"}
    assert (saved["best"]["global_step"], saved["last"]["global_step"]) == (4, 6)


def test_nan_is_never_the_best(fit, toy, tmp_path):
    callback = Checkpoints()
    fit(tmp_path, module=toy(scores=[math.nan, 0.2, math.nan]), max_steps=6, val_every=2, checkpoints=callback)
    assert callback.best == pytest.approx(0.2)
    assert callback.best_step == 4


def test_a_resumed_run_does_not_replace_the_best_by_less(fit, toy, tmp_path):
    fit(tmp_path, module=toy(scores=[0.8]), max_steps=2, val_every=2)
    last = tmp_path / "checkpoints/last.ckpt"
    fit(tmp_path, module=toy(scores=[0.4]), max_steps=4, val_every=2, resume=last)
    assert torch.load(tmp_path / "checkpoints/best.ckpt", weights_only=True)["global_step"] == 2


def test_the_last_step_is_saved_without_any_validation(fit, tmp_path):
    fit(tmp_path, max_steps=5, limit_val_batches=0)
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 5


def test_an_unknown_monitor_is_refused_with_what_is_logged(fit, tmp_path):
    with pytest.raises(ConfigError, match=r"val/miou.*val/mIoU"):
        fit(tmp_path, checkpoints=Checkpoints(monitor="val/miou"), max_steps=4)


def test_a_full_disk_ends_the_run_unless_the_save_is_periodic_and_may_be_missed(fit, tmp_path, monkeypatch):
    full = {3}

    def save(self, checkpoint, path, storage_options=None):
        if checkpoint["global_step"] in full:
            raise atomic.DiskFull("no space")

    monkeypatch.setattr("seglab.checkpoint.AtomicCheckpointIO.save_checkpoint", save)
    with pytest.raises(atomic.DiskFull):
        fit(tmp_path, checkpoints=Checkpoints(every_n_steps=3), max_steps=4)
    trainer, _ = fit(tmp_path, checkpoints=Checkpoints(every_n_steps=3, on_error="warn"), max_steps=4)
    assert trainer.global_step == 4
    full.add(5)
    with pytest.raises(atomic.DiskFull):  # the last one always counts
        fit(tmp_path, checkpoints=Checkpoints(every_n_steps=3, on_error="warn"), max_steps=5)


@pytest.mark.parametrize("stop", [3, 4, 6])  # periodic, at a validation, both
@pytest.mark.parametrize(("accumulate", "averaged"), [(1, False), (2, True)])
def test_going_on_from_any_saved_step_ends_with_the_same_bits(fit, weights, tmp_path, stop, accumulate, averaged):
    class Halt(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if trainer.global_step == stop and batch_idx % accumulate == 0:
                raise RuntimeError("power cut")

    def extra():
        return [EMA(0.9)] if averaged else []

    options = {"accumulate": accumulate, "val_every": 2}
    fit(tmp_path / "whole", *extra(), **options)
    with pytest.raises(RuntimeError, match="power cut"):
        fit(tmp_path / "parts", *extra(), Halt(), **options)
    fit(tmp_path / "parts", *extra(), resume=tmp_path / "parts/checkpoints/last.ckpt", **options)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[k], parts[k]) for k in whole)


# --- what is monitored


ERROR = Score("error", "min", "percent")


class Wrong(ConfusionMatrix):
    """Errors of the validations to come, in place of the true ones."""

    given = ()

    def compute(self):
        return {"error": self.given.pop(0), "custom": 1.0}


@pytest.fixture
def about_errors(toy):
    """``about_errors(*errors)``: the toy, whose task is about a number of which less is better."""

    def make(*errors):
        module = toy()
        module.task.headline = ERROR
        module.task.metrics["confusion"] = Wrong(3)
        module.task.metrics["confusion"].given = list(errors)
        return module

    return make


def test_unless_told_otherwise_the_headline_is_monitored_in_its_direction(fit, toy, about_errors, tmp_path):
    callback = Checkpoints()
    fit(tmp_path / "a", module=toy(scores=[0.3, 0.7, 0.5]), max_steps=6, val_every=2, checkpoints=callback)
    assert (callback.monitor, callback.mode, callback.found) == ("val/mIoU", "max", {"best/mIoU": pytest.approx(0.7)})
    callback = Checkpoints()
    fit(tmp_path / "b", module=about_errors(0.4, 0.2, 0.3), max_steps=6, val_every=2, checkpoints=callback)
    assert (callback.monitor, callback.mode, callback.best_step) == ("val/error", "min", 4)
    assert callback.found == {"best/error": pytest.approx(0.2)}
    assert torch.load(tmp_path / "b/checkpoints/best.ckpt", weights_only=True)["global_step"] == 4


def test_the_progress_and_the_status_say_it_in_its_unit(fit, about_errors, tmp_path, caplog):
    with caplog.at_level("INFO", "seglab"):
        fit(tmp_path, Progress(), Status(), module=about_errors(0.4, 0.25), max_steps=4, val_every=2,
            enable_progress_bar=True)  # fmt: skip
    assert "validation at step 4: error 25.00 %" in caplog.text
    best = json.loads((tmp_path / "status.json").read_text())["best"]
    assert best == {"val/error": 0.25, "step": 4, "mode": "min", "name": "error", "unit": "percent"}


@pytest.mark.parametrize(
    ("monitor", "mode", "mend"), [(None, "min", "max"), ("val/loss", "max", "min"), ("train/main", "max", "min")]
)
def test_a_mode_that_contradicts_the_score_is_refused_with_the_key_that_mends_it(
    fit, toy, tmp_path, monitor, mode, mend
):
    module = toy()
    module.task.criterion = SimpleNamespace(terms={"main": None})
    with pytest.raises(
        ConfigError, match=f"mode={mode} .*keep the worst.*set callbacks.checkpoints.mode={mend}, or null"
    ):
        fit(tmp_path, module=module, checkpoints=Checkpoints(monitor, mode), max_steps=4)


def test_of_a_value_that_nobody_knows_the_mode_is_asked_for(fit, about_errors, tmp_path):
    with pytest.raises(ConfigError, match=r"monitor=val/custom: whether more or less.*mode=max or min.*val/error"):
        fit(tmp_path, module=about_errors(0.1), checkpoints=Checkpoints("val/custom"), max_steps=4)
    callback = Checkpoints("val/custom", "min")
    fit(tmp_path, module=about_errors(0.1), checkpoints=callback, max_steps=4)
    assert (callback.score, callback.found) == (Score("custom", "min"), {"best/custom": 1.0})


def test_no_best_is_kept_where_none_is_wanted(fit, tmp_path):
    callback = Checkpoints(best=False)
    fit(tmp_path, checkpoints=callback, max_steps=4)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]
    assert callback.found == {}


def test_a_resumed_run_that_monitors_something_else_has_no_best_yet():
    state = {"best": 0.8, "best_step": 3, "monitor": "val/mIoU"}
    same, other = Checkpoints("val/mIoU"), Checkpoints("val/loss")
    same.load_state_dict(state)
    other.load_state_dict(state)
    assert (same.best, other.best) == (0.8, None)
