"""SBD's masks for PASCAL VOC 2012: the split trainaug of 10582 images. Safe to stop and start again.

    python scripts/prepare_voc2012.py ROOT SBD

ROOT is VOCdevkit/VOC2012 (VOCtrainval_11-May-2012.tar), SBD is benchmark_RELEASE/dataset (benchmark.tgz), or a folder
above either. Writes SegmentationClassAug/<name>.png (0 = background, 1..20; no borders) of the images that SBD adds,
and ImageSets/Segmentation/{aug,trainaug}.txt:

    trainaug = (SBD train + SBD val + VOC train) without VOC val        aug = trainaug without VOC train

The images of VOC train keep the masks of SegmentationClass, which mark borders as void.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from seglab.data.convert import Conversion, convert, read_mat, run, write_whole
from seglab.data.datasets.voc2012 import AUGMENTED, LISTS, TABLE, VOC2012
from seglab.data.labels import ranges
from seglab.data.listing import first, read_lines
from seglab.errors import DataError
from seglab.types import IGNORE

VOC_FOLDERS = ("", VOC2012.folder)
SBD_FOLDERS = ("", "dataset", "benchmark_RELEASE/dataset")
"""Where the archives' files may lie below the folder that is given."""
LEGAL = {*TABLE.raw, IGNORE}
"""SBD's maps are said to hold no 255; where one does, it means what it means in VOC."""


class Lists(NamedTuple):
    """Names of images, sorted."""

    aug: list[str]
    trainaug: list[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="VOCdevkit/VOC2012, or the folder of VOCdevkit")
    parser.add_argument("sbd", help="benchmark_RELEASE/dataset, or a folder above it")
    parser.add_argument("--workers", type=int, default=None, help="threads (default: the cores, at most 8)")
    args = parser.parse_args()
    written, lists = prepare(args.root, args.sbd, args.workers)
    official = VOC2012.official[VOC2012.splits.index("trainaug")]
    print(
        f"{written} label files written to {AUGMENTED} below {args.root};"
        f" trainaug has {len(lists.trainaug)} images (the official one {official})"
    )


def prepare(root: str, sbd: str, workers: int | None = None) -> tuple[int, Lists]:
    """Convert the masks that SBD adds and write the lists.

    Returns:
        The number of label files written, and the lists.

    Raises:
        DataError: lists or masks that are missing or of another kind.
    """
    sbd = below(sbd, SBD_FOLDERS, "cls", "benchmark_RELEASE/dataset of SBD's benchmark.tgz")
    root = below(root, VOC_FOLDERS, LISTS, "VOCdevkit/VOC2012 of VOCtrainval_11-May-2012.tar")
    lists = augmented(root, sbd)
    masks = {name: os.path.join(sbd, "cls", f"{name}.mat") for name in lists.aug}
    missing = [name for name, path in masks.items() if not os.path.exists(path)]
    if missing:
        raise DataError(
            f"{sbd}/cls: {len(missing)} of {len(masks)} masks are missing: {first(missing)}"
            " — one .mat per listed image is expected — unpack benchmark.tgz again"
        )
    labels = os.path.join(root, AUGMENTED)
    written = convert(
        [Conversion(path, os.path.join(labels, f"{name}.png")) for name, path in masks.items()], encode, "SBD", workers
    )
    # Last, so that a run that was cut short does not look like a finished one.
    for title, names in lists._asdict().items():
        text = "".join(f"{name}\n" for name in names)
        write_whole(os.path.join(root, LISTS, f"{title}.txt"), lambda part, text=text: Path(part).write_text(text))  # type: ignore[misc]
    return written, lists


def below(given: str, folders: Sequence[str], holds: str, expected: str) -> str:
    """``given`` or the first of the ``folders`` below it that has a folder ``holds``; DataError where none has."""
    for folder in (os.path.join(os.path.expanduser(given), name) for name in folders):
        if os.path.isdir(os.path.join(folder, holds)):
            return folder
    raise DataError(
        f"{given}: no folder {holds} in it — {expected} is expected — unpack the archive and name its folder"
    )


def augmented(root: str, sbd: str) -> Lists:
    """The lists by the rule above; DataError where a list is missing, or where SBD's are copies of VOC's."""
    voc = {split: set(read_lines(os.path.join(root, LISTS, f"{split}.txt"))) for split in ("train", "val")}
    added = {name for split in ("train", "val") for name in read_lines(os.path.join(sbd, f"{split}.txt"))}
    trainaug = (added | voc["train"]) - voc["val"]
    aug = trainaug - voc["train"]
    if not aug:
        raise DataError(
            f"{sbd}: train.txt and val.txt list no image beyond those of {root}/{LISTS}"
            " — SBD's own lists are expected — unpack benchmark.tgz again"
        )
    return Lists(sorted(aug), sorted(trainaug))


def encode(path: str) -> np.ndarray:
    """[H, W] uint8 of a mask of SBD, as it is stored."""
    stored = read_mat(path, "GTcls", "Segmentation")
    ids = np.unique(stored).tolist() if stored.ndim == 2 and stored.dtype.kind in "ui" else None
    if ids is None:
        raise DataError(f"{path}: GTcls.Segmentation is {stored.dtype} {stored.shape} — whole numbers [H, W] expected")
    if unknown := set(ids) - LEGAL:
        raise DataError(
            f"{path}: ids {ranges(unknown)} — {ranges(LEGAL)} are expected — take cls/, not inst/, of benchmark.tgz"
        )
    return stored.astype(np.uint8)


if __name__ == "__main__":
    run(main)
