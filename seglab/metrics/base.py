"""The seam between an evaluation and the numbers that sum it up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torchmetrics

from seglab.types import Evaluated, Score


class Metric(torchmetrics.Metric):
    """``update(seen)`` for every evaluated batch; ``compute()`` over the whole set and all processes, by name.

    A subclass takes ``num_classes`` first (the builder hands it on), keeps sums (``add_state``), and lists its numbers
    in ``scores``. What ``compute`` gives beside numbers (lists with one entry per class, a matrix) is written to
    ``metrics.json`` and not logged; a :class:`~seglab.types.Curve` goes into the figure and the table of all frames.
    """

    full_state_update = False
    needs: ClassVar[frozenset[str]] = frozenset({"label"})
    """Fields of the batch that it compares with."""
    scores: ClassVar[Sequence[Score]] = ()
    in_sequences: ClassVar[bool] = False
    """Whether it compares consecutive frames of videos. The evaluation then deals whole sequences to its processes,
    frame by frame in their order (``DataModule.in_sequences``), and data without sequences are refused."""

    def update(self, seen: Evaluated) -> None:
        raise NotImplementedError

    def compute(self) -> dict[str, Any]:
        raise NotImplementedError
