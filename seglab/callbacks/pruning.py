"""Tells a search how its trial is doing, and ends the trial when it is not worth its time."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from seglab.callbacks.base import OfTraining
from seglab.callbacks.checkpoints import kept_by, scores
from seglab.errors import ConfigError
from seglab.runs.folder import RunFolder
from seglab.runs.signals import Pruned
from seglab.scores import Known, Score

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner

log = logging.getLogger(__name__)


class Pruning(Checkpoint, OfTraining):
    """Reports a metric at every validation; ends the run as ``pruned``, with checkpoints and metrics, if told to.

    The trial is found by the run folder: ``sweep.json`` beside it has its number, the journal (or ``storage``) the
    study. A run that belongs to no search is left alone. (A Lightning ``Checkpoint``, because these come last in every
    hook: the validation's checkpoints are written when the run ends.)

    Args:
        metric: a logged value; null: the task's headline in validation.
        pruner: an Optuna pruner, which compares trials at equal optimiser steps; null only reports.
        storage: a data base's address; null for the journal in the sweep folder.
    """

    def __init__(self, metric: str | None = None, pruner: BasePruner | None = None, storage: str | None = None) -> None:
        self.metric = metric
        self.pruner = pruner
        self.storage = storage
        self.score = Score(metric or "")
        self.study: Study | None = None
        self.number = -1

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        from seglab.multirun import record, study

        task: Any = pl_module.task
        self.metric = self.metric or f"val/{task.headline.name}"
        self.score = Known(task.headline, task.known_scores()).score(self.metric)
        run_dir = Path(trainer.default_root_dir)
        self.number = record.factors_of(run_dir).get("trial", -1)
        if self.number >= 0:
            study.require()
            self.study = study.open_study(run_dir.resolve().parent, self.storage, self.pruner)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.study is None or self.metric is None or trainer.state.fn != "fit" or not trainer.is_global_zero:
            return
        if self.metric not in trainer.callback_metrics:
            raise ConfigError(
                f"search.metric={self.metric} is not logged — expected one of "
                f"{', '.join(sorted(trainer.callback_metrics))}"
            )
        from optuna.trial import Trial

        value, step = float(trainer.callback_metrics[self.metric]), trainer.global_step
        known = self.study.get_trials(deepcopy=False)[self.number]
        trial = Trial(self.study, known._trial_id)
        if step not in known.intermediate_values:  # it is, where a run was stopped and goes on from before
            trial.report(value, step)
        if step < trainer.max_steps and trial.should_prune():
            self.prune(trainer, pl_module, value)

    def prune(self, trainer: L.Trainer, module: Any, value: float) -> None:
        """Write down what is known, and leave."""
        from seglab import build

        kept = kept_by(trainer)
        size = build.parameters(module.task)
        found = {f"val/{name}": value for name, value in scores(module).items()} | (kept.found if kept else {})
        RunFolder(trainer.default_root_dir).write_metrics({**size, "step": trainer.global_step, **found})
        shown = f"{self.metric} {self.score.text(value)}"
        log.info("pruned at step %d of %d: %s", trainer.global_step, trainer.max_steps, shown)
        raise Pruned
