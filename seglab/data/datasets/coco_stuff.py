"""COCO-Stuff, 171 classes: 10K (v1.1) and 164K.

Caesar, Uijlings, Ferrari, "COCO-Stuff: Thing and Stuff Classes in Context", CVPR 2018. Label id: 0 unlabelled, 1..91
things of which 11 were never annotated, 92..182 stuff; the other 171 in order are train ids 0..170. The two versions
store void differently (10K: 0, classes from 1; 164K: 255, classes from 0): taking one for the other shifts every class
by one and still trains.
"""

from __future__ import annotations

import os
from collections.abc import Collection

from seglab.checks import one_of
from seglab.data import io
from seglab.data.listing import Listing, first, holds, match, scan
from seglab.data.source import FileSource
from seglab.data.spec import DatasetSpec
from seglab.data.tables import class_list, coco_stuff10k_split
from seglab.errors import DataError
from seglab.types import IGNORE

TABLE = class_list("coco_stuff")
TRAIN_IDS = "_labelTrainIds.png"
K = len(TABLE.classes)


class CocoStuff10k(FileSource):
    """Converted PNGs with 0 = unlabelled and 1..171. There is no validation split: ``test`` is what papers report."""

    spec = DatasetSpec(
        "coco_stuff10k", TABLE.classes, TABLE.palette, {0: IGNORE, **{k + 1: k for k in range(K)}, IGNORE: IGNORE}
    )
    splits = ("train", "test")
    official = (9000, 1000)
    prepare = "python scripts/prepare_coco_stuff.py 10k ROOT"
    layout = """
images/COCO_train2014_<12 digits>.jpg   (or images/{train2014,test2014}/...)
annotations/{train2014,test2014}/COCO_train2014_<12 digits>_labelTrainIds.png   0 void, 1..171
"""

    def find(self, split: str) -> Listing:
        """The files of the split's folder; a flat image folder is divided by the official list."""
        folder = f"{split}2014"
        labels = scan(self.root, f"annotations/{folder}", TRAIN_IDS)
        other = set(coco_stuff10k_split("train" if split == "test" else "test"))
        if os.path.isdir(os.path.join(self.root, "images", folder)):
            images, keep = scan(self.root, f"images/{folder}", ".jpg"), None
        else:
            images, keep = scan(self.root, "images", ".jpg"), set(coco_stuff10k_split(split)).__contains__
        strangers = sorted(other & labels.keys() | (other & images.keys() if keep is None else set()))
        if strangers:
            raise DataError(
                f"coco_stuff10k, {folder}: {len(strangers)} files of the other official split: {first(strangers)}"
                f" — remove them, or prepare again: {self.prepare}"
            )
        return match(images, labels, keep)

    def hint(self, ids: Collection[int]) -> str | None:
        """The .mat ids run to 182."""
        if max(ids) in range(172, 183):
            return f"these are official ids 0..182, not train ids; run {self.prepare}"
        return None

    def suspicion(self, ids: Collection[int]) -> str | None:
        """255 marks the 164K way of storing, in which 171 cannot occur."""
        if IGNORE in ids and K not in ids:
            return (
                "255 occurs and 171 does not: stored as 164K (0..170, void 255), every class would be shifted by one;"
                f" run {self.prepare}"
            )
        return None


class CocoStuff164k(FileSource):
    """PNGs as published (label id - 1, void 255) or converted to train ids (0..170, void 255).

    Args:
        labels: ``raw`` reads ``<id>.png``, ``train_ids`` reads ``<id>_labelTrainIds.png``; both give the same labels.
            ``auto`` reads the published files where there are any.
    """

    splits = ("train2017", "val2017")
    official = (118287, 5000)
    layout = """
images/{train2017,val2017}/<12 digits>.jpg
annotations/{train2017,val2017}/<12 digits>.png                 as published: label id - 1, void 255
annotations/{train2017,val2017}/<12 digits>_labelTrainIds.png   or converted: 0..170, void 255
"""

    def __init__(
        self,
        root: str | os.PathLike[str] | None,
        *,
        labels: str = "auto",
        max_pixels: int = io.MAX_PIXELS,
        exif: str = "ignore",
    ) -> None:
        super().__init__(root, max_pixels=max_pixels, exif=exif)
        one_of("data.dataset.labels", labels, ("auto", "raw", "train_ids"))
        if labels == "auto":
            published = holds(root, "annotations", ".png", skip=TRAIN_IDS)
            labels = "train_ids" if not published and holds(root, "annotations", TRAIN_IDS) else "raw"
        self.raw = labels == "raw"
        published_ids = {**{raw - 1: k for k, raw in enumerate(TABLE.raw)}, IGNORE: IGNORE}
        self.spec = DatasetSpec("coco_stuff164k", TABLE.classes, TABLE.palette, published_ids if self.raw else None)

    def find(self, split: str) -> Listing:
        """Files of the same name; published and converted labels share a folder and differ by suffix."""
        folder = f"annotations/{split}"
        labels = scan(self.root, folder, ".png", skip=TRAIN_IDS) if self.raw else scan(self.root, folder, TRAIN_IDS)
        return match(scan(self.root, f"images/{split}", ".jpg"), labels)

    def hint(self, ids: Collection[int]) -> str | None:
        """Published and converted files under each other's name, or files of the 10K set."""
        if self.raw and max(set(ids) - {IGNORE}, default=0) < K:
            return "a removed id in a published file: these look like train ids; set data.dataset.labels=train_ids"
        if 182 in ids:
            return "182 occurs in the official ids of the 10K .mat files only; take stuffthingmaps_trainval2017.zip"
        if not self.raw and max(set(ids) - {IGNORE}, default=0) == K:
            return "171 occurs in labels converted for the 10K set; set data=coco_stuff10k, or data.dataset.labels=raw"
        if not self.raw:
            return "these look like the published ids 0..181; set data.dataset.labels=raw"
        return None
