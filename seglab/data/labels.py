"""From stored ids to train ids, and from wrong ids to the reason they are there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import cv2
import numpy as np

from seglab.data.listing import first
from seglab.data.spec import DatasetSpec
from seglab.errors import DataError
from seglab.types import IGNORE

UNKNOWN = 254
"""Marks an id outside the table; never a train id (a spec has at most 254 classes)."""

INSTANCES = 1000
"""Ids from here on usually number objects (class * 1000 + n)."""

SUPPORT = 3
"""Where every class found is in so many labels of a sample, one that is in none is missing and not only rare."""

Hint = Callable[[Collection[int]], str | None]
Remap = Callable[[Mapping[int, int]], str | None]
"""Label map -> the override that sets it; None where the map is the dataset's own."""


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
        if raw.dtype == np.uint8:
            inside, out = raw, cv2.LUT(raw, self.table[:256])  # several times faster than indexing
        else:
            inside = raw if raw.dtype == np.uint16 else np.where((raw < 0) | (raw > 0xFFFF), 0, raw)
            out = np.take(self.table, inside)
        lost = out == UNKNOWN
        if inside is not raw:
            lost |= inside != raw
        if lost.any():
            raise self.refusal(np.unique(raw).tolist(), path)
        return out

    def unknown(self, ids: Collection[int]) -> list[int]:
        """Those of some stored ids that have no train id, sorted."""
        return sorted(i for i in ids if not 0 <= i < len(self.table) or self.table[i] == UNKNOWN)

    def refusal(self, found: Collection[int], path: str, cause: str | None = None) -> DataError:
        """What is said of a label with the ids ``found``: those without a class, the legal ones, and why."""
        cause = cause or (self.hint(found) if self.hint else None) or likely_cause(found)
        return DataError(
            f"{path}: ids {ranges(self.unknown(found))} in a label of {self.spec.name}"
            f" — legal are {ranges(self.spec.table)} — {cause}"
        )


