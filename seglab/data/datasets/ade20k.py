"""ADE20K scene parsing benchmark, 150 classes.

Zhou et al., "Scene Parsing through ADE20K Dataset", CVPR 2017. Archive ADEChallengeData2016.zip; the full ADE20K with
3 000 names is another set.
"""

from __future__ import annotations

from collections.abc import Collection

from seglab.data.listing import Listing, match, scan
from seglab.data.source import FileSource
from seglab.data.spec import DatasetSpec
from seglab.data.tables import class_list
from seglab.types import IGNORE

TABLE = class_list("ade20k")


class ADE20K(FileSource):
    """PNGs with 0 = other objects (void) and 1..150."""

    spec = DatasetSpec(
        "ade20k", TABLE.classes, TABLE.palette, {0: IGNORE, **{k: i for i, k in enumerate(TABLE.raw)}, IGNORE: IGNORE}
    )
    splits = ("training", "validation")
    official = (20210, 2000)
    folder = "ADEChallengeData2016"
    layout = """
ADEChallengeData2016/images/{training,validation}/ADE_{train,val}_<8 digits>.jpg
ADEChallengeData2016/annotations/{training,validation}/ADE_{train,val}_<8 digits>.png   0 void, 1..150
"""

    def find(self, split: str) -> Listing:
        """Files of the same name."""
        return match(scan(self.root, f"images/{split}", ".jpg"), scan(self.root, f"annotations/{split}", ".png"))

    def hint(self, ids: Collection[int]) -> str | None:
        """The full ADE20K has more than 150 classes."""
        if max(ids) > 150:
            return "this looks like the full ADE20K; take ADEChallengeData2016.zip (data.root=.../ADEChallengeData2016)"
        return None

    def suspicion(self, ids: Collection[int]) -> str | None:
        """Benchmark labels never hold 255, and 150 (flag) occurs."""
        if IGNORE in ids and 150 not in ids:
            return "255 occurs and 150 does not, as in labels shifted to 0..149; take the PNGs of ADEChallengeData2016"
        return None
