"""A few validation pictures, always the same ones, so that progress can be seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.loggers import WandbLogger

from seglab import visualize
from seglab.errors import ConfigError
from seglab.inference import infer
from seglab.loggers import log_masks, log_picture
from seglab.ops.resize import resize_argmax
from seglab.types import IGNORE, Batch


class Pictures(L.Callback):
    """Writes ``pictures/step_XXXXXX.png`` and sends it to the loggers: a row (image, label, prediction, error) for each
    of ``count`` pictures spread over the validation split. W&B gets the masks with their class names as well.

    Args:
        count: number of pictures; 0 switches them off.
        width: of a panel, in pixels.
    """

    def __init__(self, count: int = 4, width: int = 320) -> None:
        if count < 0 or width < 16:
            raise ConfigError(f"callbacks.pictures: count={count}, width={width} — expected >= 0 and >= 16")
        self.count = count
        self.width = width
        self.rows: list[np.ndarray] = []
        self.masks: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.rows, self.masks = [], []

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        for group, index in self.chosen(batch, batch_idx, int(trainer.num_val_batches[0])):
            self.add(trainer, pl_module, batch[group], index)

    def chosen(self, batches: list[Batch], batch_idx: int, total: int) -> list[tuple[int, int]]:
        """Which pictures of this validation batch are shown: (group of one size, index in it)."""
        wanted = [int(x) for x in np.linspace(0, total - 1, self.count).round()].count(batch_idx)
        places = [(group, index) for group, batch in enumerate(batches) for index in range(len(batch))]
        return places[:wanted]

    def add(self, trainer: L.Trainer, module: Any, batch: Batch, index: int) -> None:
        """Predict one picture as the evaluation does."""
        if batch.label is None:
            return
        label = batch.label[index]
        size = (label.shape[0], label.shape[1])
        normalise = module.model.normalise
        shown = normalise(batch.image[index : index + 1])
        with trainer.precision_plugin.forward_context():
            scores = infer(lambda image: module(image).logits, shown, module.protocol, size)
        prediction = resize_argmax(scores, size)[0].byte().cpu().numpy()
        truth = label.byte().cpu().numpy()
        image = visualize.to_image(normalise.to_uint8(batch.image[index]))
        self.rows.append(
            visualize.strip(image, truth, prediction, module.spec.classes, module.spec.palette, self.width)
        )
        if any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
            fitted = visualize.fit(image, truth.shape[1]) if image.shape[:2] != truth.shape else image
            self.masks.append((fitted, truth, prediction))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.rows:
            return
        step = trainer.global_step
        sheet = visualize.stack(self.rows, gap=8)
        visualize.save(sheet, Path(trainer.default_root_dir) / "pictures" / f"step_{step:06d}.png")
        log_picture(trainer, "val/pictures", sheet, step)
        names = {**dict(enumerate(pl_module.spec.classes)), IGNORE: "void"}  # type: ignore[union-attr, arg-type]
        log_masks(trainer, "val/masks", self.masks, names, step)
        self.rows, self.masks = [], []