@dataclass
class Seen:
    """What labels hold: per stored id the labels that it is in, its pixels, and the first file with it."""

    tried: int = 0
    """Labels opened; those that cannot be read are not counted in ``read``."""
    read: int = 0
    labels: Counter[int] = field(default_factory=Counter)
    pixels: Counter[int] = field(default_factory=Counter)
    where: dict[int, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    """Path and ids of a label with that id."""

    def add(self, counts: Mapping[int, int], path: str) -> None:
        """One label's pixels per stored id."""
        self.read += 1
        self.labels.update(counts.keys())
        self.pixels.update(counts)
        for raw in counts:
            self.where.setdefault(raw, (path, tuple(counts)))

    def __add__(self, other: Seen) -> Seen:
        """Of both."""
        labels, pixels = self.labels + other.labels, self.pixels + other.pixels
        return Seen(self.tried + other.tried, self.read + other.read, labels, pixels, {**other.where, **self.where})

    def found(self, table: LabelTable) -> dict[int, int]:
        """Train id -> labels that hold it, for every class that occurs."""
        found: dict[int, int] = {}
        for raw in self.labels.keys() - set(table.unknown(self.labels)):
            train = int(table.table[raw])
            if train != IGNORE:
                found[train] = max(found.get(train, 0), self.labels[raw])
        return found


class Doubt(NamedTuple):
    """What is wrong with the classes of the training labels."""

    text: str
    fatal: bool
    """Whether nothing can be learnt from them."""


def histogram(stored: np.ndarray) -> dict[int, int]:
    """Pixels per stored id of a label [H, W]."""
    if stored.dtype in (np.uint8, np.uint16):
        counts = np.bincount(stored.ravel())
        ids = np.flatnonzero(counts)
        return dict(zip(ids.tolist(), counts[ids].tolist(), strict=True))
    return dict(zip(*(values.tolist() for values in np.unique(stored, return_counts=True)), strict=True))


def likely_cause(found: Collection[int]) -> str:
    """Guess why a label of any dataset holds unknown ids, and say what mends it."""
    if max(found) >= INSTANCES:
        return "these look like instance ids; take the file with class ids"
    return "take the label files this dataset expects"


def reading(found: Collection[int], spec: DatasetSpec, remap: Remap) -> str | None:
    """How many labels together are probably meant whose ids, some without a class, are ``found``; None if unclear.

    One label is not enough to tell: that class 0 is not in it says nothing of the others.
    """
    number = spec.num_classes
    top = max(set(found) - {IGNORE}, default=0)
    shifted = {k + 1: k for k in range(number)} | ({IGNORE: IGNORE} if IGNORE in found else {})
    if top >= INSTANCES:
        return None
    if top == number and 0 not in found:
        why, label_map = "labels start at 1, none of those read holds 0", shifted
    elif len(found) == number:
        why, label_map = f"as many ids as classes ({number})", {raw: k for k, raw in enumerate(sorted(found))}
    elif top == number:
        why, label_map = "one id more than classes: if 0 is void and no name is missing", {0: IGNORE} | shifted
    else:
        return None
    typed = remap(label_map)
    return typed and f"{why}: set {typed}"


def judge(seen: Seen, total: int, table: LabelTable, remap: Remap) -> Doubt | None:
    """Whether the classes that training labels hold can be all that is meant; None if so.

    Args:
        seen: of as many of the ``total`` labels as were read: all of them, where fewer than two classes were found.
    """
    spec, found, unknown = table.spec, seen.found(table), set(table.unknown(seen.labels))
    missing = [k for k in range(spec.num_classes) if k not in found]
    where = f"{seen.read} of {total} training labels" if seen.read < total else f"the {total} training labels"
    total_pixels = max(1, sum(seen.pixels.values()))
    void = sum(n for raw, n in seen.pixels.items() if raw not in unknown and table.table[raw] == IGNORE) / total_pixels
    # 255 is void unless the label map says so: nobody may have meant it.
    taken = IGNORE in seen.labels and spec.label_map is None
    others = {k: k for k in range(spec.num_classes) if k not in missing[:1]}
    as_class = remap({**others, IGNORE: missing[0] if missing else spec.num_classes - 1}) if taken else None
    if len(found) < 2:
        held = f"class {spec.classes[next(iter(found))]}" if found else "void"
        text = f"nothing but {held} in {where} (stored: {ranges(seen.labels)}; void: {void:.1%} of the pixels)"
        mended = _mended(seen, spec, remap, as_class if found else None)
        return Doubt(f"{text} — at least two classes are expected — {mended}", True)
    if missing and (seen.read == total or min(found.values()) >= SUPPORT):
        text = (
            f"{len(missing)} of {spec.num_classes} classes not in {where}: {first([spec.classes[k] for k in missing])}"
        )
        text += "" if seen.read == total else " (data.check=full reads all)"
        shifted = remap({k + 1: k for k in range(spec.num_classes)} | ({IGNORE: IGNORE} if taken else {}))
        if missing == [0] and spec.label_map is None and shifted:
            text += f"; if labels start at 1, set {shifted}"
        elif as_class:
            text += f"; 255 counts as void ({void:.1%} of the pixels): if it is a class, set {as_class}"
        return Doubt(text, False)
    if spec.num_classes == 2 and as_class:
        as_void = remap({0: 0, 1: 1, IGNORE: IGNORE})
        text = f"255 counts as void: {void:.1%} of the pixels of {where}; if it is a class, set {as_class}"
        return Doubt(f"{text}; if not, {as_void} says so", False)
    return None


def _mended(seen: Seen, spec: DatasetSpec, remap: Remap, as_class: str | None) -> str:
    """What mends labels in which fewer than two classes are left."""
    if spec.num_classes < 2:
        return "name the others in the class file, the background for one"
    if as_class:
        return f"if 255 is a class, set {as_class}"
    in_order = remap({raw: k for k, raw in enumerate(sorted(seen.labels))})
    if in_order and len(seen.labels) == spec.num_classes:
        return f"as many stored ids as classes: set {in_order}"
    return "mend data.dataset.label_map" if in_order and spec.label_map is not None else "check the label files"


def ranges(ids: Collection[int], limit: int = 8) -> str:
    """Ids in short: ``{0, 1, 2, 5, 255}`` is ``0..2, 5, 255``."""
    runs = [[i for _, i in run] for _, run in groupby(enumerate(sorted(ids)), key=lambda item: item[1] - item[0])]
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs]
    return ", ".join(texts if len(texts) <= limit else [*texts[: limit - 1], "...", texts[-1]])
