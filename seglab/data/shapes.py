"""Synthetic label maps: random Voronoi cells with rectangles and discs on them. Nothing on disk.

Made for what learns from label maps alone (``task=inverse_net``): boundaries of every direction and curvature, with
corners and junctions. The images show the classes' colours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from seglab.data.source import Sample, Source, digest
from seglab.data.spec import DatasetSpec
from seglab.errors import ConfigError

_DEFAULT_LENGTHS = {"train": 20000, "val": 64, "test": 64}
_PALETTE = ((60, 60, 60), (200, 80, 60), (70, 160, 90), (80, 110, 200), (220, 190, 70), (150, 80, 170), (90, 190, 200),
            (230, 230, 230))  # fmt: skip


class Shapes(Source):
    """Label maps of eight classes, a pure function of (seed, split, index); no two splits share one.

    ``size`` is [H, W] in pixels, ``cells`` the [fewest, most] Voronoi cells of a map, ``shapes`` the most
    rectangles and ellipses on it. ``root`` is not used: there are no files.
    """

    spec = DatasetSpec("shapes", tuple(f"region {k}" for k in range(len(_PALETTE))), _PALETTE)
    splits = ("train", "val", "test")

    def __init__(
        self,
        root: str | None = None,
        size: Sequence[int] = (192, 192),
        lengths: Mapping[str, int] = _DEFAULT_LENGTHS,
        seed: int = 0,
        cells: Sequence[int] = (4, 40),
        shapes: int = 12,
    ) -> None:
        if len(size) != 2 or min(size) < 16:
            raise ConfigError(f"shapes: size {list(size)} — expected [height, width] >= 16 — set data.dataset.size")
        if set(lengths) - set(self.splits) or any(n < 0 for n in lengths.values()):
            raise ConfigError(
                f"shapes: lengths {dict(lengths)} — expected counts for {', '.join(self.splits)}"
                " — set data.dataset.lengths"
            )
        if seed < 0:
            raise ConfigError(f"shapes: seed {seed} — expected 0 or more — set data.dataset.seed")
        if len(cells) != 2 or not 1 <= cells[0] <= cells[1]:
            raise ConfigError(f"shapes: cells {list(cells)} — expected [fewest, most] >= 1 — set data.dataset.cells")
        if shapes < 0:
            raise ConfigError(f"shapes: shapes {shapes} — expected 0 or more — set data.dataset.shapes")
        self.root = root
        self.size = (int(size[0]), int(size[1]))
        self.lengths = {split: int(lengths.get(split, 0)) for split in self.splits}
        self.seed, self.cells, self.shapes = seed, (int(cells[0]), int(cells[1])), shapes

    def names(self, split: str) -> list[str]:
        """One name per map."""
        return [f"{split}/{index:06d}" for index in range(self.lengths[self.known(split)])]

    def read(self, split: str, index: int) -> Sample:
        """Map ``index``, and the same in colours."""
        label = self.label(split, index)
        return Sample(image=np.array(_PALETTE, np.uint8)[label], label=label, name=f"{split}/{index:06d}")

    def label(self, split: str, index: int) -> np.ndarray:
        """[H, W] uint8; IndexError beyond the split's length."""
        if not 0 <= index < self.lengths[self.known(split)]:
            raise IndexError(f"shapes: {split} has {self.lengths[split]} items, no index {index}")
        random = np.random.default_rng([0x5A, self.seed, self.splits.index(split), index])
        height, width = self.size
        y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
        found = voronoi(random, y, x, int(random.integers(self.cells[0], self.cells[1] + 1)))
        for _ in range(int(random.integers(self.shapes + 1))):
            found[shape(random, y, x)] = random.integers(len(_PALETTE))
        return found

    def fingerprint(self, split: str) -> str:
        """Hash of everything that the items depend on but the code."""
        settings = f"size={self.size} seed={self.seed} cells={self.cells} shapes={self.shapes}"
        return digest([settings, *self.names(split)])


def voronoi(random: np.random.Generator, y: np.ndarray, x: np.ndarray, number: int) -> np.ndarray:
    """[H, W] uint8 class of the nearest of ``number`` random points."""
    points = random.random((number, 2), np.float32) * (len(y), len(x))
    nearest = np.full((len(y), len(x)), np.inf, np.float32)
    found = np.zeros((len(y), len(x)), np.uint8)
    for (row, column), cell in zip(points, random.integers(len(_PALETTE), size=number), strict=True):
        distance = np.square(y - np.float32(row)) + np.square(x - np.float32(column))
        closer = distance < nearest
        np.copyto(nearest, distance, where=closer)
        found[closer] = cell
    return found


def shape(random: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """[H, W] bool: a rectangle of any direction, or an ellipse."""
    height, width = len(y), len(x)
    angle, round_ = random.uniform(0, np.pi), random.random() < 0.5
    row, column = random.random() * height, random.random() * width
    sides = np.exp(random.uniform(np.log(3), np.log(min(height, width) / 3), 2))
    sine, cosine = np.float32(np.sin(angle)), np.float32(np.cos(angle))
    dy, dx = y - np.float32(row), x - np.float32(column)
    u, v = (cosine * dx + sine * dy) / np.float32(sides[0]), (cosine * dy - sine * dx) / np.float32(sides[1])
    return u * u + v * v < 1 if round_ else (np.abs(u) < 1) & (np.abs(v) < 1)
