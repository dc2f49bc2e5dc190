"""The class of every image, as one table: ``OUT/predictions.csv`` with a row per image."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch

from seglab.data.spec import DatasetSpec
from seglab.inference import classify
from seglab.predictors.base import Predictor, Writer
from seglab.runs import atomic
from seglab.types import Size

COLUMNS = ("image", "id", "class", "probability")
FILE = "predictions.csv"


class Category(NamedTuple):
    """The most probable class of an image."""

    id: int
    probability: float


class CategoryPredictor(Predictor):
    """Image [H, W, 3] uint8 -> its most probable class."""

    kinds: ClassVar[tuple[str, ...]] = ("csv",)

    def scores(self, image: torch.Tensor, size: Size) -> torch.Tensor:
        return classify(lambda view: self.model(view).logits, image, self.protocol)

    def read(self, scores: torch.Tensor, size: Size) -> Category:
        probability, category = scores.softmax(1)[0].max(0)
        return Category(int(category), float(probability))

    def writer(self, folder: Path, kinds: Sequence[str], raw: np.ndarray | None = None) -> CategoryWriter:
        return CategoryWriter(folder, kinds, self.spec, raw)


class CategoryWriter(Writer):
    """Adds a row as soon as an image is predicted, so that an interrupted prediction goes on; sorts them at the end.

    Args:
        raw: [K] the ids that the column ``id`` stores; None: train ids.
    """

    def __init__(self, folder: Path, kinds: Sequence[str], spec: DatasetSpec, raw: np.ndarray | None = None) -> None:
        super().__init__(folder, kinds)
        self.path = folder / FILE
        self.spec = spec
        self.begun = False
        self.ids = list(range(spec.num_classes)) if raw is None else [int(k) for k in raw]

    @property
    def places(self) -> list[Path]:
        return [self.path]

    @cached_property
    def there(self) -> dict[str, list[str]]:
        """The rows that were there at the beginning, and those added since."""
        return self.rows()

    def rows(self) -> dict[str, list[str]]:
        """The whole rows of the file, by image; a killed run may leave half a row at the end."""
        if not self.path.is_file():
            return {}
        content = self.path.read_text(encoding="utf-8")
        whole = csv.reader(io.StringIO(content[: content.rfind("\n") + 1], newline=""))
        return {row[0]: row for row in list(whole)[1:] if len(row) == len(COLUMNS)}

    def done(self, name: str) -> bool:
        return printable(name) in self.there

    def files(self, name: str) -> list[Path]:
        return []

    def forget(self, names: Iterable[str]) -> None:
        gone = set(map(printable, names)) & self.there.keys()
        if gone:
            for name in gone:
                del self.there[name]
            self.write(self.there.values())

    def add(self, name: str, image: np.ndarray, prediction: Category) -> None:
        about = self.ids[prediction.id], self.spec.classes[prediction.id], f"{prediction.probability:.4f}"
        row = [printable(name), *map(str, about)]
        if not self.begun:  # behind whole rows only
            self.write(self.there.values())
            self.begun = True
        with atomic.refused(self.path), self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(text([row]))
        self.there[row[0]] = row

    def close(self, order: Sequence[str]) -> None:
        rows = self.rows()  # other processes may have added some
        known = [name for name in map(printable, order) if name in rows]
        if rows:
            self.write(rows[name] for name in [*known, *sorted(rows.keys() - set(known))])

    def write(self, rows: Iterable[Sequence[str]]) -> None:
        """Replace the table."""
        atomic.write_text(self.path, text([COLUMNS, *rows]))


def text(rows: Iterable[Sequence[str]]) -> str:
    """Rows as CSV."""
    made = io.StringIO(newline="")
    csv.writer(made, lineterminator="\n").writerows(rows)
    return made.getvalue()


def printable(name: str) -> str:
    """A name that any text file takes: a file's name may be no text in any encoding."""
    return name.encode("utf-8", "backslashreplace").decode()
