"""What callbacks for insight share: looking on at an evaluation, and leaving a table and a picture in ``insight/``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L

from seglab import visualize
from seglab.callbacks.class_table import as_csv
from seglab.loggers import log_picture
from seglab.runs import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from seglab.module import Evaluated

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
"""Colours that the colour-blind can tell apart (Okabe and Ito, 2008)."""


class Onlooker(L.Callback):
    """Sees every batch of a validation or a test with what the network said about it, on every rank."""

    def begin(self, trainer: L.Trainer, module: Any) -> None:
        """Before the first batch."""
        raise NotImplementedError

    def observe(self, seen: Evaluated) -> None:
        """After each batch."""
        raise NotImplementedError

    def end(self, trainer: L.Trainer, module: Any) -> None:
        """After the last batch, on every rank; what is added to ``module.results`` is logged and in metrics.json."""
        raise NotImplementedError

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.begin(trainer, pl_module)
        if self.observe not in pl_module.observers:  # it still is when the last evaluation broke off
            pl_module.observers.append(self.observe)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        pl_module.observers.remove(self.observe)
        self.end(trainer, pl_module)

    on_test_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_validation_epoch_end


def folder(trainer: L.Trainer) -> Path:
    """Where they write."""
    return Path(trainer.default_root_dir) / "insight"


def publish(trainer: L.Trainer, stage: str, name: str, rows: list[dict[str, Any]], figure: Figure) -> None:
    """Write ``NAME_STAGE.csv`` and ``.png``, those of the evaluation before replaced; loggers get ``NAME_picture``."""
    target = folder(trainer) / f"{name}_{stage}"
    atomic.write_text(target.with_suffix(".csv"), as_csv(rows))
    picture = visualize.pixels(figure)
    visualize.save(picture, target.with_suffix(".png"))
    log_picture(trainer, f"{stage}/{name}_picture", picture, trainer.global_step)
