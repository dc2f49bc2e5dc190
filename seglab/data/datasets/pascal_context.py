"""Pascal-Context with 59 classes, or 60 where background is a class.

Mottaghi et al., "The Role of Context for Object Detection and Semantic Segmentation in the Wild", CVPR 2014. One PNG
serves both: 0 = background (unlabelled pixels and the 400 rarer categories), 1..59 in the order of the 459-name list.
"""

from __future__ import annotations

from collections.abc import Collection

from seglab.data.listing import Listing, from_names, read_lines, scan
from seglab.data.source import FileSource
from seglab.data.spec import DatasetSpec
from seglab.data.tables import class_list
from seglab.types import IGNORE

TABLE = class_list("pascal_context")
FOREGROUND = len(TABLE.classes) - 1


class PascalContext60(FileSource):
    """Background is class 0: it counts in the loss and in mIoU."""

    spec = DatasetSpec(
        "pascal_context60", TABLE.classes, TABLE.palette, {**{k: k for k in range(FOREGROUND + 1)}, IGNORE: IGNORE}
    )
    splits = ("train", "val")
    official = (4998, 5105)
    folder = "VOCdevkit/VOC2010"
    prepare = "python scripts/prepare_pascal_context.py ROOT"
    layout = """
VOCdevkit/VOC2010/JPEGImages/<name>.jpg
VOCdevkit/VOC2010/SegmentationClassContext/<name>.png              0 background, 1..59
VOCdevkit/VOC2010/ImageSets/SegmentationContext/{train,val}.txt    copies of ImageSets/Main/{train,val}.txt
"""

    def find(self, split: str) -> Listing:
        """The names of the split's list."""
        path = f"ImageSets/SegmentationContext/{split}.txt"
        names = read_lines(self.path(path))
        images = scan(self.root, "JPEGImages", ".jpg")
        return from_names(names, images, scan(self.root, "SegmentationClassContext", ".png"), self.path(path))

    def hint(self, ids: Collection[int]) -> str | None:
        """The 459 categories, not reduced."""
        if FOREGROUND < max(set(ids) - {IGNORE}, default=0) <= 459:
            return f"these are ids of the 459 categories; run {self.prepare}"
        return None

    def suspicion(self, ids: Collection[int]) -> str | None:
        """Prepared labels never hold 255, and 59 (wood) occurs."""
        if IGNORE in ids and FOREGROUND not in ids:
            return f"255 occurs and 59 does not, as in labels already shifted to 0..58; run {self.prepare}"
        return None


class PascalContext59(PascalContext60):
    """Background is void."""

    spec = DatasetSpec(
        "pascal_context59",
        TABLE.classes[1:],
        TABLE.palette[1:],
        {0: IGNORE, **{k + 1: k for k in range(FOREGROUND)}, IGNORE: IGNORE},
    )
