"""Bad data is named before training starts.

Levels, each including the one before:

- ``names``: files are paired, counted and none is missing, extra or double; a few labels are read to recognise a wrong
  variant of the dataset. Under a second.
- ``headers``: every image and label opens and their sizes agree.
- ``full``: every pixel is decoded and every id has a class. The verdict is cached until a file changes.

``classes`` judges a split that is trained on, from the labels that its level has read or from a sample.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from seglab.checks import one_of
from seglab.data import io
from seglab.data.labels import Seen, histogram, judge, reading
from seglab.data.listing import Pair, first
from seglab.data.source import FileSource, Source, digest
from seglab.errors import DataError, UserError
from seglab.runs import atomic

LEVELS = ("names", "headers", "full")

PROBES = 8
"""Labels read at level ``names``, spread over the split."""

SAMPLE, SAMPLE_PIXELS = 128, 1 << 24
"""Labels and pixels read at most, in search of every class that is trained (of large labels no fewer than PROBES)."""

MANY = 1000
"""Labels read at most before they are said to start at 1."""

REPORTED = 5
"""Faults listed in one message."""

_log = logging.getLogger(__name__)
T = TypeVar("T")


def run(source: Source, split: str, level: str = "names") -> None:
    """Check ``split`` at ``level``; DataError lists the first faults and how many there are.

    A source without files has nothing to check but that there is such a split; one without labels, only its images.
    """
    one_of("data.check", level, LEVELS)
    source.known(split)
    if not isinstance(source, FileSource):
        return
    names(source, split)
    if level == "headers":
        _refuse(source, split, _all(source, split, "headers", lambda pair: _header(source, pair)))
    elif level == "full":
        full(source, split)
    else:
        seen = look(source, split, lambda seen: seen.read >= PROBES)
        if source.table.unknown(seen.labels):
            # What the others hold tells what these are, above all whether 0 is in any.
            look(source, split, lambda seen: sampled(seen) and (0 in seen.labels or seen.read >= MANY), tolerant=True)
            raise _unknown(source, seen)
        _suspect(source, split, seen, refuse=False)


def names(source: FileSource, split: str) -> None:
    """Every image has one label (of a labelled split), every label one image, and there is at least one."""
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
    if missing and source.labelled(split) and (not source.every_frame or len(missing) == len(listing.pairs)):
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
    seen = _stored_verdict(verdict) if verdict is not None else None
    if seen is not None and not source.table.unknown(seen.labels):
        source.seen[split] = seen
        return
    results = _all(source, split, "pixels", lambda pair: _pixels(source, pair))
    pairs, seen = source.pairs(split), Seen(tried=len(results))
    for pair, result in zip(pairs, results, strict=True):
        if pair.label is not None and not isinstance(result, DataError):
            seen.add(result, source.path(pair.label))
    for k, (pair, result) in enumerate(zip(pairs, results, strict=True)):
        if not isinstance(result, DataError) and source.table.unknown(result):
            results[k] = source.table.refusal(result, source.path(pair.label or ""))
    strange = source.table.unknown(seen.labels)
    _refuse(source, split, results, reading(seen.labels, source.spec, source.remap) if strange else None)
    _suspect(source, split, seen, refuse=True)
    source.seen[split] = seen
    if verdict is not None:
        try:
            counts = {"tried": seen.tried, "read": seen.read, "labels": seen.labels, "pixels": seen.pixels}
            atomic.write_json(verdict, counts)
        except (OSError, UserError) as error:
            _log.warning("the verdict on %s cannot be cached in %s: %s", split, verdict.parent, error)


def look(source: FileSource, split: str, enough: Callable[[Seen], bool], tolerant: bool = False) -> Seen:
    """Read labels of ``split``, in an order that spreads over it, until there are ``enough`` or no more.

    Args:
        tolerant: go on after a label that cannot be read.
    """
    labelled = [pair for pair in source.pairs(split) if pair.label]
    order = np.random.default_rng(0).permutation(len(labelled))
    seen = source.seen.setdefault(split, Seen())
    while seen.tried < len(labelled) and not enough(seen):
        pair = labelled[order[seen.tried]]
        seen.tried += 1
        try:
            seen.add(histogram(source.read_stored(pair)), source.path(pair.label or ""))
        except DataError:
            if not tolerant:
                raise
    return seen


def sampled(seen: Seen) -> bool:
    """Whether a sample of labels is large enough."""
    return seen.read >= PROBES and (seen.read >= SAMPLE or sum(seen.pixels.values()) >= SAMPLE_PIXELS)


def classes(source: Source, splits: Sequence[str], tolerant: bool = False) -> None:
    """Judge the classes that the labels of the training splits hold, from a sample where not all were read.

    Where that shows fewer than two classes, labels are read until a second is found or there are no more. A source
    without files holds what its spec says.

    Args:
        tolerant: leave out labels that cannot be read.

    Raises:
        DataError: fewer than two classes; ids without a class.
    """
    for split in splits:
        source.known(split)
    if not isinstance(source, FileSource):
        return
    table, number = source.table, source.spec.num_classes
    splits = [split for split in splits if source.labelled(split)]
    total = sum(pair.label is not None for split in splits for pair in source.pairs(split))
    title = f"{source.spec.name}, split {' + '.join(splits)}"

    def strange(seen: Seen) -> bool:
        return not tolerant and bool(table.unknown(seen.labels))

    def read_until(enough: Callable[[Seen], bool]) -> Seen:
        looks = (look(source, split, lambda seen: strange(seen) or enough(seen), tolerant) for split in splits)
        seen = sum(looks, Seen())
        if strange(seen):
            raise _unknown(source, seen)
        return seen

    seen = read_until(lambda seen: sampled(seen) or len(seen.found(table)) == number)
    if len(seen.found(table)) < 2 <= number and seen.tried < total:
        _log.info("%s: fewer than two classes in %d labels, so the others are read", title, seen.read)
        seen = read_until(lambda seen: len(seen.found(table)) >= 2)
    doubt = judge(seen, total, table, source.remap) if total else None
    if doubt is not None and doubt.fatal:
        raise DataError(f"{title}: {doubt.text}")
    if doubt is not None:
        _log.warning("%s: %s", title, doubt.text)


def _verdict_file(source: FileSource, split: str) -> Path | None:
    """Where a passed full check is noted: outside the dataset, which may be read-only."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not os.path.isabs(home):
        return None  # no home directory
    facts = [source.spec.name, split, os.path.realpath(source.root), str(sorted(source.spec.table.items()))]
    try:
        facts += [f"{path}:{status.st_size}:{status.st_mtime_ns}" for path, status in source.files(split)]
    except DataError:
        return None  # the check itself lists all such files
    return Path(home, "seglab", "checked", digest(facts))


