"""Bad data is named before training starts.

Levels, each including the one before:

- ``names``: files are paired, counted and none is missing, extra or double; a few labels are read to recognise a wrong
  variant of the dataset. Under a second.
- ``headers``: every image and label opens and their sizes agree.
- ``full``: every pixel is decoded and every id has a class. The verdict is cached until a file changes.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from seglab.checks import one_of
from seglab.data import io
from seglab.data.listing import Pair, first
from seglab.errors import DataError

if TYPE_CHECKING:
    from seglab.data.source import FileSource

LEVELS = ("names", "headers", "full")

PROBES = 8
"""Labels read at level ``names``, spread over the split."""

REPORTED = 5
"""Faults listed in one message."""

_log = logging.getLogger(__name__)
T = TypeVar("T")


def run(source: FileSource, split: str, level: str) -> None:
    """Check ``split`` at ``level``; DataError lists the first faults and how many there are."""
    one_of("data.check", level, LEVELS)
    names(source, split)
    if level == "headers":
        _all(source, split, "headers", lambda pair: _header(source, pair))
    elif level == "full":
        full(source, split)
    else:
        pairs = source.pairs(split)
        probes = [pairs[i] for i in np.unique(np.linspace(0, len(pairs) - 1, PROBES).astype(int))]
        ids = [_ids(source, pair, source.read_stored(pair)) for pair in probes if pair.label]
        _suspect(source, split, ids, refuse=False)


def names(source: FileSource, split: str) -> None:
    """Every image has one label, every label one image, and there is at least one."""
    listing = source.listing(split)
    title = f"{source.spec.name}, split {split}"
    if not listing.pairs:
        raise DataError(f"{title}: no images below {source.root} — change data.root or data.splits\n{source.expected}")
    if listing.duplicates:
        raise DataError(
            f"{title}: {len(listing.duplicates)} names stand for several files: {first(listing.duplicates)}"
            " — one file per name is expected — remove the others"
        )
    if listing.extra:
        raise DataError(
            f"{title}: {len(listing.extra)} labels have no image: {first(listing.extra)}"
            " — restore the images, or remove the labels"
        )
    missing = [pair.image for pair in listing.pairs if pair.label is None]
    if missing and split not in source.unlabelled:
        if not source.allow_unlabelled or len(missing) == len(listing.pairs):
            hint = f"; {source.prepare}" if source.prepare else ""
            raise DataError(
                f"{title}: {len(missing)} of {len(listing.pairs)} images have no label: {first(missing)}"
                f" — one label per image is expected — add them{hint}, or leave these out: data.allow_unlabelled=true"
            )
        _log.warning("%s: %d of %d images have no label and are left out", title, len(missing), len(listing.pairs))
    official = dict(zip(source.splits, source.official, strict=False)).get(split)
    if official is not None and len(listing.pairs) != official:
        _log.warning("%s: %d images; the official split has %d", title, len(listing.pairs), official)


def full(source: FileSource, split: str) -> None:
    """Decode everything once; a set that passed is not read again until a name, size or date changes."""
    verdict = _verdict_file(source, split)
    if verdict is not None and verdict.exists():
        return
    ids = _all(source, split, "pixels", lambda pair: _pixels(source, pair))
    _suspect(source, split, ids, refuse=True)
    if verdict is not None:
        try:
            verdict.parent.mkdir(parents=True, exist_ok=True)
            verdict.touch()
        except OSError as error:
            _log.warning("the verdict on %s cannot be cached in %s: %s", split, verdict.parent, error)


def same_size(source: FileSource, pair: Pair, image: Sequence[int], label: Sequence[int]) -> None:
    """DataError where image and label (height, width) differ."""
    if tuple(image) == tuple(label):
        return
    assert pair.label is not None
    turned = tuple(image) == tuple(label)[::-1]
    cause = "the image is probably rotated by EXIF" if turned else "they do not belong together"
    raise DataError(
        f"{source.path(pair.image)} is {image[1]}x{image[0]} and {source.path(pair.label)} is {label[1]}x{label[0]}"
        f" — one size is expected; {cause} — mend or remove the pair"
    )


def digest(texts: Iterable[str]) -> str:
    """Short hash of a sequence of texts."""
    hasher = hashlib.sha256()
    for text in texts:
        hasher.update(text.encode(errors="surrogateescape") + b"\0")
    return hasher.hexdigest()[:16]


def fingerprint(source: FileSource, split: str) -> str:
    """Hash of names and file sizes, equal wherever the dataset lies."""
    return digest(f"{path}:{status.st_size}" for path, status in _stats(source, split))


def _stats(source: FileSource, split: str) -> Iterable[tuple[str, os.stat_result]]:
    for pair in source.pairs(split):
        for path in (pair.image, pair.label):
            if path is not None:
                try:
                    status = os.stat(source.path(path))
                except OSError as error:
                    raise DataError(f"{source.path(path)}: {error.strerror} — restore the file") from error
                if not stat.S_ISREG(status.st_mode):
                    raise DataError(f"{source.path(path)}: no regular file — an image file is expected — remove it")
                yield path, status


def _verdict_file(source: FileSource, split: str) -> Path | None:
    """Where a passed full check is noted: outside the dataset, which may be read-only."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not os.path.isabs(home):
        return None  # no home directory
    facts = [source.spec.name, split, os.path.realpath(source.root), str(sorted(source.spec.table.items()))]
    try:
        facts += [f"{path}:{status.st_size}:{status.st_mtime_ns}" for path, status in _stats(source, split)]
    except DataError:
        return None  # the check itself lists all such files
    return Path(home, "seglab", "checked", digest(facts))


