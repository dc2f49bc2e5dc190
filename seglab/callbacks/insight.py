"""What callbacks for insight share: leaving a table and a figure in ``insight/``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L

from seglab import visualize
from seglab.callbacks.class_table import as_csv
from seglab.loggers import log_image
from seglab.runs import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
"""Colours that the colour-blind can tell apart (Okabe and Ito, 2008)."""


def folder(trainer: L.Trainer) -> Path:
    """Where they write."""
    return Path(trainer.default_root_dir) / "insight"


def publish(trainer: L.Trainer, stage: str, name: str, rows: list[dict[str, Any]], figure: Figure) -> None:
    """Write ``NAME_STAGE.csv`` and ``.png``, those of the evaluation before replaced; loggers get ``NAME_figure``."""
    target = folder(trainer) / f"{name}_{stage}"
    atomic.write_text(target.with_suffix(".csv"), as_csv(rows))
    image = visualize.pixels(figure)
    visualize.save(image, target.with_suffix(".png"))
    log_image(trainer, f"{stage}/{name}_figure", image, trainer.global_step)
