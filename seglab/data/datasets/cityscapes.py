"""Cityscapes fine annotations, 19 classes.

Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016. The archive holds labelIds
(0..33); labelTrainIds (0..18, void 255) are made from them and give the same labels.
"""

from __future__ import annotations

import os
from collections.abc import Collection

from seglab.checks import one_of
from seglab.data import io
from seglab.data.listing import Listing, holds, match, scan
from seglab.data.source import FileSource
from seglab.data.spec import DatasetSpec
from seglab.data.tables import class_list
from seglab.types import IGNORE

TABLE = class_list("cityscapes")
IMAGE = "_leftImg8bit.png"
SUFFIX = {"label_ids": "_gtFine_labelIds.png", "train_ids": "_gtFine_labelTrainIds.png"}
LABEL_IDS = {**dict.fromkeys(TABLE.void, IGNORE), **{raw: k for k, raw in enumerate(TABLE.raw)}}
"""Label id of the archive -> train id."""


class Cityscapes(FileSource):
    """Street scenes of 2048x1024; the labels of ``test`` are private.

    Args:
        labels: ``label_ids`` maps the archive's files while reading, ``train_ids`` reads converted files; both give the
            same labels. ``auto`` reads the archive's files where there are any.
    """

    splits = ("train", "val", "test")
    official = (2975, 500, 1525)
    unlabelled = ("test",)
    layout = """
leftImg8bit/{train,val,test}/<city>/<city>_<6 digits>_<6 digits>_leftImg8bit.png
gtFine/{train,val}/<city>/<city>_<6 digits>_<6 digits>_gtFine_labelIds.png        (or _gtFine_labelTrainIds.png)
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
        one_of("data.dataset.labels", labels, ("auto", *SUFFIX))
        if labels == "auto":
            published = any(holds(root, f"gtFine/{split}", SUFFIX["label_ids"]) for split in ("train", "val"))
            labels = "train_ids" if not published and holds(root, "gtFine", SUFFIX["train_ids"]) else "label_ids"
        self.labels = labels
        label_map = LABEL_IDS if labels == "label_ids" else None
        self.spec = DatasetSpec("cityscapes", TABLE.classes, TABLE.palette, label_map)

    def find(self, split: str) -> Listing:
        """Files of the same city, sequence and frame."""
        images = scan(self.root, f"leftImg8bit/{split}", IMAGE)
        if split in self.unlabelled:
            return match(images, None)
        return match(images, scan(self.root, f"gtFine/{split}", SUFFIX[self.labels]))

    def hint(self, ids: Collection[int]) -> str | None:
        """Label ids for train ids, the reverse, or instance ids."""
        top = max(set(ids) - {IGNORE}, default=0)
        if top >= 1000:
            return "these are instance ids (id * 1000 + n); take the _gtFine_labelIds.png files"
        if self.labels == "train_ids" and top <= 33:
            return "these look like label ids; set data.dataset.labels=label_ids, or run scripts/prepare_cityscapes.py"
        if self.labels == "label_ids" and IGNORE in ids and top < len(TABLE.classes):
            return "these look like train ids; set data.dataset.labels=train_ids"
        return None
