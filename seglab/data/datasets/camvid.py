"""CamVid, 11 classes, in the SegNet packaging of 480x360.

Brostow, Fauqueur, Cipolla, "Semantic Object Classes in Video: A High-Definition Ground Truth Database", Pattern
Recognition Letters 30(2), 2009. Report on test: val lies inside the training video.
"""

from __future__ import annotations

from seglab.data.listing import Listing, match, scan
from seglab.data.source import FileSource
from seglab.data.spec import DatasetSpec
from seglab.data.tables import class_list
from seglab.types import IGNORE

TABLE = class_list("camvid")


class CamVid(FileSource):
    """Index PNGs with 0..10 and void as 11 (SegNet) or 255."""

    spec = DatasetSpec(
        "camvid", TABLE.classes, TABLE.palette, {**{k: k for k in TABLE.raw}, len(TABLE.raw): IGNORE, IGNORE: IGNORE}
    )
    splits = ("train", "val", "test")
    official = (367, 101, 233)
    sparse = ("train", "test")
    """One frame a second; val has 15."""
    layout = """
{train,val,test}/images/<name>.jpg   (or .png)
{train,val,test}/labels/<name>.png   0..10, void 11 or 255
"""

    def sequence_of(self, name: str) -> str:
        """Names begin with their video: ``0016E5_07959``."""
        return name.rpartition("/")[2].partition("_")[0]

    def find(self, split: str) -> Listing:
        """Files of the same name."""
        images = scan(self.root, f"{split}/images", (".jpg", ".png"))
        return match(images, scan(self.root, f"{split}/labels", ".png"))