def _header(source: FileSource, pair: Pair) -> None:
    image = io.read_header(source.path(pair.image), source.max_pixels)
    if pair.label is not None:
        label = io.read_header(source.path(pair.label), source.max_pixels)
        same_size(source, pair, image[:2], label[:2])


def _pixels(source: FileSource, pair: Pair) -> np.ndarray:
    image = io.read_image(source.path(pair.image), source.max_pixels, source.exif)
    if pair.label is None:
        return np.empty(0, int)
    stored = source.read_stored(pair)
    same_size(source, pair, image.shape[:2], stored.shape)
    return _ids(source, pair, stored)


def _ids(source: FileSource, pair: Pair, stored: np.ndarray) -> np.ndarray:
    """The different stored ids of a label, each of which has a class."""
    assert pair.label is not None
    source.table(stored, source.path(pair.label))
    return np.flatnonzero(np.bincount(stored.ravel()))


def _suspect(source: FileSource, split: str, ids: Sequence[np.ndarray], refuse: bool) -> None:
    """Judge the ids of many labels together: a shifted table is legal file by file."""
    doubt = source.suspicion(set(np.concatenate([np.empty(0, int), *ids]).astype(int).tolist()))
    if doubt is None:
        return
    example = source.path(source.pairs(split)[0].label or "")
    message = f"{source.spec.name}, split {split}, labels such as {example}: {doubt}"
    if refuse:
        raise DataError(message)
    _log.warning("%s", message)


def _all(source: FileSource, split: str, what: str, judge: Callable[[Pair], T]) -> list[T]:
    """``judge`` every pair with a progress bar; one DataError for all faults together."""
    from rich.progress import Progress

    def attempt(pair: Pair) -> T | DataError:
        try:
            return judge(pair)
        except DataError as error:
            return error

    pairs = source.pairs(split)
    # Pillow decodes outside the interpreter lock, so threads are enough.
    with Progress(transient=True) as progress, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        task = f"checking {what} of {source.spec.name} {split}"
        results = list(progress.track(pool.map(attempt, pairs), total=len(pairs), description=task))
    faults = [result for result in results if isinstance(result, DataError)]
    if faults:
        shown = "\n".join(f"- {fault}" for fault in faults[:REPORTED])
        more = f"\n- and {len(faults) - REPORTED} more" if len(faults) > REPORTED else ""
        title = f"{source.spec.name}, split {split}"
        raise DataError(f"{title}: {len(faults)} of {len(pairs)} items cannot be used\n{shown}{more}")
    return [result for result in results if not isinstance(result, DataError)]
