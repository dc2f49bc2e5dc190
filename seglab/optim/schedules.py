"""Learning rates as functions of the optimiser step t in [0, T], T from the trainer.

    poly      (1 - t/T)^power          min_lr is absolute: lr = curve * (base - min_lr) + min_lr
    cosine    (1 + cos(pi t/T)) / 2    likewise
    constant  1

During the first w steps the scheduled rate is multiplied by s + (1 - s) t/w, s the start factor: the curve runs from
step 0, warm-up or not, as in the training code of the published results. Beyond T the rate stays where it ended.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from seglab.checks import within
from seglab.errors import ConfigError

log = logging.getLogger(__name__)


def poly(
    optimizer: Optimizer,
    total_steps: int,
    power: float = 0.9,
    min_lr: float = 0.0,
    warmup: float = 0,
    warmup_start: float = 1e-6,
) -> LambdaLR:
    """Polynomial decay. ``warmup``: steps, or a fraction of all steps where it is below 1."""
    within("optim.schedule.power", power, 0)
    return schedule(optimizer, total_steps, lambda x: (1 - x) ** power, min_lr, warmup, warmup_start)


def cosine(
    optimizer: Optimizer, total_steps: int, min_lr: float = 0.0, warmup: float = 0, warmup_start: float = 1e-6
) -> LambdaLR:
    """Half a cosine. ``warmup``: steps, or a fraction of all steps where it is below 1."""
    return schedule(optimizer, total_steps, lambda x: (1 + math.cos(math.pi * x)) / 2, min_lr, warmup, warmup_start)


def constant(optimizer: Optimizer, total_steps: int, warmup: float = 0, warmup_start: float = 1e-6) -> LambdaLR:
    """No decay. ``warmup``: steps, or a fraction of all steps where it is below 1."""
    return schedule(optimizer, total_steps, lambda x: 1.0, 0.0, warmup, warmup_start)


def schedule(
    optimizer: Optimizer,
    total_steps: int,
    curve: Callable[[float], float],
    min_lr: float,
    warmup: float,
    warmup_start: float,
) -> LambdaLR:
    """A scheduler of every group from its own base rate; ``curve`` maps the progress in [0, 1] to a factor.

    Raises:
        ConfigError: no steps, a negative warm-up or rate.
    """
    if total_steps < 1:
        raise ConfigError(f"a schedule of {total_steps} steps — expected at least 1: set trainer.max_steps")
    if warmup < 0 or min_lr < 0 or not 0 <= warmup_start <= 1:
        raise ConfigError(
            f"optim.schedule has warmup={warmup}, min_lr={min_lr}, warmup_start={warmup_start} — expected "
            "numbers >= 0, the last at most 1"
        )
    steps = round(warmup * total_steps) if warmup < 1 else int(warmup)
    if steps > total_steps // 2:
        steps = total_steps // 10
        log.warning("optim.schedule.warmup=%s is more than half of %d steps; %d taken", warmup, total_steps, steps)

    def factor(base: float) -> Callable[[int], float]:
        floor = min(min_lr / base, 1.0) if base > 0 else 0.0

        def at(step: int) -> float:
            scheduled = curve(min(step, total_steps) / total_steps) * (1 - floor) + floor
            rise = warmup_start + (1 - warmup_start) * step / steps if step < steps else 1.0
            return scheduled * rise

        return at

    return LambdaLR(optimizer, [factor(group["lr"]) for group in optimizer.param_groups])
