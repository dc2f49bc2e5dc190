"""Where numbers and images go while a run is on. Lightning's loggers fit too; these differ where that matters."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import lightning as L
    import numpy as np


def close(exit_code: int) -> None:
    """Close what a logger keeps open beyond its trainer: a W&B run, which shows the exit code and is then over."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        from seglab.loggers.wandb import finish

        finish(wandb.run, exit_code)


def log_image(trainer: L.Trainer, name: str, image: np.ndarray, step: int) -> None:
    """Send an image [H, W, 3] uint8 to every logger that shows images."""
    from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, image, step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [image], step)


def log_masks(
    trainer: L.Trainer,
    name: str,
    images: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    classes: Mapping[int, str],
    step: int,
) -> None:
    """Send (image, label, prediction) to W&B as images whose masks can be switched on and off by class."""
    from lightning.pytorch.loggers import WandbLogger

    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and images:
            masks = [
                {
                    "label": {"mask_data": label, "class_labels": dict(classes)},
                    "prediction": {"mask_data": prediction, "class_labels": dict(classes)},
                }
                for _, label, prediction in images
            ]
            logger.log_image(name, [image for image, _, _ in images], step, masks=masks)
