"""Leaves a run in order when the machine is wanted for something else, or the user presses Ctrl-C."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from seglab.callbacks.base import OfTraining
from seglab.callbacks.checkpoints import folder
from seglab.runs.signals import REASONS

log = logging.getLogger(__name__)


class Preemption(Checkpoint, OfTraining):
    """At SIGTERM, SIGUSR1 (SLURM's warning) or Ctrl-C, saves at the next whole optimiser step and stops.

    Exit code 143, or 130 for Ctrl-C; ``resume=auto`` goes on from there. A second signal stops at once. Inside
    validation nothing needs saving: :class:`Checkpoints` did that before it began, and a run that goes on makes it
    anew. (A Lightning ``Checkpoint``, because these come last in every hook: what the other callbacks do at the end of
    a step is then in the file.)

    Args:
        requeue: put a SLURM job back into the queue after SIGUSR1.
    """

    def __init__(self, requeue: bool = True) -> None:
        self.requeue = requeue
        self.received: signal.Signals | None = None
        self.saved: signal.Signals | None = None
        """The reason to stop for which everything is saved."""
        self.previous: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Here and not in `setup`: these take the place of the handlers that Lightning has put up in between.
        if threading.current_thread() is threading.main_thread():
            self.previous = {number: signal.signal(number, self.handle) for number in REASONS}

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take note of the first signal; leave at the second."""
        if self.received is not None:
            self.restore()
            raise REASONS[self.received]
        self.received = signal.Signals(number)
        log.warning("%s: stopping at the end of this step; a second signal stops at once", self.received.name)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # gradients of half a step would be lost
        self.saved = self.agree(trainer)
        if self.saved is not None:
            trainer.save_checkpoint(folder(trainer) / "last.ckpt", weights_only=False)

    # The step's values are logged after its last hook, so that the run stops in whichever hook comes next.

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.saved is not None:
            self.stop(trainer, self.saved)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.saved is not None:
            self.stop(trainer, self.saved)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        # Ranks may have different numbers of images, so several cannot confer here.
        if trainer.state.fn == "fit" and trainer.world_size == 1 and self.received is not None:
            self.stop(trainer, self.received)

    def agree(self, trainer: L.Trainer) -> signal.Signals | None:
        """The signal that any rank received."""
        if trainer.world_size == 1:
            return self.received
        flag = torch.tensor(int(self.received or 0), device=trainer.strategy.root_device)
        number = int(trainer.strategy.reduce(flag, reduce_op="max"))
        return signal.Signals(number) if number else None

    def stop(self, trainer: L.Trainer, reason: signal.Signals) -> None:
        """Leave the trainer."""
        if trainer.is_global_zero:
            log.warning("stopped at step %d after %s; resume=auto goes on", trainer.global_step, reason.name)
        if self.requeue and reason is signal.SIGUSR1 and trainer.is_global_zero:
            requeue()
        raise REASONS[reason]

    def restore(self) -> None:
        """Put the previous signal handlers back."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.restore()
        reason = self.agree(trainer)
        if reason is not None:  # it came in the last validation: the testing to follow is not begun
            self.stop(trainer, reason)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.restore()


def requeue() -> None:
    """Ask SLURM to run this job again."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("job %s could not be requeued: %s", job, error)
