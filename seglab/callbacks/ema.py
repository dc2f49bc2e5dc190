"""An exponential moving average of the weights, which is what is validated, saved for use and exported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from seglab.errors import ConfigError


class EMA(WeightAveraging):
    """average <- d average + (1 - d) weights after every optimiser step n, with d = min(decay, (1 + n) / (10 + n)).

    The growing d lets short runs forget their random start. Running statistics are averaged like the weights. A
    checkpoint holds the average (``state_dict``) and the weights that training goes on with (``current_model_state``).
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(f"callbacks.ema.decay={decay} — expected at least 0 and less than 1, e.g. 0.999")
        self.decay = decay
        super().__init__(multi_avg_fn=self.move)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        # Testing a checkpoint after training must not bring back the weights that training would go on with.
        if trainer.state.fn == "fit":
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # A resumed run that is already complete trains nothing, and never gets to `on_train_end`.
        assert self._average_model is not None
        self._copy_average_to_current(pl_module)

    @torch.no_grad()
    def move(self, average: Sequence[Tensor], current: Sequence[Tensor], updates: Tensor | int) -> None:
        """Move tensors of one type and device towards their present values; counters take them."""
        if average[0].is_floating_point():
            n = float(updates)
            torch._foreach_lerp_(list(average), list(current), 1 - min(self.decay, (1 + n) / (10 + n)))
        else:
            torch._foreach_copy_(list(average), list(current))
