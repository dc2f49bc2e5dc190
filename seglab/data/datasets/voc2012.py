"""PASCAL VOC 2012 segmentation, 21 classes, with the additional masks of SBD.

Everingham et al., "The Pascal Visual Object Classes Challenge: A Retrospective", IJCV 2015. SBD: Hariharan et al.,
"Semantic Contours from Inverse Detectors", ICCV 2011. The split ``trainaug`` of 10582 images is
(SBD train + SBD val + VOC train) without VOC val: SBD divides the images otherwise, and its train holds images of VOC's
val. Of its images, the 1464 of VOC train keep VOC's own masks, which mark borders as void; SBD's have no borders.
"""

from __future__ import annotations

from collections.abc import Collection

from seglab.data.listing import Listing, first, from_names, read_lines, scan
from seglab.data.source import FileSource
from seglab.data.spec import DatasetSpec
from seglab.data.tables import class_list
from seglab.errors import DataError
from seglab.types import IGNORE

TABLE = class_list("voc2012")
VOID_COLOUR = (224, 224, 192)
"""Of index 255 in the palette."""
LISTS = "ImageSets/Segmentation"
OWN, AUGMENTED = "SegmentationClass", "SegmentationClassAug"
HELD_OUT = ("train", "trainaug")
"""Splits that share no image with val."""


def grey(colour: tuple[int, int, int]) -> int:
    """ITU-R 601 luma, what ``Image.convert("L")`` makes of a colour."""
    red, green, blue = colour
    return (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16


GREYS = frozenset(grey(colour) for colour in (*TABLE.palette, VOID_COLOUR))


class VOC2012(FileSource):
    """Palette PNGs whose indices are 0 = background (a class), 1..20, and 255 = border and void.

    The labels of ``test`` are private. For the test server, training on all that is published is
    ``data.splits.train=[trainaug,val]``.
    """

    spec = DatasetSpec(
        "voc2012",
        TABLE.classes,
        TABLE.palette,
        {**{raw: k for k, raw in enumerate(TABLE.raw)}, **dict.fromkeys(TABLE.void, IGNORE)},
    )
    splits = ("train", "trainaug", "val", "trainval", "test")
    official = (1464, 10582, 1449, 2913, 1456)
    unlabelled = ("test",)
    folder = "VOCdevkit/VOC2012"
    prepare = "python scripts/prepare_voc2012.py ROOT SBD (trainaug only)"
    layout = """
VOCdevkit/VOC2012/JPEGImages/<name>.jpg
VOCdevkit/VOC2012/SegmentationClass/<name>.png                              0 background, 1..20, void 255
VOCdevkit/VOC2012/ImageSets/Segmentation/{train,val,trainval,test}.txt      one name a line
VOCdevkit/VOC2012/SegmentationClassAug/<name>.png                           for trainaug: SBD's masks, 0..20
VOCdevkit/VOC2012/ImageSets/Segmentation/trainaug.txt                       for trainaug
"""

    def find(self, split: str) -> Listing:
        """The names of the split's list; a mask of VOC goes before one of SBD.

        Raises:
            DataError: an image that is listed for training and for val.
        """
        source = self.path(f"{LISTS}/{split}.txt")
        names = read_lines(source)
        if split in HELD_OUT:
            self.refuse_shared(names, source)
        images = scan(self.root, "JPEGImages", ".jpg")
        labels: dict[str, list[str]] = {}
        if split == "trainaug":
            labels |= scan(self.root, AUGMENTED, ".png")
        if self.labelled(split):
            labels |= scan(self.root, OWN, ".png")
        return from_names(names, images, labels, source)

    def refuse_shared(self, names: Collection[str], source: str) -> None:
        """DataError where val has some of the ``names``: SBD's lists in place of VOC's, or merged without care."""
        shared = sorted(set(names) & set(read_lines(self.path(f"{LISTS}/val.txt"))))
        if shared:
            raise DataError(
                f"{source}: {len(shared)} of {len(names)} images are in val.txt as well: {first(shared)}"
                " — training and val share none in the official lists, those of SBD are others — restore the list;"
                " to train on val, add it: data.splits.train=[trainaug,val]"
            )

    def hint(self, ids: Collection[int]) -> str | None:
        """Colours turned into grey levels, or numbers of objects."""
        if set(ids) <= GREYS:
            return f"these are grey levels of the palette's colours; take the PNGs of {OWN}, whose indices are the ids"
        if max(set(ids) - {IGNORE}, default=0) == len(set(ids) - {IGNORE}) - 1:
            return f"numbers without a gap, as of objects in SegmentationObject; take the PNGs of {OWN}"
        return None

    def suspicion(self, ids: Collection[int]) -> str | None:
        """Nearly every image has background."""
        if ids and 0 not in ids:
            return (
                "no label holds 0 (background), as where background was made void and the others shifted to 0..19, or"
                f" left out; take the PNGs of {OWN}: background is a class here"
            )
        return None
