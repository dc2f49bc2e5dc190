"""NYU Depth v2, 40 classes: 1449 labelled indoor images with depth, 795 for training and 654 for testing.

Silberman et al., "Indoor Segmentation and Support Inference from RGBD Images", ECCV 2012. The 40 classes: Gupta,
Arbelaez, Malik, "Perceptual Organization and Recognition of Indoor Scenes from RGB-D Images", CVPR 2013. There is no
official validation split. Published scores differ in how much of the white border of the 640x480 images they cut off,
and files in how they count the classes; both are options, and said with every score.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from seglab.checks import one_of
from seglab.data import io
from seglab.data.listing import Listing, Pair, first, match, scan
from seglab.data.source import FileSource, Opened
from seglab.data.spec import DatasetSpec
from seglab.data.tables import class_list, nyudv2_official
from seglab.data.targets import TARGETS
from seglab.errors import ConfigError, DataError
from seglab.types import IGNORE, Size

TABLE = class_list("nyudv2_40")
LABEL_MAPS = {
    "0..40": {0: IGNORE, **{raw: k for k, raw in enumerate(TABLE.raw)}},
    "0..39": {**{k: k for k in range(len(TABLE.raw))}, IGNORE: IGNORE},
}
"""How label files count: with 0 as void, or with 255 as void."""
MILLIMETRES = 1000
"""Per metre, in the PNGs of depths."""


class Region(NamedTuple):
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def size(self) -> Size:
        """(height, width)."""
        return self.height, self.width

    def of(self, values: np.ndarray) -> np.ndarray:
        """This part of an array [H, W, ...], as a view."""
        return values[self.top : self.top + self.height, self.left : self.left + self.width]


WHOLE: Size = (480, 640)
CROPS: dict[str, Region | None] = {
    "none": None,
    "gupta": Region(45, 40, 425, 560),  # Gupta et al.: MATLAB's rows 46..470, columns 41..600
    "toolbox": Region(44, 40, 427, 561),  # the mask of the data set's toolbox: rows 45..471, columns 41..601
    # Light-Weight RefineNet's files. Their place in the whole image is not published; public code that cuts depth maps
    # to them (yikaiw/CEN) takes the middle, and of an odd number of columns leaves one more at the right.
    "lwr": Region(6, 7, 468, 625),
}
"""What is left of a whole image."""


class Folders(NamedTuple):
    """Where files lie; ``{split}`` stands for the split's folder."""

    images: str
    labels: str
    depth: dict[str, str]
    """Kind of depth -> folder, where there are any."""
    counted: str
    """How its label files count (see ``LABEL_MAPS``)."""
    test: str = "test"
    """What the folder of ``test`` is called."""

    def of(self, pattern: str, split: str) -> str:
        """A folder of a split, below the root."""
        return pattern.format(split=self.test if split == "test" else split)


LAYOUTS = (
    Folders(
        "{split}/rgb", "{split}/labels_40", {"filled": "{split}/depth", "raw": "{split}/depth_raw"}, counted="0..40"
    ),
    Folders("image/{split}", "seg40/{split}", {"filled": "depth/{split}"}, counted="0..39"),
    Folders("{split}_images", "{split}_labels", {}, counted="0..39", test="val"),
)


