"""Where samples come from: the seam between a dataset and everything that trains or evaluates on it."""

from __future__ import annotations

import hashlib
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from textwrap import indent
from typing import Any, ClassVar

import numpy as np

from seglab.checks import one_of
from seglab.data import io
from seglab.data.labels import LabelTable, Seen
from seglab.data.listing import Listing, Pair, natural, stem
from seglab.data.spec import DatasetSpec
from seglab.errors import ConfigError, DataError
from seglab.types import IGNORE


@dataclass(kw_only=True)
class Sample:
    """One image with its targets, as stored: nothing resized, nothing normalised. What it does not have is None."""

    image: np.ndarray
    """[H, W, 3] uint8 RGB; may be read-only."""
    name: str
    label: np.ndarray | None = None
    """[H, W] uint8 train ids, ``IGNORE`` where void."""
    category: int | None = None
    """Class of the whole image."""
    depth: np.ndarray | None = None
    """[H, W] float32 metres, 0 where unknown."""


@dataclass(kw_only=True)
class Opened:
    """A sample whose targets are read and whose image is not decoded yet: training first draws what it needs of it."""

    name: str
    size: tuple[int, int]
    """(height, width) of the whole image."""
    read: Callable[[int], np.ndarray]
    """``read(scale)`` is the image at 1/scale of its size, [ceil(H / scale), ceil(W / scale), 3] uint8 RGB, for one of
    ``scales``; may be read-only. DataError names the file that cannot be decoded."""
    scales: tuple[int, ...] = (1,)
    """Ascending; more than 1 where the file's format decodes less than all of its pixels."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """The sample's other fields, by name, without those that are None."""

    @classmethod
    def of(cls, sample: Sample) -> Opened:
        """Of a sample that is read already."""
        values = {f.name: getattr(sample, f.name) for f in fields(sample) if f.name not in ("image", "name")}
        given = {name: value for name, value in values.items() if value is not None}
        height, width = sample.image.shape[:2]
        return cls(name=sample.name, size=(height, width), read=lambda scale: sample.image, values=given)

    def sample(self) -> Sample:
        """With its whole image."""
        return Sample(image=self.read(1), name=self.name, **self.values)


