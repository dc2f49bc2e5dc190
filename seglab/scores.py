"""What a score's name says: whether it is a fraction.

A key is ``STAGE/NAME`` as in ``metrics.json`` and the loggers: ``test/mIoU``, ``val/loss``, ``best/NLL``.
"""

from __future__ import annotations

FRACTIONS = frozenset({
    "mIoU", "aAcc", "mAcc", "fwIoU", "mDice", "IoU", "Acc", "Dice", "Precision", "Recall", "Fscore", "mBoundaryIoU",
    "BoundaryIoU", "ECE", "mIoU_coarse", "mIoU_oracle",
})  # fmt: skip
"""From 0 to 1; written in percent where people read them."""


def name_of(key: str) -> str:
    """The score behind a key: ``val/NLL/tau_5`` -> NLL."""
    return key.split("/")[1 if "/" in key else 0]
