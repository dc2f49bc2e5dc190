"""Keeps ``status.json`` in step with the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L

from seglab.callbacks.base import OfTraining
from seglab.callbacks.checkpoints import Checkpoints
from seglab.runs.folder import update_status


class Status(OfTraining):
    """Writes the optimiser step and the best value so far: at validation, at the end, and when the run breaks off.

    The status itself (running, done, ...) is the run folder's (:mod:`seglab.runs.folder`).
    """

    def write(self, trainer: L.Trainer) -> None:
        """Update the file."""
        if not trainer.is_global_zero:
            return
        fields: dict[str, Any] = {"step": trainer.global_step, "max_steps": trainer.max_steps}
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, Checkpoints) and callback.best is not None and callback.score is not None:
                score = callback.score
                about = {"mode": score.direction, "name": score.name, "unit": score.unit}
                fields["best"] = {callback.monitor: callback.best, "step": callback.best_step, **about}
        update_status(Path(trainer.default_root_dir), **fields)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.write(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit":
            self.write(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.write(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if trainer.state.fn == "fit":
            self.write(trainer)
