"""The score of the ADE20K scene parsing challenge: (aAcc + mIoU) / 2."""

from __future__ import annotations

from typing import Any, ClassVar

from seglab.metrics.confusion import ConfusionMatrix
from seglab.types import Score


class ChallengeScore(ConfusionMatrix):
    """All that the confusion matrix gives, and ``challenge``: the mean of pixel accuracy and mIoU."""

    scores: ClassVar[tuple[Score, ...]] = (*ConfusionMatrix.scores, Score("challenge", "max", "percent"))

    def compute(self) -> dict[str, Any]:
        found = super().compute()
        return {**found, "challenge": (found["aAcc"] + found["mIoU"]) / 2}
