"""Pascal-Context labels of 459 categories -> 59 classes and background. Safe to stop and start again.

    python scripts/prepare_pascal_context.py ROOT [--mat FOLDER]

ROOT is VOCdevkit/VOC2010 (VOCtrainval_03-May-2010.tar), FOLDER the unpacked trainval.tar.gz with one .mat per image
(default: ROOT/trainval). Writes SegmentationClassContext/<name>.png (0 = background, 1..59) and
ImageSets/SegmentationContext/{train,val}.txt, the Main lists of VOC2010 (4998 and 5105 images).
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

from seglab.data.convert import Conversion, convert, read_mat, run, write_whole
from seglab.data.datasets.pascal_context import TABLE
from seglab.data.listing import first, read_lines
from seglab.errors import DataError

CATEGORIES = 459


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="VOCdevkit/VOC2010")
    parser.add_argument("--mat", default=None, help="folder of the .mat files (default: ROOT/trainval)")
    parser.add_argument("--workers", type=int, default=None, help="threads (default: the cores, at most 8)")
    args = parser.parse_args()
    print(
        f"{prepare(args.root, args.mat, args.workers)} label files written below {args.root}/SegmentationClassContext"
    )


def prepare(root: str, mat: str | None = None, workers: int | None = None) -> int:
    """Convert the .mat files of the Main lists and write the lists; returns the number of label files written."""
    mat = mat or os.path.join(root, "trainval")
    lists = {split: main_list(root, split) for split in ("train", "val")}
    names = sorted({name for split in lists.values() for name in split})
    missing = [name for name in names if not os.path.exists(os.path.join(mat, f"{name}.mat"))]
    if missing:
        raise DataError(
            f"{mat}: {len(missing)} of {len(names)} label files are missing: {first(missing)}"
            " — one .mat per image of VOC2010 is expected — unpack trainval.tar.gz and name its folder with --mat"
        )
    labels = os.path.join(root, "SegmentationClassContext")
    conversions = [Conversion(os.path.join(mat, f"{name}.mat"), os.path.join(labels, f"{name}.png")) for name in names]
    written = convert(conversions, encode, "Pascal-Context", workers)
    # Last, so that a run that was cut short does not look like a finished one.
    folder = os.path.join(root, "ImageSets", "SegmentationContext")
    os.makedirs(folder, exist_ok=True)
    for split, split_names in lists.items():
        text = "".join(f"{name}\n" for name in split_names)
        write_whole(os.path.join(folder, f"{split}.txt"), lambda part, text=text: Path(part).write_text(text))  # type: ignore[misc]
    return written


def main_list(root: str, split: str) -> list[str]:
    """Image names of ``ImageSets/Main`` (not of ``ImageSets/Segmentation``, which is another, smaller split)."""
    return [line.split()[0] for line in read_lines(os.path.join(root, "ImageSets", "Main", f"{split}.txt"))]


def encode(path: str) -> np.ndarray:
    """[H, W] uint8 with 0 = background and 1..59, of a .mat file of 459 categories."""
    stored = read_mat(path, "LabelMap")
    if stored.min() < 0 or stored.max() > CATEGORIES:
        raise DataError(
            f"{path}: ids {stored.min()}..{stored.max()} — 0..{CATEGORIES} are expected"
            " — take trainval.tar.gz of Pascal-Context"
        )
    table = np.zeros(CATEGORIES + 1, dtype=np.uint8)
    table[list(TABLE.raw)] = range(len(TABLE.raw))
    return table[stored]


if __name__ == "__main__":
    run(main)
