"""Weights that change with the optimiser step; in YAML they stand where a number would:
``loss.distill.weight: {_target_: seglab.losses.schedules.LinearRamp, start: 0.0, stop: 1.0, steps: 1000}``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from seglab.checks import within
from seglab.errors import ConfigError


def in_steps(length: float, training: int | None) -> float:
    """A length in optimiser steps: below 1 it is a fraction of the training, at least one step of it.

    Where nothing is trained (``training`` is None), a fraction is over: 0.
    """
    if length >= 1 or not length:
        return length
    return 0 if training is None else max(1, round(length * training))


class LinearRamp:
    """From start to stop along a straight line.

    Args:
        steps: how long it takes: steps, or a fraction of the training where it is below 1. Where nothing is trained, a
            fraction is over.
        begin: when it sets out, likewise.

    Raises:
        ConfigError: a weight or length out of range.
    """

    training: int | None = None
    """Steps of the whole training, once it has begun."""

    def __init__(self, start: float, stop: float, steps: float, begin: float = 0) -> None:
        self.start = within("weight.start", start, 0)
        self.stop = within("weight.stop", stop, 0)
        self.steps = within("weight.steps", steps, 0, open_low=True)
        self.begin = within("weight.begin", begin, 0)

    def __call__(self, step: int) -> float:
        length, begin = (in_steps(each, self.training) for each in (self.steps, self.begin))
        way = min(max((step - begin) / length, 0.0), 1.0) if length else 1.0
        return self.start + (self.stop - self.start) * self.shape(way)

    def shape(self, way: float) -> float:
        """How far the weight has come after a part of the way, both 0..1."""
        return way


class CosineRamp(LinearRamp):
    """From start to stop along half a cosine: slow, fast, slow."""

    def shape(self, way: float) -> float:
        return (1 - math.cos(math.pi * way)) / 2


class Steps:
    """Constant between milestones.

    Args:
        weights: one more than milestones.
        milestones: rising; at each the next weight holds. Steps, or all of them fractions of the training, below 1.
            Where nothing is trained, fractions are over.

    Raises:
        ConfigError: a weight out of range, or lengths or order that do not fit.
    """

    training: int | None = None
    """Steps of the whole training, once it has begun."""

    def __init__(self, weights: Sequence[float], milestones: Sequence[float]) -> None:
        if len(weights) != len(milestones) + 1 or list(milestones) != sorted(set(milestones)):
            raise ConfigError(
                f"weight.weights={list(weights)} with weight.milestones={list(milestones)} — expected rising "
                "milestones and one more weight than milestones"
            )
        if len({0 < milestone < 1 for milestone in milestones}) > 1:
            raise ConfigError(
                f"weight.milestones={list(milestones)} — expected steps, or fractions of the training below 1, not both"
            )
        self.weights = [within("weight.weights", weight, 0) for weight in weights]
        self.milestones = list(milestones)

    def __call__(self, step: int) -> float:
        return self.weights[sum(step >= in_steps(each, self.training) for each in self.milestones)]
