"""What a score's name says: whether less of it is better, and whether it is a fraction.

A key is ``STAGE/NAME`` as in ``metrics.json`` and the loggers: ``test/mIoU``, ``val/loss``, ``best/NLL``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

LOWER = frozenset({"loss", "NLL", "ECE"})
"""Less is better. So it is for every loss term, under whatever name."""
FRACTIONS = frozenset({
    "mIoU", "aAcc", "mAcc", "fwIoU", "mDice", "IoU", "Acc", "Dice", "Precision", "Recall", "Fscore", "mBoundaryIoU",
    "BoundaryIoU", "ECE", "mIoU_coarse", "mIoU_oracle",
})  # fmt: skip
"""From 0 to 1; written in percent where people read them."""


def name_of(key: str) -> str:
    """The score behind a key: ``val/NLL/tau_5`` -> NLL."""
    return key.split("/")[1 if "/" in key else 0]


def is_fraction(key: str) -> bool:
    """Whether it is read in percent; so are differences of fractions."""
    return name_of(key) in FRACTIONS or name_of(key) == "context_gap"


def lower_is_better(key: str, terms: Collection[str] = ()) -> bool:
    """Whether less of a score is better.

    Args:
        terms: names of the loss terms there are.
    """
    return name_of(key) in LOWER or name_of(key) in terms


def run_prefers_less(key: str, config: Mapping[str, Any]) -> bool:
    """The same for a run's configuration, whose ``callbacks.checkpoints.mode`` may say it of the score it watches."""
    watched = (config.get("callbacks") or {}).get("checkpoints") or {}
    if watched.get("mode") and name_of(str(watched.get("monitor"))) == name_of(key):
        return bool(watched["mode"] == "min")
    return lower_is_better(key, config.get("loss") or {})


def best_of(results: Mapping[str, Any]) -> float | None:
    """The best value of the score that a run watched, among its results."""
    return next((value for key, value in results.items() if key.startswith("best/")), None)
