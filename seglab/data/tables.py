"""The class tables that travel with the package: names, colours and official ids of every published dataset."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "meta"


@dataclass(frozen=True)
class ClassList:
    """One row per class, in the order of train ids."""

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    raw: tuple[int, ...]
    """The dataset's own id of each class."""
    void: tuple[int, ...]
    """The dataset's own ids that no class stands for."""


@cache
def class_list(name: str) -> ClassList:
    """The table ``meta/<name>.json``."""
    data = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    rows = data["classes"]
    return ClassList(
        tuple(row["name"] for row in rows),
        tuple((row["color"][0], row["color"][1], row["color"][2]) for row in rows),
        tuple(row["raw"] for row in rows),
        tuple(data.get("void", ())),
    )


@cache
def coco_stuff10k_split(split: str) -> tuple[str, ...]:
    """Image names of the official COCO-Stuff 10K ``train`` (9000) or ``test`` (1000) list."""
    numbers = (FOLDER / f"coco_stuff10k_{split}.txt").read_text(encoding="utf-8").split()
    return tuple(f"COCO_train2014_{int(number):012d}" for number in numbers)
