"""``checkpoints/last.ckpt`` to go on from, ``checkpoints/best.ckpt`` to keep."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from seglab.callbacks.base import OfTraining
from seglab.checks import within
from seglab.errors import ConfigError
from seglab.runs.atomic import DiskFull, jsonable
from seglab.scores import Known, Score, name_of

log = logging.getLogger(__name__)


class Checkpoints(Checkpoint, OfTraining):
    """Saves ``last`` every few steps and around each validation, ``best`` when the monitored value improves.

    Every save is of a whole optimiser step, so a resumed run is the uninterrupted one.

    Args:
        monitor: a logged value; null: the task's headline in validation.
        mode: whether more or less of it is better; null: as the score says. Needed only where nothing is known of it.
        every_n_steps: optimiser steps between periodic saves.
        on_error: what a full disk does to a periodic save; the last one of a run always counts.
        best: whether to keep a best at all.
    """

    def __init__(
        self,
        monitor: str | None = None,
        mode: Literal["max", "min"] | None = None,
        every_n_steps: int = 1000,
        on_error: Literal["raise", "warn"] = "raise",
        best: bool = True,
    ) -> None:
        within("callbacks.checkpoints.every_n_steps", every_n_steps, 1)
        self.monitor = monitor
        self.mode = mode
        self.every_n_steps = every_n_steps
        self.on_error = on_error
        self.keeps_best = best
        self.score: Score | None = None
        """What is monitored; known from the setup on."""
        self.best: float | None = None
        self.best_step: int | None = None
        self.validated_step: int | None = None
        """The step of the last validation that came to its end."""
        self.scores: dict[str, Any] = {}
        """What it found (the module's ``results``), so that a run that goes on behind it can still tell."""
        self.saved_step = 0

    @property
    def best_key(self) -> str:
        """What the best is called where a run's results stand: ``best/mIoU`` of val/mIoU."""
        return f"best/{str(self.monitor).removeprefix('val/')}"

    @property
    def found(self) -> dict[str, float | None]:
        """The best so far, as a run's results hold it."""
        return {self.best_key: self.best} if self.keeps_best and self.monitor else {}

    @property
    def best_model_score(self) -> float | None:
        """The best so far, under the name that Lightning's own callback has for it."""
        return self.best

    def state_dict(self) -> dict[str, Any]:
        """The best so far, so that a resumed run does not replace it by less; and the last validation."""
        best = {"best": self.best, "best_step": self.best_step, "monitor": self.monitor}
        return {**best, "validated_step": self.validated_step, "scores": self.scores}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the best so far, unless it is of another value."""
        if self.monitor is None or state.get("monitor") in (None, self.monitor):
            self.best, self.best_step = state["best"], state["best_step"]
        self.validated_step, self.scores = state.get("validated_step"), state.get("scores", {})

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find out what is monitored, and which direction of it is better.

        Raises:
            ConfigError: the mode contradicts the score, or is missing for one of which nothing is known.
        """
        if not self.keeps_best:
            return
        task: Any = pl_module.task
        known = Known(task.headline, task.known_scores())
        self.monitor = self.monitor or f"val/{task.headline.name}"
        self.score = monitored(known, self.monitor, self.mode)
        self.mode = self.score.direction

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.saved_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        ends = step == trainer.max_steps
        # A step is seen once per accumulated batch; its first sight is right after the optimiser moved.
        if step > self.saved_step and (step % self.every_n_steps == 0 or ends):
            self.save(trainer, "last", final=ends)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Validation may take long, and nothing can be saved in its middle.
        if trainer.state.fn == "fit" and trainer.global_step > self.saved_step:
            self.save(trainer, "last")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self.validated_step, self.scores = trainer.global_step, scores(pl_module)
        if self.improved(trainer):
            self.save(trainer, "best")
        self.save(trainer, "last")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step > self.saved_step:  # stopped early
            self.save(trainer, "last", final=True)

    def improved(self, trainer: L.Trainer) -> bool:
        """Whether the monitored value is the best yet; it is remembered then. NaN never is."""
        if self.score is None or self.monitor is None:
            return False
        if self.monitor not in trainer.callback_metrics:
            raise ConfigError(
                f"callbacks.checkpoints.monitor={self.monitor} is not logged — expected one of "
                f"{', '.join(sorted(trainer.callback_metrics))}; null for the task's headline, or "
                "callbacks.checkpoints.best=false to keep no best"
            )
        value = float(trainer.callback_metrics[self.monitor])
        if math.isnan(value) or not (self.best is None or self.score.better(value, self.best)):
            return False
        self.best, self.best_step = value, trainer.global_step
        return True

    def save(self, trainer: L.Trainer, name: str, final: bool = False) -> None:
        """Write a checkpoint (called on every rank; the strategy lets one write)."""
        try:
            trainer.save_checkpoint(folder(trainer) / f"{name}.ckpt", weights_only=False)
        except DiskFull as error:
            if final or self.on_error == "raise":
                raise
            log.warning("%s — training goes on without it (callbacks.checkpoints.on_error=warn)", error)
        self.saved_step = trainer.global_step


def monitored(known: Known, monitor: str, mode: str | None, callback: str = "callbacks.checkpoints") -> Score:
    """The score that a monitored key is of; ``callback`` is the key of what monitors it.

    Raises:
        ConfigError: the mode contradicts it, or is missing where nothing is known of the key.
    """
    score = known.find(monitor)
    if score is not None:
        if mode not in (None, score.direction):
            better = "less" if score.lower else "more"
            raise ConfigError(
                f"{callback}.mode={mode} of {monitor} would keep the worst: {better} of {score.name} is better — set "
                f"{callback}.mode={score.direction}, or null"
            )
        return score
    if mode is None:
        raise ConfigError(
            f"{callback}.monitor={monitor}: whether more or less of it is better is not known — set "
            f"{callback}.mode=max or min, or monitor one of "
            f"{', '.join(f'val/{name}' for name in sorted(known.scores))}"
        )
    return Score(name_of(monitor), "min" if mode == "min" else "max")


def folder(trainer: L.Trainer) -> Path:
    """Where a trainer's checkpoints are."""
    return Path(trainer.default_root_dir) / "checkpoints"


def scores(module: Any) -> dict[str, Any]:
    """What the last evaluation found as plain data (NaN is null)."""
    return jsonable(module.results.plain)


def kept_by(trainer: L.Trainer) -> Checkpoints | None:
    """The callback that keeps a trainer's checkpoints, if there is one."""
    return next((callback for callback in trainer.checkpoint_callbacks if isinstance(callback, Checkpoints)), None)
