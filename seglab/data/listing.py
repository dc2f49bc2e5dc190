"""Finding files: folders are walked once, sorted by code point, and images joined with labels by name."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from seglab.errors import DataError


class Pair(NamedTuple):
    """An image and its label, as paths relative to the dataset's root."""

    name: str
    """The image's path without suffix."""
    image: str
    label: str | None
    others: tuple[tuple[str, str], ...] = ()
    """Further maps of the image: the target's name (see ``data/targets.py``) and the file."""


@dataclass(frozen=True)
class Listing:
    """What a split's folders hold, faults included."""

    pairs: list[Pair]
    """Sorted by name; the label is None where an image has none."""
    extra: list[str] = field(default_factory=list)
    """Labels without an image."""
    duplicates: list[str] = field(default_factory=list)
    """Groups of files that claim the same name."""


def scan(root: str, folder: str, suffixes: str | Sequence[str], skip: str | None = None) -> dict[str, list[str]]:
    """Files below ``root/folder`` by key: the path below ``folder`` without suffix, ``a/b`` -> [``folder/a/b.png``].

    Names must end with one of ``suffixes``, in either case, the longest of which is taken off, and not with ``skip``.
    Hidden files are not data (macOS leaves ``._x.jpg`` beside ``x.jpg``). Linked folders are followed, each once.
    """
    given = [suffixes] if isinstance(suffixes, str) else suffixes
    wanted = tuple(sorted((suffix.lower() for suffix in given), key=len, reverse=True))
    found: dict[str, list[str]] = defaultdict(list)
    prefix = len(folder) + 1 if folder else 0
    for path in _walk(root, folder, wanted, set()):
        name = path.lower()
        if not name.endswith(wanted) or (skip and name.endswith(skip.lower())):
            continue
        cut = next(len(s) for s in wanted if name.endswith(s))
        found[path[prefix : len(path) - cut]].append(path)
    return found


def holds(root: str | os.PathLike[str] | None, folder: str, suffix: str, skip: str | None = None) -> bool:
    """Whether a file below ``root/folder`` ends with ``suffix`` and not with ``skip``; False where there is none."""
    if root is None:
        return False
    names = (name for _, _, files in os.walk(Path(root).expanduser() / folder, followlinks=False) for name in files)
    return any(name.endswith(suffix) and not (skip and name.endswith(skip)) for name in names if name[0] != ".")


def match(
    images: dict[str, list[str]], labels: dict[str, list[str]] | None, keep: Callable[[str], bool] | None = None
) -> Listing:
    """Join images and labels (None: the split has none) of the same key, where ``keep`` says that it is the split's."""
    both = [images] if labels is None else [images, labels]
    groups = [{key: paths for key, paths in files.items() if keep is None or keep(key)} for files in both]
    duplicates = [", ".join(sorted(paths)) for files in groups for paths in files.values() if len(paths) > 1]
    own = groups[0]
    twins = groups[1] if labels is not None else {}
    pairs = [Pair(stem(own[key][0]), own[key][0], twins[key][0] if key in twins else None) for key in sorted(own)]
    return Listing(pairs, sorted(twins[key][0] for key in twins.keys() - own.keys()), sorted(duplicates))


def from_names(
    names: Iterable[str], images: dict[str, list[str]], labels: dict[str, list[str]], source: str
) -> Listing:
    """The pairs that a split list names; DataError where an image that ``source`` lists does not exist."""
    wanted = list(names)
    missing = [name for name in wanted if name not in images]
    if missing:
        raise DataError(
            f"{source}: {len(missing)} of {len(wanted)} listed images do not exist: {first(missing)}"
            " — restore them, or mend the list"
        )
    chosen = set(wanted)
    listing = match(images, labels, chosen.__contains__)
    repeated = [f"{name} (listed twice in {source})" for name in repeats(wanted)]
    orphans = sorted(labels[key][0] for key in labels.keys() - images.keys())
    return Listing(listing.pairs, orphans, listing.duplicates + repeated)


def read_lines(path: str) -> list[str]:
    """The non-empty lines of a text file that are no comment; DataError where it cannot be read."""
    return [line.strip() for line in read_text(path).split("\n") if line.strip() and not line.startswith("#")]


def read_text(path: str) -> str:
    """A text file's content; DataError where it cannot be read."""
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise OSError("no regular file")  # a pipe would be waited at for ever
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a text file ({error}) — restore it") from error


def repeats(names: Iterable[str]) -> list[str]:
    """Names that occur more than once."""
    seen: set[str] = set()
    return sorted({name for name in names if name in seen or seen.add(name)})  # type: ignore[func-returns-value]


def natural(path: str) -> list[tuple[int, str]]:
    """Sorts paths with the numbers in them by value: ``f9`` before ``f10``."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", path)]


def stem(path: str) -> str:
    """A relative path without the file's suffix."""
    return os.path.splitext(path)[0]


def first(items: Collection[str], limit: int = 5) -> str:
    """The first few of a long list, for a message."""
    shown = ", ".join(list(items)[:limit])
    return shown if len(items) <= limit else f"{shown}, ..."


def _walk(root: str, folder: str, wanted: tuple[str, ...], seen: set[tuple[int, int]]) -> Iterator[str]:
    path = os.path.join(root, folder) if folder else root
    try:
        status = os.stat(path)
        if (status.st_dev, status.st_ino) in seen:
            return  # a link back to a folder above
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                relative = f"{folder}/{entry.name}" if folder else entry.name
                # A directory called x.png stays a candidate: reading it says what it is.
                if not entry.name.lower().endswith(wanted) and _is_folder(entry):
                    yield from _walk(root, relative, wanted, seen)
                else:
                    yield relative
    except OSError as error:
        raise DataError(f"{path}: cannot be listed ({error.strerror}) — a folder of files is expected there") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, for one: no folder, whatever else it is
        return False
