"""An exponential moving average of the weights, which is what is validated, saved for use and exported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from seglab.callbacks.base import OfTraining
from seglab.errors import CheckpointError, ConfigError


class EMA(WeightAveraging, OfTraining):
    """average <- d average + (1 - d) weights after every optimiser step n, with d = min(decay, (1 + n) / (10 + n)).

    The growing d lets short runs forget their random start. Running statistics are averaged like the weights. A
    checkpoint holds the average (``state_dict``) and the weights that training goes on with (``current_model_state``).
    """

    whole_network = True

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(f"callbacks.ema.decay={decay} — expected at least 0 and less than 1, e.g. 0.999")
        self.decay = decay
        super().__init__(multi_avg_fn=self.move)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        # Testing a checkpoint after training must not bring back the weights that training would go on with.
        if trainer.state.fn == "fit":
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def state_dict(self) -> dict[str, Any]:
        """The decay belongs to what is being averaged."""
        return {**super().state_dict(), "decay": self.decay}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on averaging.

        Raises:
            CheckpointError: with another decay, which would be another average.
        """
        if state.get("decay", self.decay) != self.decay:
            raise CheckpointError(
                f"callbacks.ema.decay: {state['decay']} -> {self.decay} — a run is resumed with its own decay; set it "
                "back, or start a new run from the checkpoint's weights with init_from="
            )
        super().load_state_dict(state)

    @torch.no_grad()
    def move(self, average: Sequence[Tensor], current: Sequence[Tensor], updates: Tensor | int) -> None:
        """Move tensors of one type and device towards their present values; counters take them."""
        if average[0].is_floating_point():
            n = float(updates)
            torch._foreach_lerp_(list(average), list(current), 1 - min(self.decay, (1 + n) / (10 + n)))
        else:
            torch._foreach_copy_(list(average), list(current))
