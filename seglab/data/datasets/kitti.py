"""KITTI with the 19 classes of Cityscapes: the semantic benchmark of single images, and STEP's labelled videos.

Alhaija et al., "Augmented Reality Meets Computer Vision", IJCV 2018 (semantic benchmark, on the images of Menze and
Geiger, CVPR 2015); Weber et al., "STEP: Segmenting and Tracking Every Pixel", NeurIPS 2021 data sets (KITTI-STEP, on
the videos of the tracking benchmark of Geiger et al., CVPR 2012).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable

import numpy as np

from seglab.data import io
from seglab.data.datasets.cityscapes import LABEL_IDS, TABLE
from seglab.data.listing import Listing, Pair, match, scan
from seglab.data.source import FileSource
from seglab.data.spec import DatasetSpec
from seglab.errors import DataError
from seglab.types import IGNORE

HELD_OUT = frozenset((1, 5, 11, 29, 35, 49, 57, 68, 72, 82, 93, 115, 119, 130, 145, 154, 156, 167, 169, 189, 198))
"""Numbers of the 21 images of ``val`` (the first of three divisions in public code of Zhu et al., CVPR 2019)."""
LABELLED = "_10.png"
"""What the labelled frame's file ends with; the multi-view extension has frames 00 to 20 around it."""
STEP_VAL = frozenset(("0002", "0006", "0007", "0008", "0010", "0013", "0014", "0016", "0018"))


class KITTISemantic(FileSource):
    """200 street scenes of about 1242x375 with label ids; there is no official val, and the labels of test are private.

    Where the multi-view extension's frames lie beside the images, they are near frames of them.
    """

    spec = DatasetSpec("kitti_semantic", TABLE.classes, TABLE.palette, LABEL_IDS)
    splits = ("train", "val", "trainval", "test")
    official = (179, 21, 200, 200)
    unlabelled = ("test",)
    layout = """
training/image_2/<6 digits>_10.png     (the multi-view extension's _00.png .. _20.png may lie beside them)
training/semantic/<6 digits>_10.png    label ids of Cityscapes
testing/image_2/<6 digits>_10.png      (or test/image_2)
"""

    def find(self, split: str) -> Listing:
        """Files of the same number."""
        images = scan(self.root, self._images(split), LABELLED)
        if split == "test":
            return match(images, None)

        def keep(key: str) -> bool:
            return split == "trainval" or (int(key) in HELD_OUT) == (split == "val")

        if wrong := sorted(key for key in images if not key.isdecimal()):
            raise DataError(f"{images[wrong[0]][0]}: names of six digits and {LABELLED} are expected — remove it")
        return match(images, scan(self.root, "training/semantic", LABELLED), keep)

    def frames(self, split: str) -> Iterable[tuple[str, str]]:
        """The image's number, and the files of all frames around it."""
        found = scan(self.root, self._images(split), ".png")
        return [(key.partition("_")[0], path) for key, paths in found.items() for path in paths]

    def _images(self, split: str) -> str:
        if split != "test":
            return "training/image_2"
        return next((f for f in ("testing", "test") if os.path.isdir(self.path(f))), "testing") + "/image_2"

    def hint(self, ids: Collection[int]) -> str | None:
        """Instance ids, 256 for each label id."""
        if max(set(ids) - {IGNORE}, default=0) >= 256:
            return "these are instance ids (id * 256 + n); take the files of training/semantic"
        return None


class KITTISTEP(FileSource):
    """Videos of 10 frames a second, every frame labelled; the labels of test are private."""

    spec = DatasetSpec(
        "kitti_step", TABLE.classes, TABLE.palette, {**{k: k for k in range(len(TABLE.classes))}, IGNORE: IGNORE}
    )
    splits = ("train", "val", "test")
    unlabelled = ("test",)
    layout = """
training/image_02/<4 digits>/<6 digits>.png          images of the tracking benchmark
testing/image_02/<4 digits>/<6 digits>.png
panoptic_maps/{train,val}/<4 digits>/<6 digits>.png  RGB: R is the class 0..18 or 255, G and B the instance
"""

    def find(self, split: str) -> Listing:
        """Frames of the same video and number."""
        if split == "test":
            return match(scan(self.root, "testing/image_02", ".png"), None)
        images = scan(self.root, "training/image_02", ".png")
        labels = scan(self.root, f"panoptic_maps/{split}", ".png")
        return match(images, labels, lambda key: (key.partition("/")[0] in STEP_VAL) == (split == "val"))

    def sequence_of(self, name: str) -> str:
        """The folder."""
        return name.split("/")[-2]

    def read_stored(self, pair: Pair) -> np.ndarray:
        """[H, W] the red channel; DataError where the file is no RGB image."""
        assert pair.label is not None
        path = self.path(pair.label)
        if (mode := io.read_header(path, self.max_pixels).mode) != "RGB":
            raise DataError(
                f"{path}: label of mode {mode} — RGB with the class as red is expected — take the panoptic_maps of "
                "kitti-step.tar.gz as they are"
            )
        return self.upright(pair, io.read_image(path, self.max_pixels)[..., 0])
