"""How far the run is: a bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from rich import get_console

from seglab.callbacks.base import Callback

log = logging.getLogger(__name__)


class Progress(RichProgressBar, Callback):
    """One bar for the whole training (the stream has no epochs), and one per evaluation.

    Args:
        every_n_steps: optimiser steps between lines where the output is not a terminal.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        super().__init__(refresh_rate=5)
        self.every_n_steps = every_n_steps
        self.terminal = get_console().is_terminal
        self.clock = self.since = 0.0
        self.counted = 0
        if not self.terminal:
            self.disable()

    @property
    def total_train_batches(self) -> int | float:
        """Batches of the whole run; infinite where its length is not known."""
        if self.trainer.max_steps > 0:
            return self.trainer.max_steps * self.trainer.accumulate_grad_batches
        return self.trainer.num_training_batches

    def _get_train_description(self, current_epoch: int) -> str:
        return "Training  "

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """What stands beside the bar."""
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.since, self.counted = time.monotonic(), 0

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_validation_start(trainer, pl_module)
        self.clock = time.monotonic()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        self.since += time.monotonic() - self.clock  # the pace is that of training
        if trainer.state.fn == "fit" and not self.terminal and trainer.is_global_zero:
            self.report_validation(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        self.counted += 1
        step = trainer.global_step
        due = step % self.every_n_steps == 0 or step == trainer.max_steps
        if due and not self.terminal and trainer.is_global_zero:
            self.report(trainer, outputs)

    def report_validation(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the task's headline, in its unit."""
        task: Any = pl_module.task
        value = trainer.callback_metrics.get(f"val/{task.headline.name}")
        if value is not None:
            shown = f"{task.headline.name} {task.headline.text(float(value))}"
            log.info("validation at step %d: %s", trainer.global_step, shown)

    def report(self, trainer: L.Trainer, outputs: Any) -> None:
        """Log step, loss, learning rate, pace and time left."""
        now = time.monotonic()
        pace = self.counted / max(now - self.since, 1e-9)
        self.since, self.counted = now, 0
        step, steps = trainer.global_step, trainer.max_steps
        rate = max(group["lr"] for optimiser in trainer.optimizers for group in optimiser.param_groups)
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches  # Lightning has divided by it
        left = f", {timedelta(seconds=round((steps - step) / pace))} left" if steps > 0 else ""
        total = f"/{steps}" if steps > 0 else ""
        log.info("step %d%s: loss %.4f, lr %.2e, %.2f steps/s%s", step, total, loss, rate, pace, left)
