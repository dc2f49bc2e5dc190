"""COCO-Stuff labels -> train ids. Safe to stop and start again: finished files are kept.

    python scripts/prepare_coco_stuff.py 10k ROOT     annotations/*.mat -> annotations/*2014/*_labelTrainIds.png
    python scripts/prepare_coco_stuff.py 164k ROOT    annotations/*2017/*.png -> annotations/*2017/*_labelTrainIds.png

Images stay where they are. 164K can also be used as published (data.dataset.labels=raw). The two sets store void
differently: 10K has 0 and classes from 1, 164K has 255 and classes from 0.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection

import numpy as np

from seglab.data import io
from seglab.data.convert import Conversion, convert, read_mat, run
from seglab.data.datasets.coco_stuff import TABLE, TRAIN_IDS, CocoStuff164k
from seglab.data.labels import ranges
from seglab.data.listing import scan
from seglab.data.tables import coco_stuff10k_split
from seglab.errors import DataError

LABEL_IDS = {0: 0, **{raw: k + 1 for k, raw in enumerate(TABLE.raw)}}
"""Official label id -> id in the converted 10K file."""

PROBES = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", choices=("10k", "164k"))
    parser.add_argument("root", help="folder that holds images/ and annotations/")
    parser.add_argument("--workers", type=int, default=None, help="threads (default: the cores, at most 8)")
    args = parser.parse_args()
    written = (prepare_10k if args.version == "10k" else prepare_164k)(args.root, args.workers)
    print(f"{written} label files written below {os.path.join(args.root, 'annotations')}")


def prepare_10k(root: str, workers: int | None = None) -> int:
    """Convert the .mat files of v1.1 by the official split lists; returns the number of files written."""
    files = scan(root, "annotations", ".mat")
    known = {name: split for split in ("train", "test") for name in coco_stuff10k_split(split)}
    conversions = [
        Conversion(
            os.path.join(root, paths[0]), os.path.join(root, "annotations", f"{known[name]}2014", name + TRAIN_IDS)
        )
        for name, paths in sorted(files.items())
        if name in known
    ]
    if not conversions:
        raise DataError(
            f"{root}/annotations: no COCO_train2014_*.mat of the official lists"
            " — the files of cocostuff-10k-v1.1.zip are expected there — unpack it into ROOT"
        )
    probes = conversions[:: max(1, len(conversions) // PROBES)]
    refuse_v10(
        set().union(*(np.unique(read_mat(conversion.source, "S")).tolist() for conversion in probes)), probes[0].source
    )
    return convert(conversions, encode_10k, "COCO-Stuff 10K", workers)


def prepare_164k(root: str, workers: int | None = None) -> int:
    """Convert the published PNGs; returns the number of files written."""
    files = scan(root, "annotations", ".png", skip=TRAIN_IDS)
    conversions = [
        Conversion(os.path.join(root, path), os.path.join(root, "annotations", key + TRAIN_IDS))
        for key, (path, *_) in sorted(files.items())
    ]
    if not conversions:
        raise DataError(
            f"{root}/annotations: no PNG files"
            " — train2017/ and val2017/ of stuffthingmaps_trainval2017.zip are expected there — unpack it there"
        )
    table = CocoStuff164k(root, labels="raw").table
    return convert(conversions, lambda path: table(io.read_label(path), path), "COCO-Stuff 164K", workers)


def encode_10k(path: str) -> np.ndarray:
    """[H, W] uint8 with 0 = unlabelled and 1..171, of a .mat file of v1.1."""
    stored = read_mat(path, "S")
    table = np.full(256, 255, dtype=np.uint8)
    table[list(LABEL_IDS)] = list(LABEL_IDS.values())
    ids = np.unique(stored).tolist()
    unknown = [i for i in ids if i not in LABEL_IDS]
    if unknown:
        refuse_v10(ids, path)
        raise DataError(
            f"{path}: label ids {ranges(unknown)} that no image of v1.1 has — expected {ranges(LABEL_IDS, 99)}"
            " — v1.0 numbers its classes otherwise; take cocostuff-10k-v1.1.zip"
        )
    return table[stored]


def refuse_v10(ids: Collection[int], example: str) -> None:
    """DataError where the ids are those of v1.0: 1 = unlabelled, classes 2..172."""
    if 0 not in ids and max(ids) == 172:
        raise DataError(
            f"{example} and others: ids up to 172 and no 0 — this is version 1.0, which numbers its classes otherwise"
            " — take cocostuff-10k-v1.1.zip"
        )


if __name__ == "__main__":
    run(main)
