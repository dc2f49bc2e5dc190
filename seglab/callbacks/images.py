"""A few evaluated images, always the same ones, so that progress can be seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np

from seglab import visualize
from seglab.callbacks.base import Callback
from seglab.errors import ConfigError
from seglab.loggers import log_image, log_masks
from seglab.tasks.base import Panel, Task
from seglab.types import IGNORE, Batch


class Images(Callback):
    """Writes ``images/step_XXXXXX.png`` after each validation and sends it to the loggers: a row (image, ground truth,
    prediction) for each of ``count`` images spread over the split. W&B gets the masks with their class names as well.

    Args:
        count: number of images; 0 switches them off.
        width: of a panel, in pixels; None: as the task shows it.
        each: show a test instead, every image in a file of its own, ``images/NAME.png``.
    """

    def __init__(self, count: int = 4, width: int | None = 320, each: bool = False) -> None:
        if count < 0 or (width is not None and width < 16):
            raise ConfigError(f"callbacks.images: count={count}, width={width} — expected >= 0 and >= 16")
        self.count = count
        self.width = width
        self.each = each
        self.panels: list[Panel] = []

    def applies(self, task: Task, stage: str) -> bool:
        return self.count > 0 and self.each == (stage == "test")

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.panels = []

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if trainer.is_global_zero:
            for group, index in self.chosen(batch, batch_idx, int(trainer.num_val_batches[0])):
                self.panels.append(pl_module.task.show(outputs[group], index, self.width))

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if trainer.is_global_zero and self.each:
            for group, index in self.chosen(batch, batch_idx, int(trainer.num_test_batches[0])):
                panel = pl_module.task.show(outputs[group], index, self.width)
                visualize.save(panel.strip, folder(trainer) / f"{batch[group].names[index]}.png")

    def chosen(self, batches: list[Batch], batch_idx: int, total: int) -> list[tuple[int, int]]:
        """Which images of this batch are shown: (group of one size, index in it)."""
        wanted = [int(x) for x in np.linspace(0, total - 1, self.count).round()].count(batch_idx)
        places = [(group, index) for group, batch in enumerate(batches) for index in range(len(batch))]
        return places[:wanted]

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not self.panels:
            return
        step = trainer.global_step
        sheet = visualize.stack([panel.strip for panel in self.panels], gap=8)
        visualize.save(sheet, folder(trainer) / f"step_{step:06d}.png")
        log_image(trainer, "val/images", sheet, step)
        names = {**dict(enumerate(pl_module.task.spec.classes)), IGNORE: "void"}
        log_masks(trainer, "val/masks", [panel.masks for panel in self.panels if panel.masks], names, step)


def folder(trainer: L.Trainer) -> Path:
    """Where they are written."""
    return Path(trainer.default_root_dir) / "images"