class Source(ABC):
    """A dataset that can name its items and read one of them.

    ``read`` and ``open`` are called in worker processes and must be pure functions of (split, index).
    """

    spec: DatasetSpec
    splits: tuple[str, ...]
    gives: frozenset[str] = frozenset({"label"})
    """The targets (see :mod:`seglab.data.targets`) of its samples, apart from splits that were published without."""
    allow_unlabelled: bool = False
    """Whether an image without a label is left out instead of refused (set by the DataModule)."""
    wanted: Collection[str] | None = None
    """The targets that the task reads; a file of another one need not be opened. None: all (set by the DataModule)."""
    sparse: Collection[str] = ()
    """Splits of which the frames between the items are missing: two that follow one another are no near frames."""
    knows_flow: bool = False
    """Whether ``flow`` gives the optical flow between frames."""

    @abstractmethod
    def names(self, split: str) -> list[str]:
        """One name per item, in order: its path below the root without suffix."""

    @abstractmethod
    def read(self, split: str, index: int) -> Sample:
        """Item ``index`` of ``split``; DataError names the file that cannot be used."""

    def open(self, split: str, index: int) -> Opened:
        """The same item with its image still to be decoded, where that saves something; here it does not."""
        return Opened.of(self.read(split, index))

    def sequences(self, split: str) -> list[str] | None:
        """The video that each item of ``split`` is a frame of, in the items' order; None where images are independent.

        The order of a video's frames is that of their names, numbers in them by value.
        """
        return None

    def reach(self, split: str, index: int) -> tuple[int, int]:
        """How many frames of its video lie before an item and after it, one by one at the video's own rate."""
        frames, place = self.video(split, index)
        return place, len(frames) - 1 - place

    def near(self, split: str, index: int, offset: int) -> Opened:
        """The frame ``offset`` after an item (before it, where negative), without targets; IndexError out of reach."""
        frames, place = self.video(split, index)
        if not 0 <= place + offset < len(frames):
            raise IndexError(f"{self.spec.name}: item {index} of {split} has no frame {offset:+d}")
        return self.open_frame(split, frames[place + offset])

    def video(self, split: str, index: int) -> tuple[Sequence[Any], int]:
        """All frames of an item's video in the order of time, as ``open_frame`` takes them, and the item's place there.

        Here they are the items of its sequence.
        """
        if split not in self._videos:
            names, sequences = self.names(split), self.sequences(split)
            runs: dict[str, list[int]] = {}
            if sequences is not None and split not in self.sparse:
                for k in sorted(range(len(names)), key=lambda k: natural(names[k])):
                    runs.setdefault(sequences[k], []).append(k)
            self._videos[split] = {k: (run, place) for run in runs.values() for place, k in enumerate(run)}
        return self._videos[split].get(index, ([index], 0))

    def open_frame(self, split: str, frame: Any) -> Opened:
        """One of the frames of ``video``, without targets; DataError names the file that cannot be used."""
        return replace(self.open(split, frame), values={})

    @cached_property
    def _videos(self) -> dict[str, dict[Any, tuple[list[Any], int]]]:
        """By split, for each frame of a video: all of its frames, and its own place."""
        return {}

    def flow(self, split: str, index: int, offset: int) -> np.ndarray | None:
        """[H, W, 2] float32 exact optical flow (dx, dy) in pixels from an item to the frame ``offset`` after it.

        NaN where what a pixel shows is hidden in the other frame or outside it; None unless ``knows_flow``.
        """
        return None

    def fingerprint(self, split: str) -> str:
        """Hash that changes when the items of ``split`` change."""
        return digest(self.names(split))

    def known(self, split: str) -> str:
        """``split`` itself; ConfigError where the dataset has no such split."""
        if split not in self.splits:
            raise ConfigError(
                f"{self.spec.name} has no split {split!r} — it has {', '.join(self.splits) or 'none'}"
                " — change data.splits"
            )
        return split


