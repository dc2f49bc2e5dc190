import math

import pytest
import torch
from lightning import Callback

from seglab.callbacks.checkpoints import Checkpoints
from seglab.callbacks.ema import EMA
from seglab.errors import ConfigError
from seglab.runs import atomic


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
