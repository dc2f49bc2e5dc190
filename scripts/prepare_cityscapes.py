"""Cityscapes labelIds -> labelTrainIds. Safe to stop and start again: finished files are kept.

    python scripts/prepare_cityscapes.py ROOT

gtFine/*/*/*_gtFine_labelIds.png -> *_gtFine_labelTrainIds.png (0..18, void 255). The data set can also be used without
(data.dataset.labels=label_ids maps while reading).
"""

from __future__ import annotations

import argparse
import os

from seglab.data import io
from seglab.data.convert import Conversion, convert, run
from seglab.data.datasets.cityscapes import SUFFIX, Cityscapes
from seglab.data.listing import scan
from seglab.errors import DataError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="folder that holds leftImg8bit/ and gtFine/")
    parser.add_argument("--workers", type=int, default=None, help="threads (default: the cores, at most 8)")
    args = parser.parse_args()
    print(f"{prepare(args.root, args.workers)} label files written below {os.path.join(args.root, 'gtFine')}")


def prepare(root: str, workers: int | None = None) -> int:
    """Convert every labelIds file; returns the number of files written."""
    files = scan(root, "gtFine", SUFFIX["label_ids"])
    conversions = [
        Conversion(os.path.join(root, path), os.path.join(root, "gtFine", key + SUFFIX["train_ids"]))
        for key, (path, *_) in sorted(files.items())
    ]
    if not conversions:
        raise DataError(
            f"{root}/gtFine: no *{SUFFIX['label_ids']} — the files of gtFine_trainvaltest.zip are expected there"
            " — unpack it into ROOT"
        )
    table = Cityscapes(root, labels="label_ids").table
    return convert(conversions, lambda path: table(io.read_label(path), path), "Cityscapes", workers)


if __name__ == "__main__":
    run(main)