class FileSource(Source):
    """A dataset of image and label files below one root: a subclass gives the facts and the listing rule.

    Args:
        root: the dataset's folder, laid out as ``layout`` says (or the folder above it).
        max_pixels: larger images are refused before they are decoded.
        exif: ``ignore`` reads pixels as stored; ``apply`` turns image and label by the image's EXIF orientation.
    """

    layout: ClassVar[str]
    """The expected tree, shown when something is missing."""
    prepare: ClassVar[str | None] = None
    """The command that makes it."""
    folder: ClassVar[str | None] = None
    """The archive's top folder, where it has one: the root may be this folder or the one that holds it."""
    official: tuple[int, ...] = ()
    """Published number of images of each of ``splits``; another number is reported, not refused."""
    unlabelled: Collection[str] = ()
    """Splits whose labels were not published."""
    every_frame: bool = False
    """Whether images without a label are items, too, and all of their pixels void: frames of a video of which some are
    labelled."""

    def __init__(
        self, root: str | os.PathLike[str] | None, *, max_pixels: int = io.MAX_PIXELS, exif: str = "ignore"
    ) -> None:
        one_of("data.dataset.exif", exif, ("ignore", "apply"))
        self.seen: dict[str, Seen] = {}
        """What the labels of a split hold, as far as they were read to be checked."""
        self.given = root
        self.max_pixels = max_pixels
        self.exif = exif
        self._listings: dict[str, Listing] = {}
        self._pairs: dict[tuple[str, bool], list[Pair]] = {}

    @abstractmethod
    def find(self, split: str) -> Listing:
        """The pairs of ``split`` by the dataset's own rule (``listing.match`` joins two folders)."""

    def hint(self, ids: Collection[int]) -> str | None:
        """Which wrong variant of this dataset a label with ``ids`` comes from and what mends it; None if unclear."""
        return None

    def suspicion(self, ids: Collection[int]) -> str | None:
        """What the ids of many labels, each of them legal, say about a wrong variant; None if they look right."""
        return None

    def remap(self, label_map: Mapping[int, int]) -> str | None:
        """The override that reads labels by another map, as it is typed; None where the map is the dataset's own."""
        return None

    @cached_property
    def root(self) -> str:
        """The dataset's folder; DataError with the expected tree where there is none."""
        if self.given is None:
            raise DataError(f"{type(self).__name__}: data.root is not set — give the dataset's folder\n{self.expected}")
        root = os.path.expanduser(self.given)
        if self.folder and os.path.isdir(os.path.join(root, self.folder)):
            root = os.path.join(root, self.folder)
        if not os.path.isdir(root):
            raise DataError(f"{type(self).__name__}: no folder {root} — set data.root=FOLDER\n{self.expected}")
        return root

    @property
    def expected(self) -> str:
        """The tree and the command, for error messages."""
        tree = "expected below data.root:\n" + indent(self.layout.strip("\n"), "    ")
        return tree if self.prepare is None else f"{tree}\nprepared by: {self.prepare}"

    @cached_property
    def table(self) -> LabelTable:
        """Stored ids to train ids."""
        return LabelTable(self.spec, self.hint)

    @property
    def colours(self) -> Mapping[tuple[int, int, int], int] | None:
        """Stored ids of colour-coded labels; None where labels hold ids."""
        return None

    def listing(self, split: str) -> Listing:
        """The split's files, looked up once."""
        if self.known(split) not in self._listings:
            try:
                self._listings[split] = self.find(split)
            except DataError as error:
                raise DataError(f"{self.spec.name}, split {split}: {error}\n{self.expected}") from error
        return self._listings[split]

    def pairs(self, split: str) -> list[Pair]:
        """The items of ``split`` in order; images without label only where they are not left out."""
        key = (split, self.allow_unlabelled)
        if key not in self._pairs:
            pairs = self.listing(split).pairs
            drop = self.allow_unlabelled and not self.every_frame and self.labelled(split)
            self._pairs[key] = [pair for pair in pairs if pair.label is not None] if drop else pairs
        return self._pairs[key]

    def labelled(self, split: str) -> bool:
        """Whether the images of ``split`` have label maps."""
        return "label" in self.gives and split not in self.unlabelled

    def names(self, split: str) -> list[str]:
        """Image paths below the root, without suffix."""
        return [pair.name for pair in self.pairs(split)]

    def sequence_of(self, name: str) -> str | None:
        """The video that an image is a frame of, by its name; None where images are independent."""
        return None

    def sequences(self, split: str) -> list[str] | None:
        """The video of each item, as their names say."""
        found = [self.sequence_of(name) for name in self.names(split)]
        return None if None in found else [str(each) for each in found]

    def frames(self, split: str) -> Iterable[tuple[str, str]]:
        """Sequence and file below the root of every frame of the split's videos, labelled or not.

        Here they are the images of the listing.
        """
        pairs = self.listing(split).pairs
        return [(sequence, pair.image) for pair in pairs if (sequence := self.sequence_of(pair.name)) is not None]

    def video(self, split: str, index: int) -> tuple[Sequence[str], int]:
        """All frames of an item's video, as files below the root, and the item's place among them."""
        image = self.pairs(split)[index].image
        if split not in self._videos:
            runs: dict[str, list[str]] = {}
            for sequence, path in [] if split in self.sparse else self.frames(split):
                runs.setdefault(sequence, []).append(path)
            ordered = [sorted(run, key=natural) for run in runs.values()]
            self._videos[split] = {path: (run, place) for run in ordered for place, path in enumerate(run)}
        return self._videos[split].get(image, ([image], 0))

    def open_frame(self, split: str, frame: str) -> Opened:
        """An image file, to be decoded."""
        return self._opened(stem(frame), frame, {})

    def read(self, split: str, index: int) -> Sample:
        """Image and label of one item; DataError if either is unreadable, their sizes differ or an id has no class."""
        return self.open(split, index).sample()

    def open(self, split: str, index: int) -> Opened:
        """Label and size of one item, its image to be decoded; DataError as ``read``, for the image when it is."""
        pair = self.pairs(split)[index]
        values: dict[str, Any] = {}
        opened = self._opened(pair.name, pair.image, values)
        if self.labelled(split):
            if pair.label is not None:
                stored = self.read_stored(pair)
                self.same_size(pair.image, opened.size, pair.label, stored.shape)
                values["label"] = self.table(stored, self.path(pair.label))
            elif self.every_frame:
                values["label"] = np.full(opened.size, IGNORE, np.uint8)
            else:
                raise DataError(f"{self.path(pair.image)}: no label file — add it, or set data.allow_unlabelled=true")
        for target, file in pair.others:
            if self.wanted is not None and target not in self.wanted:
                continue
            values[target] = self.read_other(pair, target)
            self.same_size(pair.image, opened.size, file, values[target].shape)
        return opened

    def _opened(self, name: str, image: str, values: dict[str, Any]) -> Opened:
        """An image file below the root, to be decoded, with the targets in ``values``."""
        path = self.path(image)
        header = io.read_header(path, self.max_pixels)
        size = (header.height, header.width)
        if self.exif == "apply" and header.orientation >= io.TURNED:
            size = size[::-1]

        def read(scale: int) -> np.ndarray:
            return io.read_image(path, self.max_pixels, self.exif, scale=scale, header=header)

        return Opened(name=name, size=size, read=read, scales=header.scales, values=values)

    def read_stored(self, pair: Pair) -> np.ndarray:
        """[H, W] ids of a pair's label as stored."""
        assert pair.label is not None
        return self.upright(pair, io.read_label(self.path(pair.label), self.colours, self.max_pixels))

    def read_other(self, pair: Pair, target: str) -> np.ndarray:
        """[H, W] of one of a pair's further maps, as a sample has it."""
        return self.upright(pair, self.read_map(target, self.path(dict(pair.others)[target])))

    def read_map(self, target: str, path: str) -> np.ndarray:
        """[H, W] of the file of a further map, as a sample has it, not turned; DataError where it cannot be used.

        To be written by a source whose pairs have ``others``.
        """
        raise NotImplementedError(f"{type(self).__name__} lists files of {target} and does not say how they are read")

    def upright(self, pair: Pair, values: np.ndarray) -> np.ndarray:
        """A map [H, W] as its image is turned."""
        if self.exif == "ignore":
            return values
        return io.orient(values, io.read_header(self.path(pair.image), self.max_pixels).orientation)

    def same_size(self, image: str, size: Sequence[int], other: str, found: Sequence[int]) -> None:
        """DataError where an image and a map of it, each a file below the root and (height, width), differ in size."""
        if tuple(size) == tuple(found):
            return
        turned = tuple(size) == tuple(found)[::-1]
        cause = "the image is probably rotated by EXIF" if turned else "they do not belong together"
        raise DataError(
            f"{self.path(image)} is {size[1]}x{size[0]} and {self.path(other)} is {found[1]}x{found[0]}"
            f" — one size is expected; {cause} — mend or remove the pair"
        )

    def fingerprint(self, split: str) -> str:
        """Hash of the names and file sizes of ``split``, equal wherever the dataset lies."""
        return digest(f"{path}:{status.st_size}" for path, status in self.files(split))

    def files(self, split: str) -> Iterator[tuple[str, os.stat_result]]:
        """Path below the root and state of every file of ``split``; DataError where one is none."""
        for pair in self.pairs(split):
            for path in (pair.image, pair.label, *(file for _, file in pair.others)):
                if path is not None:
                    try:
                        status = os.stat(self.path(path))
                    except OSError as error:
                        raise DataError(f"{self.path(path)}: {error.strerror} — restore the file") from error
                    if not stat.S_ISREG(status.st_mode):
                        raise DataError(f"{self.path(path)}: no regular file — an image file is expected — remove it")
                    yield path, status

    def path(self, relative: str) -> str:
        """Where a file of the listing lies."""
        return os.path.join(self.root, relative)


def digest(texts: Iterable[str]) -> str:
    """Short hash of a sequence of texts."""
    hasher = hashlib.sha256()
    for text in texts:
        hasher.update(text.encode(errors="surrogateescape") + b"\0")
    return hasher.hexdigest()[:16]
