"""A miniature of CIFAR-10 in its published layout, to try ``data=cifar10`` without a download.

    python scripts/cifar10_miniature.py FOLDER [--per-class 50] [--layout py|bin]

Images are generated: each class is a hue and a direction of stripes, with a random phase, width, contrast and noise, so
that a small network learns them in a few hundred steps and a constant guess does not.
"""

from __future__ import annotations

import argparse
import io
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from seglab.data.datasets.cifar10 import BATCHES, CLASSES, FOLDERS, PIXELS, SIDE

TEST_SHARE = 5
"""The published set has one test image for five of training."""


def image(category: int, generator: np.random.Generator) -> np.ndarray:
    """[32, 32, 3] uint8 of a class."""
    angle = np.pi * category / len(CLASSES) + generator.normal(0, 0.05)
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    wave = np.sin(
        2 * np.pi * generator.uniform(2, 4) * (columns * np.cos(angle) + rows * np.sin(angle))
        + generator.uniform(0, 2 * np.pi)
    )
    hue = 2 * np.pi * (category / len(CLASSES) + np.arange(3) / 3)
    colour = 128 + 50 * np.cos(hue) + generator.normal(0, 15, 3)
    levels = colour + generator.uniform(25, 60) * wave[..., None] + generator.normal(0, 12, (SIDE, SIDE, 3))
    return levels.clip(0, 255).astype(np.uint8)


def batch(categories: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Pixels [n, 3072] uint8 as the files hold them: planes R, G, B, row by row."""
    images = [image(int(category), generator).transpose(2, 0, 1) for category in categories]
    return np.stack(images).reshape(-1, PIXELS)


def write(out: str | Path, per_class: int = 50, layout: str = "bin", seed: int = 0) -> Path:
    """Write the miniature; gives the folder of the batches.

    Args:
        per_class: training images of each class, at least 1; a fifth as many are for test.
        layout: ``py`` (pickles) or ``bin``; the images are the same.
    """
    folder = Path(out) / f"cifar-10-batches-{layout}"
    suffix = FOLDERS[folder.name]
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    for split, names in BATCHES.items():
        count = per_class if split == "train" else -(-per_class // TEST_SHARE)
        order = generator.permutation(np.repeat(np.arange(len(CLASSES)), count))
        for name, labels in zip(names, np.array_split(order, len(names)), strict=True):
            pixels = batch(labels, generator)
            path = folder / f"{name}{suffix}"
            path.write_bytes(records(pixels, labels) if layout == "bin" else pickled(pixels, labels, name))
    if layout == "bin":
        (folder / "batches.meta.txt").write_text("".join(f"{name}\n" for name in CLASSES) + "\n")
    else:
        names_of_classes = [name.encode() for name in CLASSES]
        meta = {b"num_cases_per_batch": 2 * per_class, b"label_names": names_of_classes, b"num_vis": PIXELS}
        (folder / "batches.meta").write_bytes(as_python2(meta))
    return folder


def records(pixels: np.ndarray, labels: np.ndarray) -> bytes:
    """A file of the binary version."""
    return np.concatenate([labels[:, None].astype(np.uint8), pixels], axis=1).tobytes()


def pickled(pixels: np.ndarray, labels: np.ndarray, name: str) -> bytes:
    """A file of the python version."""
    return as_python2(
        {
            b"batch_label": name.encode(),
            b"labels": [int(label) for label in labels],
            b"data": pixels,
            b"filenames": [f"{CLASSES[label]}_{index:06d}.png".encode() for index, label in enumerate(labels)],
        }
    )


PurePickler: Any = pickle._Pickler  # the one written in C cannot be given other opcodes


class Python2(PurePickler):
    """Writes bytes as Python 2 wrote its strings; Python 3 would spell them as calls of ``_codecs.encode``."""

    def save_string(self, text: bytes) -> None:
        """The opcode SHORT_BINSTRING or BINSTRING."""
        short = len(text) < 256
        self.write(b"U" + bytes([len(text)]) + text if short else b"T" + struct.pack("<i", len(text)) + text)
        self.memoize(text)

    dispatch: ClassVar = {**PurePickler.dispatch, bytes: save_string}


def as_python2(content: dict[bytes, object]) -> bytes:
    """A pickle as Python 2 and the numpy of 2009 wrote it."""
    file = io.BytesIO()
    Python2(file, protocol=2).dump(content)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="FOLDER")
    parser.add_argument("--per-class", type=int, default=50, help="training images of each class")
    parser.add_argument("--layout", choices=("py", "bin"), default="bin")
    given = parser.parse_args()
    if given.per_class < 1:
        parser.error("--per-class: expected at least 1")
    folder = write(given.out, given.per_class, given.layout)
    print(f"{folder}: python -m seglab.train data=cifar10 data.root={given.out} …")


if __name__ == "__main__":
    main()
