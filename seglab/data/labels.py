"""From stored ids to train ids, and from wrong ids to the reason they are there."""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import groupby

import numpy as np

from seglab.data.spec import DatasetSpec
from seglab.errors import DataError
from seglab.types import IGNORE

UNKNOWN = 254
"""Marks an id outside the table; never a train id (a spec has at most 254 classes)."""

Hint = Callable[[Collection[int]], str | None]


class LabelTable:
    """The label map of a spec as one lookup table over 16-bit ids.

    Args:
        hint: says from a file's ids which wrong variant it is, or None.
        unknown: ``refuse`` raises on an id outside the map, ``ignore`` makes it void.
    """

    def __init__(self, spec: DatasetSpec, hint: Hint | None = None, unknown: str = "refuse") -> None:
        self.spec = spec
        self.hint = hint
        self.table = np.full(1 << 16, UNKNOWN if unknown == "refuse" else IGNORE, dtype=np.uint8)
        for raw, train in spec.table.items():
            self.table[raw] = train

    def __call__(self, raw: np.ndarray, path: str) -> np.ndarray:
        """[H, W] uint8 train ids of stored ids ``raw``; DataError names the ids that have none and the likely cause."""
        inside = raw if raw.dtype in (np.uint8, np.uint16) else np.where((raw < 0) | (raw > 0xFFFF), 0, raw)
        out = np.take(self.table, inside)
        lost = out == UNKNOWN
        if inside is not raw:
            lost |= inside != raw
        if lost.any():
            self._refuse(raw, lost, path)
        return out

    def _refuse(self, raw: np.ndarray, lost: np.ndarray, path: str) -> None:
        found, unknown = np.unique(raw).tolist(), np.unique(raw[lost]).tolist()
        cause = (self.hint(found) if self.hint else None) or likely_cause(found, self.spec)
        raise DataError(
            f"{path}: ids {ranges(unknown)} in a label of {self.spec.name}"
            f" — legal are {ranges(self.spec.table)} — {cause}"
        )


def likely_cause(found: Collection[int], spec: DatasetSpec) -> str:
    """Guess why a label of any dataset holds unknown ids, and say what mends it."""
    if max(found) >= 1000:
        return "these look like instance ids; take the file with class ids"
    if spec.num_classes in found and 0 not in found:
        return "labels seem to start at 1; set data.dataset.label_map={1: 0, 2: 1, ...}, or list every class"
    if set(found) <= {0, 85, 170, 255, 127, 128} and len(found) <= 3:
        return "this looks like a mask drawn in grey levels; set data.dataset.label_map={0: 0, 255: 1}"
    return "set data.dataset.label_map, or take the label files this dataset expects"


def ranges(ids: Collection[int], limit: int = 8) -> str:
    """Ids in short: ``{0, 1, 2, 5, 255}`` is ``0..2, 5, 255``."""
    runs = [[i for _, i in run] for _, run in groupby(enumerate(sorted(ids)), key=lambda item: item[1] - item[0])]
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs]
    return ", ".join(texts if len(texts) <= limit else [*texts[: limit - 1], "...", texts[-1]])