def _header(source: FileSource, pair: Pair) -> None:
    image = io.read_header(source.path(pair.image), source.max_pixels)
    if pair.label is not None:
        label = io.read_header(source.path(pair.label), source.max_pixels)
        source.same_size(pair.image, image[:2], pair.label, label[:2])
    for _, file in pair.others:
        source.same_size(pair.image, image[:2], file, io.read_header(source.path(file), source.max_pixels)[:2])


def _pixels(source: FileSource, pair: Pair) -> dict[int, int]:
    image = io.read_image(source.path(pair.image), source.max_pixels, source.exif)
    for target, file in pair.others:
        source.same_size(pair.image, image.shape[:2], file, source.read_other(pair, target).shape)
    if pair.label is None:
        return {}
    stored = source.read_stored(pair)
    source.same_size(pair.image, image.shape[:2], pair.label, stored.shape)
    return histogram(stored)


def _stored_verdict(path: Path) -> Seen | None:
    """What the labels held when the full check passed."""
    content = atomic.read_json(path)
    if not content:
        return None
    labels, pixels = (Counter({int(raw): n for raw, n in content[key].items()}) for key in ("labels", "pixels"))
    return Seen(content["tried"], content["read"], labels, pixels)


def _unknown(source: FileSource, seen: Seen) -> DataError:
    """What is said of labels of which some hold ids without a class."""
    path, ids = seen.where[source.table.unknown(seen.labels)[0]]
    return source.table.refusal(ids, path, reading(seen.labels, source.spec, source.remap))


def _suspect(source: FileSource, split: str, seen: Seen, refuse: bool) -> None:
    """Judge the ids of many labels together: a shifted table is legal file by file."""
    doubt = source.suspicion(seen.labels.keys())
    if doubt is None:
        return
    example = source.path(source.pairs(split)[0].label or "")
    message = f"{source.spec.name}, split {split}, labels such as {example}: {doubt}"
    if refuse:
        raise DataError(message)
    _log.warning("%s", message)


def _all(source: FileSource, split: str, what: str, judge: Callable[[Pair], T]) -> list[T | DataError]:
    """``judge`` every pair with a progress bar: what it gives, or the fault it finds."""
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
        return list(progress.track(pool.map(attempt, pairs), total=len(pairs), description=task))


def _refuse(source: FileSource, split: str, results: Sequence[object], advice: str | None = None) -> None:
    """One DataError for all faults among the results, with the ``advice`` that is for all of them."""
    faults = [result for result in results if isinstance(result, DataError)]
    if faults:
        shown = "\n".join(f"- {fault}" for fault in faults[:REPORTED])
        more = f"\n- and {len(faults) - REPORTED} more" if len(faults) > REPORTED else ""
        title = f"{source.spec.name}, split {split}"
        last = f"\n{advice}" if advice else ""
        raise DataError(f"{title}: {len(faults)} of {len(results)} items cannot be used\n{shown}{more}{last}")
