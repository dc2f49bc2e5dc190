"""Cityscapes fine annotations, 19 classes.

Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016. The archive holds labelIds
(0..33); labelTrainIds (0..18, void 255) are made from them and give the same labels.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from itertools import takewhile

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
SEQUENCES = "leftImg8bit_sequence"
BEFORE, AFTER = 19, 10
"""Frames of a snippet before and after the labelled one: its number is 19 in most cities, a running one in others."""


class Cityscapes(FileSource):
    """Street scenes of 2048x1024; the labels of ``test`` are private.

    Args:
        labels: ``label_ids`` maps the archive's files while reading, ``train_ids`` reads converted files; both give the
            same labels. ``auto`` reads the archive's files where there are any.
        every_frame: items are all frames of ``leftImg8bit_sequence``, those without a label void. Otherwise these are
            the near frames of the labelled ones.
    """

    splits = ("train", "val", "test")
    official: tuple[int, ...] = (2975, 500, 1525)
    unlabelled = ("test",)
    layout = """
leftImg8bit/{train,val,test}/<city>/<city>_<6 digits>_<6 digits>_leftImg8bit.png
gtFine/{train,val}/<city>/<city>_<6 digits>_<6 digits>_gtFine_labelIds.png        (or _gtFine_labelTrainIds.png)
leftImg8bit_sequence/{train,val,test}/<city>/<city>_<6 digits>_<6 digits>_leftImg8bit.png   (videos, where asked for)
"""

    def __init__(
        self,
        root: str | os.PathLike[str] | None,
        *,
        labels: str = "auto",
        every_frame: bool = False,
        max_pixels: int = io.MAX_PIXELS,
        exif: str = "ignore",
    ) -> None:
        super().__init__(root, max_pixels=max_pixels, exif=exif)
        self.every_frame = every_frame
        if every_frame:
            self.official = tuple((BEFORE + 1 + AFTER) * number for number in type(self).official)
        self._snippets: dict[str, dict[str, str]] = {}
        self._files: dict[str, dict[str, list[str]]] = {}
        one_of("data.dataset.labels", labels, ("auto", *SUFFIX))
        if labels == "auto":
            published = any(holds(root, f"gtFine/{split}", SUFFIX["label_ids"]) for split in ("train", "val"))
            labels = "train_ids" if not published and holds(root, "gtFine", SUFFIX["train_ids"]) else "label_ids"
        self.labels = labels
        label_map = LABEL_IDS if labels == "label_ids" else None
        self.spec = DatasetSpec("cityscapes", TABLE.classes, TABLE.palette, label_map)

    def find(self, split: str) -> Listing:
        """Files of the same city, sequence and frame."""
        images = self.sequence_files(split) if self.every_frame else scan(self.root, f"leftImg8bit/{split}", IMAGE)
        return match(images, None if split in self.unlabelled else self.labelled_frames(split))

    def labelled_frames(self, split: str) -> dict[str, list[str]]:
        """Files that say which frame of a snippet is the labelled one: the labels, or in test the single images."""
        if split in self.unlabelled:
            return scan(self.root, f"leftImg8bit/{split}", IMAGE)
        return scan(self.root, f"gtFine/{split}", SUFFIX[self.labels])

    def sequence_files(self, split: str) -> dict[str, list[str]]:
        """Files of all frames, by ``city/city_sequence_frame``; looked up once."""
        if split not in self._files:
            self._files[split] = scan(self.root, f"{SEQUENCES}/{split}", IMAGE)
        return self._files[split]

    def sequence_of(self, name: str) -> str | None:
        """The snippet, called by its labelled frame; None of single images."""
        if not self.every_frame:
            return None
        _, split, key = name.removesuffix(IMAGE.removesuffix(".png")).split("/", 2)
        if split not in self._snippets:
            runs = {labelled: _around(labelled) for labelled in self.labelled_frames(split)}
            self._snippets[split] = {frame: labelled for labelled, run in runs.items() for frame in run}
        return self._snippets[split].get(key, key.rpartition("_")[0]).rpartition("/")[2]

    def video(self, split: str, index: int) -> tuple[Sequence[str], int]:
        """The snippet around a labelled frame, as far as its files are there one by one."""
        if self.every_frame:
            return super().video(split, index)
        image, files = self.pairs(split)[index].image, self.sequence_files(split)
        run = _around(image.split("/", 2)[2].removesuffix(IMAGE))
        before = list(takewhile(files.__contains__, reversed(run[:BEFORE])))[::-1]
        after = list(takewhile(files.__contains__, run[BEFORE + 1 :]))
        return [*(files[key][0] for key in before), image, *(files[key][0] for key in after)], len(before)

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


def _around(labelled: str) -> list[str]:
    """The frames of a snippet, as ``city/city_sequence_frame``, by its labelled one."""
    start, _, number = labelled.rpartition("_")
    return [f"{start}_{int(number) + offset:06d}" for offset in range(-BEFORE, AFTER + 1)]
