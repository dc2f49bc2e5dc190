"""Ends a training whose validations have stopped to improve."""

from __future__ import annotations

from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping as Lightning

from seglab.callbacks.base import OfTraining
from seglab.callbacks.checkpoints import monitored
from seglab.checks import within
from seglab.scores import Known

KEY = "callbacks.early_stopping"


class EarlyStopping(Lightning, OfTraining):
    """Lightning's, after validations, of the task's headline score unless told otherwise.

    The run then ends in order: the last weights are saved and tested. A schedule of the learning rate does not know
    that the run ends before.

    Args:
        patience: validations without an improvement after which training ends.
        min_delta: how much better a value has to be to count as an improvement.
        monitor: a logged value; None: the task's headline in validation.
        mode: whether more or less of it is better; None: as the score says.

    Raises:
        ConfigError: an option out of range; at the beginning of a run, a mode that contradicts the score.
    """

    def __init__(
        self,
        patience: int = 5,
        min_delta: float = 0.0,
        monitor: str | None = None,
        mode: Literal["max", "min"] | None = None,
    ) -> None:
        within(f"{KEY}.patience", patience, 1)
        within(f"{KEY}.min_delta", min_delta, 0)
        super().__init__(
            monitor=monitor or "", min_delta=min_delta, patience=patience, mode=mode or "max",
            check_on_train_epoch_end=False,
        )  # fmt: skip
        self.asked = mode

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        task = pl_module.task
        known = Known(task.headline, task.known_scores())
        self.monitor = self.monitor or f"val/{task.headline.name}"
        score = monitored(known, self.monitor, self.asked, KEY)
        if score.direction != self.mode:  # it was made before the task was known
            self.mode = score.direction
            self.best_score = -self.best_score
            self.min_delta = -self.min_delta
        super().setup(trainer, pl_module, stage)
