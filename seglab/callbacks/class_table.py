"""The numbers of every class, after each evaluation: printed, on the disk, in the logger."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from rich import get_console

from seglab.callbacks.base import OfTraining
from seglab.errors import ConfigError
from seglab.loggers import log_image
from seglab.runs import atomic
from seglab.runs.atomic import jsonable


class ClassTable(OfTraining):
    """Writes ``tables/<stage>_XXXXXX.csv`` and ``.json`` and prints the table.

    TensorBoard and W&B get the IoU of each class as a curve and a figure of the confusion matrix, W&B the table too.

    Args:
        max_rows: with more classes than that, only the means are printed (the files have all).
    """

    def __init__(self, max_rows: int = 60) -> None:
        if max_rows < 0:
            raise ConfigError(f"callbacks.class_table.max_rows={max_rows} — expected 0 or more")
        self.max_rows = max_rows

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.publish(trainer, pl_module, "val")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.publish(trainer, pl_module, "test")

    def publish(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        """Print, write, send."""
        task, values = module.task, module.results.values
        rows = task.rows(values)
        if not trainer.is_global_zero or len(rows[0]) == 1:
            return
        classes, step = task.spec.classes, trainer.global_step
        target = Path(trainer.default_root_dir) / "tables" / f"{stage}_{step:06d}"
        atomic.write_json(target.with_suffix(".json"), jsonable({**values, "step": step, "names": list(classes)}))
        atomic.write_text(target.with_suffix(".csv"), as_csv(rows))
        data = getattr(trainer, "datamodule", None)
        split = stage if data is None else data.split(stage)
        title = f"{stage} at step {step}" if split == stage else f"{stage} (split {split}) at step {step}"
        title = f"{task.spec.title} {title}" if task.spec.variant else title
        get_console().print(task.summary(values, title, classes=len(classes) <= self.max_rows))
        self.send(trainer, stage, rows, lambda: task.figures(values))

    def send(
        self,
        trainer: L.Trainer,
        stage: str,
        rows: list[dict[str, Any]],
        figures: Callable[[], Mapping[str, np.ndarray]],
    ) -> None:
        """To the loggers that show more than numbers; figures are drawn only for them."""
        shown = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger | WandbLogger)]
        if not shown:
            return
        step, first = trainer.global_step, list(rows[0])[1]  # the number that the task lists first
        curves = {f"{stage}/{first}/{row['class']}": row[first] for row in rows if np.isfinite(row[first])}
        for logger in shown:
            logger.log_metrics(curves, step)
            if isinstance(logger, WandbLogger):
                logger.log_table(f"{stage}/classes", list(rows[0]), [list(row.values()) for row in rows], step=step)
        for name, figure in figures().items():
            log_image(trainer, f"{stage}/{name}", figure, step)


def as_csv(rows: list[dict[str, Any]]) -> str:
    """Rows as CSV; a class that does not occur has empty cells."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows({key: "" if value != value else value for key, value in row.items()} for row in rows)
    return text.getvalue()
