"""The class tables that travel with the package: names, colours and official ids of every published dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping
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


@dataclass(frozen=True)
class NYUDv2Official:
    """What the 40 classes of NYU Depth v2 and its split are made of."""

    from_894: tuple[int, ...]
    """Class 0..40 of each id 0..894 of the data set's own names; 0 is void."""
    id_894: tuple[int | None, ...]
    """For each class the one id of the 894 that has its name; None where it stands for many."""
    numbers: Mapping[str, tuple[int, ...]]
    """Split -> the images' numbers, from 1."""


@cache
def nyudv2_official() -> NYUDv2Official:
    """The rest of ``meta/nyudv2_40.json``."""
    data = json.loads((FOLDER / "nyudv2_40.json").read_text(encoding="utf-8"))
    numbers = {split: tuple(data[split]) for split in ("train", "test")}
    return NYUDv2Official(tuple(data["from_894"]), tuple(row["raw_894"] for row in data["classes"]), numbers)


@cache
def coco_stuff10k_split(split: str) -> tuple[str, ...]:
    """Image names of the official COCO-Stuff 10K ``train`` (9000) or ``test`` (1000) list."""
    numbers = (FOLDER / f"coco_stuff10k_{split}.txt").read_text(encoding="utf-8").split()
    return tuple(f"COCO_train2014_{int(number):012d}" for number in numbers)
