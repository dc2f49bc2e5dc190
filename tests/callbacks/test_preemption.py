import json
import os
import signal

import pytest
import torch
from lightning import Callback

from seglab.callbacks.ema import EMA
from seglab.callbacks.preemption import Preemption
from seglab.callbacks.status import Status
from seglab.runs.folder import RunFolder
from seglab.runs.signals import Interrupted, Preempted


class Send(Callback):
    """Sends a signal to this process at a batch."""

    def __init__(self, batch, number=signal.SIGTERM, hook="on_train_batch_start", times=1):
        self.batch, self.number, self.times = batch, number, times
        setattr(self, hook, self.send)

    def send(self, trainer, module, *rest):
        if trainer.fit_loop.total_batch_idx == self.batch:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)
                signal.getsignal(self.number)  # a call, so that the interpreter delivers it here


@pytest.mark.parametrize(
    ("number", "kind", "status", "code"),
    [
        (signal.SIGTERM, Preempted, "preempted", 143),
        (signal.SIGUSR1, Preempted, "preempted", 143),
        (signal.SIGINT, Interrupted, "interrupted", 130),
    ],
)
def test_a_signal_saves_the_step_and_leaves_with_its_code(fit, tmp_path, number, kind, status, code):
    with pytest.raises(kind) as stopped, RunFolder(tmp_path):
        fit(tmp_path, Preemption(), Send(4, number), Status())
    assert stopped.value.code == code
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 5
    written = json.loads((tmp_path / "status.json").read_text())
    assert (written["status"], written["exit_code"], written["step"]) == (status, code, 5)


@pytest.mark.parametrize(
    ("hook", "batch"),
    [
        *(("on_train_batch_start", batch) for batch in (2, 3, 5, 7)),
        *(("on_validation_batch_start", b) for b in (3, 7, 9)),
    ],
)
def test_a_preempted_run_ends_with_the_same_bits(fit, weights, tmp_path, batch, hook):
    options = {"accumulate": 2, "val_every": 1, "max_steps": 5}
    fit(tmp_path / "whole", EMA(0.9), **options)
    with pytest.raises(Preempted):
        fit(tmp_path / "parts", Preemption(), EMA(0.9), Send(batch, hook=hook), **options)
    fit(tmp_path / "parts", Preemption(), EMA(0.9), resume=tmp_path / "parts/checkpoints/last.ckpt", **options)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[k], parts[k]) for k in whole)


def test_half_an_accumulated_step_is_finished_first(fit, tmp_path):
    with pytest.raises(Preempted):
        fit(tmp_path, Preemption(), Send(2), accumulate=2, max_steps=5)
    content = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert content["global_step"] == 2
    assert content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"] == 4


def test_a_second_signal_stops_at_once(fit, tmp_path):
    with pytest.raises(Preempted):
        fit(tmp_path, Preemption(), Send(1, times=2))
    assert not (tmp_path / "checkpoints/last.ckpt").exists()


def test_the_previous_handlers_come_back(fit, tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    fit(tmp_path, Preemption())
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_slurm_is_asked_to_run_the_job_again(fit, tmp_path, monkeypatch):
    command = tmp_path / "scontrol"
    command.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    with pytest.raises(Preempted):
        fit(tmp_path, Preemption(), Send(1, signal.SIGUSR1))
    assert (tmp_path / "asked").read_text() == "requeue 77\n"
