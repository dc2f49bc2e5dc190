"""From choices in YAML to an optimiser with its schedule, once the network and the number of steps are known."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from seglab.errors import ConfigError
from seglab.optim.groups import parameter_groups


class Optimisation:
    """``(model, total_steps) -> {"optimizer": ..., "lr_scheduler": ...}``, as ``configure_optimizers`` returns.

    Args:
        optimizer: parameter groups -> optimiser, with its base ``lr`` (and ``weight_decay``) bound.
        schedule: (optimiser, total_steps) -> scheduler, stepped after every optimiser step.
        head_lr, layer_decay, no_decay: see :func:`seglab.optim.parameter_groups`.

    Raises:
        ConfigError: a learning rate or weight decay that is not a number >= 0; called, options that the optimiser
            refuses.
    """

    def __init__(
        self,
        optimizer: Callable[..., Optimizer],
        schedule: Callable[[Optimizer, int], LRScheduler],
        head_lr: float = 1.0,
        layer_decay: float | None = None,
        no_decay: Sequence[str] = (),
    ) -> None:
        self.optimizer = optimizer
        self.schedule = schedule
        self.head_lr = head_lr
        self.layer_decay = layer_decay
        self.no_decay = tuple(no_decay)
        self.lr = bound(optimizer, "lr")
        self.weight_decay = bound(optimizer, "weight_decay")

    def __call__(self, model: nn.Module, total_steps: int) -> dict[str, Any]:
        groups = parameter_groups(
            model,
            self.lr,
            self.weight_decay,
            head_lr=self.head_lr,
            layer_decay=self.layer_decay,
            no_decay=self.no_decay,
        )
        try:
            optimizer = self.optimizer(groups)
        except (ValueError, TypeError, LookupError, RuntimeError) as error:
            raise ConfigError(
                f"optim.optimizer refuses its options ({error}) — change or drop what it names"
            ) from error
        scheduler = self.schedule(optimizer, total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def bound(optimizer: Callable[..., Optimizer], key: str) -> float:
    """The value that an optimiser's factory has for a parameter: the one bound in YAML, else its default."""
    parameter = inspect.signature(optimizer).parameters.get(key)
    value = parameter.default if parameter is not None else 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ConfigError(f"optim.optimizer.{key}={value!r} — expected a number >= 0 (1.0e-3, not '1e-3' in quotes)")
    return float(value)