class NYUDv2(FileSource):
    """PNGs of 640x480, or with the border cut off, in one of three layouts.

    Args:
        crop: what is left of an image and its maps: ``none`` (all), ``gupta`` (560x425), ``toolbox`` (561x427) or
            ``lwr`` (625x468, width x height). Files that are of that size already are taken as they are.
        labels: what label files hold: ``0..40`` (0 void, 1..40 the classes) or ``0..39`` (the classes, 255 void).
            ``auto``: what the layout's writer writes.
        depth: ``filled`` or ``raw`` depths are read into the samples, or ``none``; ``auto``: filled ones, where there
            are any.
    """

    splits = ("train", "test")
    official = (795, 654)
    gives = frozenset({"label", "depth"})
    prepare = "python scripts/prepare_nyudv2.py ROOT nyu_depth_v2_labeled.mat"
    layout = """
{train,test}/rgb/<name>.png                as the script writes them
{train,test}/labels_40/<name>.png          0 void, 1..40
{train,test}/{depth,depth_raw}/<name>.png  optional: 16 bits, millimetres, 0 unknown
or
{image,seg40,depth}/{train,test}/<name>.png    labels 0..39, void 255
or
{train,val}_{images,labels}/<name>.png         labels 0..39, void 255; val is the test split; for data.dataset.crop=lwr
"""

    def __init__(
        self,
        root: str | os.PathLike[str] | None,
        *,
        crop: str = "none",
        labels: str = "auto",
        depth: str = "auto",
        max_pixels: int = io.MAX_PIXELS,
        exif: str = "ignore",
    ) -> None:
        super().__init__(root, max_pixels=max_pixels, exif=exif)
        self.crop = one_of("data.dataset.crop", crop, tuple(CROPS))
        one_of("data.dataset.labels", labels, ("auto", *LABEL_MAPS))
        one_of("data.dataset.depth", depth, ("auto", "filled", "raw", "none"))
        home = "" if root is None else os.path.expanduser(root)

        def there(folders: Folders, pattern: str) -> bool:
            return any(os.path.isdir(os.path.join(home, folders.of(pattern, split))) for split in self.splits)

        found = [folders for folders in LAYOUTS if root is not None and there(folders, folders.images)]
        self.folders = found[0] if found else LAYOUTS[0]
        self.labels = self.folders.counted if labels == "auto" else labels
        kinds = [kind for kind, folder in self.folders.depth.items() if not found or there(self.folders, folder)]
        if depth not in ("auto", "none", *kinds):
            raise ConfigError(
                f"data.dataset.depth={depth}: {root} has {', '.join(kinds) or 'no'} depths — expected some of that kind"
                f" — prepare them ({self.prepare}), or set data.dataset.depth=auto"
            )
        self.depth = ("filled" if "filled" in kinds else "none") if depth == "auto" else depth
        if self.depth == "none":
            self.gives = frozenset({"label"})
        self.spec = DatasetSpec(
            "nyudv2", TABLE.classes, TABLE.palette, LABEL_MAPS[self.labels], {"crop": crop, "labels": self.labels}
        )

    def find(self, split: str) -> Listing:
        """Files of the same name; DataError where some images of a set with depths have none."""
        folders = self.folders
        images = scan(self.root, folders.of(folders.images, split), (".png", ".jpg"))
        listing = match(images, scan(self.root, folders.of(folders.labels, split), ".png"))
        if self.depth == "none":
            return listing
        folder = folders.of(folders.depth[self.depth], split)
        depths = scan(self.root, folder, ".png")
        lacking = sorted(images.keys() - depths.keys())
        if lacking:
            raise DataError(
                f"{folder}: {len(lacking)} of {len(images)} images have no depth: {first(lacking)} — one file per image"
                " is expected — restore them, or set data.dataset.depth=none"
            )
        start = len(folders.of(folders.images, split)) + 1
        pairs = [pair._replace(others=(("depth", depths[pair.name[start:]][0]),)) for pair in listing.pairs]
        return Listing(pairs, listing.extra, listing.duplicates)

    def open(self, split: str, index: int) -> Opened:
        """Label, depth and size of one item without the border; DataError as ``read``, for the image when it is."""
        opened = super().open(split, index)
        region = self.region(opened.size, self.path(self.pairs(split)[index].image))
        if region is None:
            return opened
        values = {
            name: region.of(value) if TARGETS[name].is_map else value for name, value in opened.values.items()
        }  # fmt: skip
        return Opened(name=opened.name, size=region.size, read=lambda _: region.of(opened.read(1)), values=values)

    def region(self, size: Sequence[int], path: str) -> Region | None:
        """What is cut from a file of ``size`` (height, width); None: it is taken whole.

        Raises:
            DataError: its border is cut off already, and not as ``crop`` says, or it is too small for that.
        """
        size, region = tuple(size), CROPS[self.crop]
        if region is not None and size == WHOLE:
            return region
        wanted = None if region is None else region.size
        if size == wanted:
            return None
        cut = {other.size: name for name, other in CROPS.items() if other is not None}
        if region is None and size not in cut:
            return None
        expected = f"{WHOLE[1]}x{WHOLE[0]}" + (f" or {wanted[1]}x{wanted[0]}" if wanted else "")
        mend = f"data.dataset.crop={cut[size]}, which leaves that size" if size in cut else "data.dataset.crop=none"
        raise DataError(
            f"{path}: {size[1]}x{size[0]} pixels, width x height — data.dataset.crop={self.crop} expects {expected}"
            f" — set {mend}"
        )

    def read_stored(self, pair: Pair) -> np.ndarray:
        """[H, W] ids of a pair's whole label as stored; DataError where ``crop`` is not for files of its size."""
        stored = super().read_stored(pair)
        self.region(stored.shape, self.path(pair.label or ""))
        return stored

    def read_map(self, target: str, path: str) -> np.ndarray:
        """[H, W] float32 metres, 0 where unknown."""
        return io.read_depth(path, MILLIMETRES, self.max_pixels)

    def hint(self, ids: Collection[int]) -> str | None:
        """The other way of counting, or the 894 names."""
        top, names = max(set(ids) - {IGNORE}, default=0), len(nyudv2_official().from_894) - 1
        if top > len(TABLE.classes):
            return (
                f"these look like ids of the data set's {names} names; take files of 40 classes, or run {self.prepare}"
            )
        if self.labels == "0..40" and IGNORE in ids and top < len(TABLE.classes):
            return "255 occurs and 40 does not, so classes are counted from 0; set data.dataset.labels=0..39"
        if self.labels == "0..39" and top == len(TABLE.classes) and IGNORE not in ids:
            return "40 occurs and 255 does not, so 0 is void; set data.dataset.labels=0..40"
        return None

    def suspicion(self, ids: Collection[int]) -> str | None:
        """Nearly every image has unlabelled pixels, and ``otherprop``, the last class."""
        void, last = (0, 40) if self.labels == "0..40" else (IGNORE, 39)
        missing = [f"{raw} ({what})" for raw, what in ((void, "void"), (last, TABLE.classes[-1])) if raw not in ids]
        if ids and missing:
            other = "0..39" if self.labels == "0..40" else "0..40"
            return (
                f"no label holds {' or '.join(missing)}, as in labels of fewer classes or that count otherwise; take"
                f" files of 40 classes, or set data.dataset.labels={other}"
            )
        return None
