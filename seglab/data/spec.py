"""What a dataset is, apart from its files: classes, colours, and the one table from stored ids to train ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from seglab.errors import ConfigError
from seglab.types import IGNORE


@dataclass(frozen=True)
class DatasetSpec:
    """Classes, palette and label map of a dataset."""

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    """One RGB colour per class, for display only: two classes may share a colour."""
    label_map: Mapping[int, int] | None = field(default=None, hash=False)
    """Stored id -> train id or ``IGNORE``, for every legal stored id; None: these are what is stored."""
    variant: Mapping[str, str] = field(default_factory=dict, compare=False)
    """What its files are read as, where published numbers differ in it (a border that is cut off): said with every
    score. Empty for most data sets."""

    def __post_init__(self) -> None:
        """Refuse a table that cannot be meant."""
        if not self.classes or len(self.palette) != len(self.classes):
            raise ConfigError(
                f"dataset {self.name}: {len(self.classes)} classes and {len(self.palette)} colours"
                " — one colour per class is needed, and at least one class"
            )
        if len(self.classes) >= IGNORE:
            raise ConfigError(
                f"dataset {self.name}: {len(self.classes)} classes — at most {IGNORE - 1} fit the 8 bits of a label"
            )
        if strange := [colour for colour in self.palette if not all(0 <= part <= 255 for part in colour)]:
            raise ConfigError(f"dataset {self.name}: colour {strange[0]} — three numbers from 0 to 255 are expected")
        if self.label_map is not None:
            trains = {*range(self.num_classes), IGNORE}
            wrong = {raw: to for raw, to in self.label_map.items() if to not in trains or not 0 <= raw <= 0xFFFF}
            if wrong:
                raise ConfigError(
                    f"dataset {self.name}: label map sends {wrong} — stored ids are 0..{0xFFFF}, train ids"
                    f" 0..{self.num_classes - 1}, void is {IGNORE} — mend data.dataset.label_map"
                )

    @property
    def title(self) -> str:
        """The name, with the variant in brackets."""
        said = ", ".join(f"{key} {value}" for key, value in self.variant.items())
        return f"{self.name} ({said})" if said else self.name

    def record(self) -> dict[str, Any]:
        """As plain data, to stand beside scores: the name and, where there is one, the variant."""
        return {"dataset": self.name} | ({"variant": dict(self.variant)} if self.variant else {})

    @property
    def num_classes(self) -> int:
        """Number of classes K; train ids are 0..K-1."""
        return len(self.classes)

    @property
    def table(self) -> Mapping[int, int]:
        """The label map, written out where it is the identity."""
        if self.label_map is not None:
            return self.label_map
        return {**{k: k for k in range(self.num_classes)}, IGNORE: IGNORE}
