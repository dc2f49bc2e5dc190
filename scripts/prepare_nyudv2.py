"""NYU Depth v2's labelled images as PNGs with 40 classes and depth. Safe to stop and start again.

    python scripts/prepare_nyudv2.py ROOT nyu_depth_v2_labeled.mat

Writes below ROOT, for {train,test} of the official split (795 and 654 images) and NNNN = the image's number from 1:

    {train,test}/labels_40/NNNN.png              0 void, 1..40
    {train,test}/{depth,depth_raw}/NNNN.png      16 bits, millimetres, 0 unknown; depth has its holes filled
    {train,test}/rgb/NNNN.png                    640x480, the white border included

The split and the map from the data set's 894 names to 40 classes come with seglab; of the official files only
nyu_depth_v2_labeled.mat (HDF5, 2.8 GB) is read, one image at a time.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from seglab.data.convert import Conversion, convert, run
from seglab.data.datasets.nyudv2 import MILLIMETRES, TABLE
from seglab.data.labels import ranges
from seglab.data.tables import nyudv2_official
from seglab.errors import DataError

FOLDERS = {"labels": "labels_40", "depths": "depth", "rawDepths": "depth_raw", "images": "rgb"}
"""What is written of which array."""
EXPECTED = "nyu_depth_v2_labeled.mat as published"
DEEPEST = 0xFFFF
"""Millimetres that 16 bits hold."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="folder to write to")
    parser.add_argument("mat", help="nyu_depth_v2_labeled.mat")
    parser.add_argument("--workers", type=int, default=None, help="threads (default: the cores, at most 8)")
    args = parser.parse_args()
    written = prepare(args.root, args.mat, args.workers)
    counts = ", ".join(f"{split}: {len(numbers)} images" for split, numbers in nyudv2_official().numbers.items())
    print(f"{written} files written below {args.root} ({counts})")


def prepare(root: str, mat: str, workers: int | None = None, splits: Mapping[str, Sequence[int]] | None = None) -> int:
    """Write the PNGs that are not there yet.

    Args:
        splits: split -> numbers of its images, from 1; the official ones unless given.

    Returns:
        How many files were written.

    Raises:
        DataError: no whole HDF5 file, arrays of other shapes, or names or ids that are not the published ones.
    """
    splits = nyudv2_official().numbers if splits is None else splits
    root = os.path.expanduser(root)
    with closing(Labeled(os.path.expanduser(mat), sum(map(len, splits.values())))) as labeled:
        written = 0
        # Images last: a run that was cut short leaves labels without images, which no training takes for a data set.
        for arrays in (("labels", "depths", "rawDepths"), ("images",)):
            conversions = [
                Conversion(f"{array}/{number}", os.path.join(root, split, FOLDERS[array], f"{number:04d}.png"))
                for array in arrays
                for split, numbers in splits.items()
                for number in numbers
            ]
            written += convert(conversions, labeled.encode, f"NYU Depth v2: {', '.join(arrays)}", workers)
        return written


class Labeled:
    """The official file, open.

    MATLAB stores the last axis first: an array of [height, width, n] is read as [n, width, height].
    """

    def __init__(self, path: str, number: int) -> None:
        try:
            import h5py
        except ImportError as error:
            raise DataError("reading MATLAB's v7.3 files needs h5py — run: pip install 'seglab[prepare]'") from error
        self.path = path
        try:
            self.file = h5py.File(path, "r")
        except OSError as error:  # of files cut short, too
            raise DataError(
                f"{path}: cannot be read as HDF5 ({error}) — {EXPECTED} is expected — restore it"
            ) from error
        try:
            self.check(number)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def check(self, number: int) -> None:
        """DataError unless there are ``number`` images with their maps, and the published names."""
        found = {name: getattr(self.file.get(name), "shape", None) for name in FOLDERS}
        width, height = (found["labels"] or (0, 0, 0))[1:]
        maps = (number, width, height)
        if found != dict.fromkeys(FOLDERS, maps) | {"images": (number, 3, width, height)}:
            said = ", ".join(f"{name} {list(shape) if shape else 'missing'}" for name, shape in found.items())
            raise DataError(
                f"{self.path}: {said} — {number} images [3, width, height] and maps [width, height] are expected"
                f" — take {EXPECTED}"
            )
        official, cells = nyudv2_official(), self.names()
        number = len(official.from_894) - 1
        known = {index: name for name, index in zip(TABLE.classes, official.id_894, strict=True) if index is not None}
        found_names = {index: self.text(cells[index - 1]) for index in known if index <= len(cells)}
        wrong = [f"{index} {found_names.get(index)} for {name}" for index, name in known.items()
                 if found_names.get(index) != name]  # fmt: skip
        if wrong or len(cells) != number:
            raise DataError(
                f"{self.path}: {len(cells)} names of classes, of which {len(wrong)} are others than known"
                f" ({'; '.join(wrong[:3])}) — the {number} published names are expected — take {EXPECTED}"
            )

    def names(self) -> list[Any]:
        """References to the data set's own names of classes, in the order of their ids, which are counted from 1."""
        try:
            return list(np.asarray(self.file["names"]).ravel())
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise DataError(f"{self.path}: names cannot be read ({error!r}) — take {EXPECTED}") from error

    def text(self, cell: Any) -> str:
        """What a reference to characters of 16 bits says."""
        try:
            return "".join(map(chr, np.asarray(self.file[cell]).ravel().tolist()))
        except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
            raise DataError(f"{self.path}: names cannot be read ({error!r}) — take {EXPECTED}") from error

    def encode(self, source: str) -> np.ndarray:
        """One map or image as it is written; ``source`` is ``ARRAY/NUMBER``."""
        name, _, number = source.partition("/")
        try:
            stored: np.ndarray = self.file[name][int(number) - 1].T
        except OSError as error:
            raise DataError(f"{self.path}: {source} cannot be read ({error}) — restore it from the archive") from error
        made: dict[str, Any] = {"images": rgb, "labels": classes}
        try:
            return made.get(name, millimetres)(stored)
        except ValueError as error:
            raise DataError(f"{self.path}: {source} holds {error} — take {EXPECTED}") from error


def rgb(stored: np.ndarray) -> np.ndarray:
    """[H, W, 3] uint8; ValueError where it is of another type."""
    if stored.dtype != np.uint8:
        raise ValueError(f"{stored.dtype}, and 8-bit colours are expected")
    return np.ascontiguousarray(stored)


def classes(stored: np.ndarray) -> np.ndarray:
    """[H, W] uint8, 0 void and 1..40, of ids of the 894 names; ValueError where one has no name."""
    table = np.array(nyudv2_official().from_894, np.uint8)
    if stored.dtype.kind not in "ui":
        raise ValueError(f"{stored.dtype}, and whole numbers are expected")
    if unknown := set(np.unique(stored).tolist()) - set(range(len(table))):
        raise ValueError(f"ids {ranges(unknown)}, and {ranges(range(len(table)))} are expected")
    return np.ascontiguousarray(table[stored])


def millimetres(stored: np.ndarray) -> np.ndarray:
    """[H, W] uint16 of metres, 0 where unknown; ValueError where 16 bits cannot hold them."""
    rounded = np.rint(stored.astype(np.float64) * MILLIMETRES)
    if not (np.isfinite(rounded).all() and rounded.min(initial=0) >= 0 and rounded.max(initial=0) <= DEEPEST):
        raise ValueError(f"depths beyond 0..{DEEPEST / MILLIMETRES} metres, or none that are numbers")
    return np.ascontiguousarray(rounded.astype(np.uint16))


if __name__ == "__main__":
    run(main)
