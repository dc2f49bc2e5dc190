"""TensorBoard event files in the run folder, set up so that runs can be compared."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from seglab.loggers.job import describe, flat
from seglab.scores import Known

PARTS = ("classifier", "loss", "optim")
"""What it can be filtered by, besides the choices, the factors of a sweep and the seed."""
LAYOUT = {
    "loss": {"terms": ["train/.*"], "share of the gradient": ["grad_share/.*"], "agreement": ["grad_cosine/.*"]},
    "validation": {
        "IoU by class": ["val/IoU/.*"],
        "calibration": ["val/NLL", "val/ECE"],
    },
}
"""The CUSTOM SCALARS tab: charts with several curves, by regular expression; the headline's comes first."""


def compared(headline: str) -> tuple[str, ...]:
    """The columns of the HPARAMS tab."""
    return (f"val/{headline}", "val/loss", f"test/{headline}")


class TensorBoard(TensorBoardLogger):
    """``tensorboard --logdir runs``: curves, images, loss terms in one chart, and a table of runs and choices."""

    def __init__(self, save_dir: str | Path, name: str = "tensorboard") -> None:
        super().__init__(save_dir=save_dir, name=name, version="", default_hp_metric=False)
        self.run_dir = Path(save_dir)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, metrics: Any = None, step: int | None = None) -> None:
        """The row of the HPARAMS tab. Its scores are the curves of that name, so none is invented here."""
        from torch.utils.tensorboard.summary import hparams

        values = vars(params) if isinstance(params, Namespace) else params
        kept = flat({key: values[key] for key in PARTS if isinstance(values.get(key), dict)})
        row = {"seed": values.get("seed", 0), **describe(self.run_dir).facts, **kept}
        shown = {key: value if isinstance(value, bool | int | float) else str(value) for key, value in row.items()}
        writer = self.experiment._get_file_writer()
        headline = Known.of_run(self.run_dir).headline.name
        for summary in hparams(shown, dict.fromkeys(compared(headline), 0.0)):
            writer.add_summary(summary)
        by_prediction = [f"val/{headline}{suffix}" for suffix in ("", "_coarse", "_oracle")]
        layout = {**LAYOUT, "validation": {f"{headline} by prediction": by_prediction, **LAYOUT["validation"]}}
        charts = {title: {chart: ["Multiline", tags] for chart, tags in page.items()} for title, page in layout.items()}
        self.experiment.add_custom_scalars(charts)

    @rank_zero_only
    def save(self) -> None:
        """Write what is waiting; no ``hparams.yaml``: the configuration is in config.yaml."""
        self.experiment.flush()
