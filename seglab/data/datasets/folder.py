"""Any images and labels of your own: two folders or list files, and a file that names the classes."""

from __future__ import annotations

import colorsys
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from glob import escape, glob
from typing import Any

import numpy as np

from seglab.checks import one_of
from seglab.data import frames, io
from seglab.data.labels import INSTANCES, LabelTable
from seglab.data.listing import Listing, Pair, first, from_names, match, read_lines, read_text, repeats, scan, stem
from seglab.data.source import FileSource, Opened
from seglab.data.spec import DatasetSpec
from seglab.data.video import VIDEO_SUFFIXES
from seglab.errors import ConfigError, DataError
from seglab.types import IGNORE

Colour = tuple[int, int, int]

CLASS_LINE = re.compile(r"(.+?)(?:[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3}))?")
CLASS_FILE = "mend the file, or name another with data.dataset.classes"


class Folder(FileSource):
    """Image and label files joined by name below two folders, or as list files pair them.

    Args:
        classes: file below the root that names the classes in the order of their ids; see ``read_classes``.
        images: folder of a split's images below the root; ``{split}`` stands for the split's name.
        labels: the same for labels; null for images without labels.
        lists: list file of a split, such as ``lists/{split}.txt``. A line is ``image<TAB or space>label``, both below
            the root, or a bare name that is looked up in the two folders. Null takes all files of the folders.
        image_suffix: what image files end with, one or several.
        label_suffix: what label files end with; ``_mask.png`` joins ``a.jpg`` and ``a_mask.png``.
        label_map: stored id -> train id or 255; null where labels hold train ids and 255.
        labels_are_colours: labels are RGB images in the class file's colours.
        unknown: ``refuse`` raises on an id without a class, ``ignore`` makes it void.
        every_frame: images without a label are items, too, all void: frames of videos of which some are labelled.
        videos: video files are taken, too: ``street.mp4`` is a folder ``street`` of frames ``000000``, ``000001``, …
    """

    layout = """
classes.txt               one class name per line, optionally with a colour: road 128 64 128
images/<split>/<name>.jpg
labels/<split>/<name>.png   class ids 0.., void 255
or as data.dataset.images, .labels, .lists, .image_suffix and .label_suffix say
"""

    def __init__(
        self,
        root: str | os.PathLike[str] | None,
        *,
        classes: str = "classes.txt",
        images: str = "images/{split}",
        labels: str | None = "labels/{split}",
        lists: str | None = None,
        image_suffix: str | Sequence[str] = io.IMAGE_SUFFIXES,
        label_suffix: str | Sequence[str] = ".png",
        label_map: Mapping[int, int] | None = None,
        labels_are_colours: bool = False,
        unknown: str = "refuse",
        every_frame: bool = False,
        videos: bool = False,
        max_pixels: int = io.MAX_PIXELS,
        exif: str = "ignore",
    ) -> None:
        super().__init__(root, max_pixels=max_pixels, exif=exif)
        one_of("data.dataset.unknown", unknown, ("refuse", "ignore"))
        if labels_are_colours and label_map is not None:
            raise ConfigError("labels_are_colours and label_map exclude each other — set data.dataset.label_map=null")
        self.images = images
        self.labels = labels
        self.lists = lists
        self.image_suffix = image_suffix
        self.label_suffix = label_suffix
        self.labels_are_colours = labels_are_colours
        self.unknown = unknown
        self.every_frame = every_frame
        self.videos = videos
        file = os.path.join(self.root, classes)
        if not os.path.exists(file):
            raise DataError(
                f"{file}: no such file — the names of the classes are expected there, one a line in the order of their"
                f" ids — write it, or name another file with data.dataset.classes\n{self.expected}"
            )
        names, palette = read_classes(file)
        try:
            ids = None if label_map is None else {int(raw): int(train) for raw, train in label_map.items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise ConfigError(
                f"data.dataset.label_map={label_map} — expected {{stored id: train id or 255}}, such as"
                f" {self.remap({0: 0, 255: 1})}"
            ) from error
        self.spec = DatasetSpec("folder", names, palette, ids)
        self.splits = self._splits()
        self.unlabelled = self.splits if labels is None and lists is None else ()

    @cached_property
    def table(self) -> LabelTable:
        """Stored ids to train ids."""
        return LabelTable(self.spec, self.hint, self.unknown)

    def hint(self, ids: Collection[int]) -> str | None:
        """Ids that a label map can give a class."""
        if max(ids) >= INSTANCES or self.labels_are_colours:
            return None
        if len(ids) > 2 * self.spec.num_classes + 8:
            return f"{len(ids)} ids, as in a mask that was smoothed or stored as JPEG; export the labels again without"
        return "give each id its class, or 255 for void, in data.dataset.label_map, or take other label files"

    def remap(self, label_map: Mapping[int, int]) -> str | None:
        """Quoted for a shell, which would take the braces apart."""
        pairs = ", ".join(f"{raw}: {train}" for raw, train in sorted(label_map.items()))
        return None if self.labels_are_colours else f"'data.dataset.label_map={{{pairs}}}'"

    @cached_property
    def colours(self) -> Mapping[Colour, int] | None:
        """Colour -> train id, where labels are images; black is void unless a class has it."""
        if not self.labels_are_colours:
            return None
        if len(set(self.spec.palette)) < self.spec.num_classes:
            raise ConfigError("two classes share a colour — colour-coded labels need one each — mend the class file")
        return {(0, 0, 0): IGNORE, **{colour: k for k, colour in enumerate(self.spec.palette)}}

    def find(self, split: str) -> Listing:
        """All files of the two folders, or what the list file says."""
        if self.lists is not None:
            return self._from_list(self.path(self.lists.format(split=split)), split)
        images = self._images(split)
        if self.labels is None:
            return match(images, None)
        return match(images, scan(self.root, self.labels.format(split=split), self.label_suffix))

    def sequence_of(self, name: str) -> str:
        """The folder of each image, for images that are frames of videos."""
        return os.path.dirname(name)

    def path(self, relative: str) -> str:
        """Where a file lies; of a frame of a video file, that file."""
        where = frames.place(relative) if self.videos else None
        return super().path(relative if where is None else where[0])

    def _opened(self, name: str, image: str, values: dict[str, Any]) -> Opened:
        where = frames.place(image) if self.videos else None
        if where is None:
            return super()._opened(name, image, values)
        video = frames.opened(self.path(image), self.max_pixels)
        return Opened(name=name, size=video.size, read=lambda scale: video.read(where[1]), values=values)

    def upright(self, pair: Pair, values: np.ndarray) -> np.ndarray:
        """As the image is turned; frames of videos are upright."""
        return values if self.videos and frames.place(pair.image) else super().upright(pair, values)

    def _images(self, split: str) -> dict[str, list[str]]:
        """Image files, and frames of video files, by their names."""
        folder = self.images.format(split=split)
        found = scan(self.root, folder, self.image_suffix)
        files = scan(self.root, folder, VIDEO_SUFFIXES) if self.videos or not found else {}
        if files and not self.videos:
            raise DataError(
                f"{self.root}/{folder} holds no image, but video files such as {next(iter(files.values()))[0]} — "
                "to take their frames set data.dataset.videos=true"
            )
        for key, paths in files.items():
            for path in paths:
                for number in range(len(frames.opened(os.path.join(self.root, path), self.max_pixels))):
                    found[f"{key}/{number:06d}"].append(f"{path}/{number:06d}")
        return found

    def _splits(self) -> tuple[str, ...]:
        """Splits for which there is a list file or an image folder."""
        pattern = self.images if self.lists is None else self.lists
        before, found, after = os.path.join(self.root, pattern).partition("{split}")
        if not found:
            raise ConfigError(
                f"{pattern!r} names no split — one folder or list per split is expected, such as images/{{split}}"
                " — set data.dataset.images or data.dataset.lists"
            )
        paths = glob(f"{escape(before)}*{escape(after)}")
        if not paths:
            key = "images" if self.lists is None else "lists"
            raise DataError(
                f"{self.root}: nothing there is called {pattern} — one per split is expected, such as train and val"
                f" — change data.root or data.dataset.{key}\n{self.expected}"
            )
        return tuple(sorted(path[len(before) : len(path) - len(after)] for path in paths))

    def _from_list(self, path: str, split: str) -> Listing:
        lines = read_lines(path)
        rows = [line.split("\t") if "\t" in line else line.split() for line in lines]
        if all(len(row) == 1 for row in rows):
            images = self._images(split)
            labels = {} if self.labels is None else scan(self.root, self.labels.format(split=split), self.label_suffix)
            return from_names((name if name in images else stem(name) for name in lines), images, labels, path)
        wrong = next((line for line, row in zip(lines, rows, strict=True) if len(row) != 2), None)
        if wrong is not None:
            raise DataError(
                f"{path}: line {wrong!r} — 'image label' on every line, or one name on every line, is expected"
                " — separate the two by a tab where paths hold spaces"
            )
        missing = [image for image, _ in rows if not os.path.exists(self.path(image))]
        if missing:
            raise DataError(
                f"{path}: {len(missing)} of {len(rows)} images do not exist: {first(missing)} — mend the list"
            )
        pairs = [Pair(stem(i), i, label if os.path.exists(self.path(label)) else None) for i, label in rows]
        return Listing(pairs, duplicates=repeats(pair.name for pair in pairs))


def read_classes(path: str) -> tuple[tuple[str, ...], tuple[Colour, ...]]:
    """Names and colours of the classes, in the order of their ids.

    A text file has one name per line, optionally followed by red, green and blue; a JSON file is a list of names or of
    ``{"name": ..., "color": [r, g, b]}``, or has such a list under ``classes``. Classes without a colour are given one.
    DataError names what cannot be understood.
    """
    if path.endswith(".json"):
        try:
            data = json.loads(read_text(path))
            rows = data["classes"] if isinstance(data, dict) else data
            found = [
                (row, None) if isinstance(row, str) else (row["name"], row.get("color", row.get("colour")))
                for row in rows
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path}: not a class file ({error!r}) — a list of names is expected — {CLASS_FILE}"
            ) from error
    else:
        matches = [CLASS_LINE.fullmatch(line) for line in read_lines(path)]
        found = [(m[1], [int(m[i]) for i in (2, 3, 4)] if m[2] else None) for m in matches if m]
    names = [str(name) for name, _ in found]
    if not names or repeats(names):
        raise DataError(
            f"{path}: {len(names)} classes, repeated: {', '.join(repeats(names)) or 'none'}"
            f" — one different name per class is expected — {CLASS_FILE}"
        )
    palette = [default_colour(k) if colour is None else tuple(colour) for k, (_, colour) in enumerate(found)]
    for name, colour in zip(names, palette, strict=True):
        if len(colour) != 3 or not all(isinstance(c, int) and 0 <= c <= 255 for c in colour):
            raise DataError(
                f"{path}: class {name} has colour {colour} — three numbers in 0..255 are expected — {CLASS_FILE}"
            )
    return tuple(names), tuple((r, g, b) for r, g, b in palette)


def default_colour(index: int) -> Colour:
    """A colour unlike those of the classes before it: hues a golden angle apart, in three lightnesses."""
    r, g, b = colorsys.hls_to_rgb(index * 0.618034 % 1, (0.5, 0.35, 0.68)[index % 3], 0.75)
    return round(255 * r), round(255 * g), round(255 * b)
