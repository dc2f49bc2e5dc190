"""A folder of predictions: a name for each image, and a record of what made them.

::

    OUT/index/NAME.png … what the predictor's writer makes: a file of each image, or one of all of them
    OUT/report.json      the checkpoint and the options of every file there, and the image that each NAME stands for
    OUT/.replaced/TIME/  what had to make room

The record is written before the first prediction, and a file is whole or absent. So a file that is there is the
prediction of the image that the record names, as large and as old as the record says, and an interrupted run goes on.
Nothing is deleted: what belongs to another checkpoint, another image or nobody knows whom is refused or moved away.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from seglab.data.listing import stem
from seglab.errors import ConfigError
from seglab.runs import atomic
from seglab.version import __version__

if TYPE_CHECKING:
    from seglab.predictors.base import Writer

FILE = "report.json"
REPLACED = ".replaced"
FORMAT = 1
STILL = {"refine": None}
"""The predictor of records that name none."""
WITHOUT_EFFECT = ("window_batch", "accumulate")
"""Options of a protocol that trade memory for time."""


class Stamp(NamedTuple):
    """An image file as it was when its prediction was made or planned."""

    image: str
    """Its absolute path."""
    bytes: int | None
    modified_ns: int | None
    """None of a file that the system says nothing about."""


@dataclass(frozen=True)
class Entry:
    """One image and the name of its prediction."""

    image: Path
    name: str
    """Path below each kind's folder, without the kind's suffix."""

    @property
    def sequence(self) -> str:
        """Its folder, whose images may be the frames of a video."""
        return os.path.dirname(self.name)


class PredictionFolder:
    """The predictions below ``path``; ``writer`` knows their files."""

    def __init__(self, path: str | Path, writer: Writer) -> None:
        self.path = Path(path)
        self.writer = writer
        self.made_by: dict[str, Any] = {}
        self.stamps: dict[str, Stamp] = {}

    def begin(
        self, made_by: Mapping[str, Any], root: Path, images: Sequence[str], overwrite: bool, about: Mapping[str, Any]
    ) -> tuple[list[Entry], list[str]]:
        """Name the images and record them; gives the entries, in order, and lines about what had to make room.

        Args:
            made_by: ``checkpoint`` (path, step, checksum), ``network`` (a digest), ``protocol``, ``predictor`` and
                ``labels_out``, in which all files of the folder agree.
            root: the folder that the images are below.
            images: paths relative to ``root``.
            overwrite: move away what belongs to others, instead of refusing.
            about: what the record says beside that.

        Raises:
            ConfigError: what is there was made by something else, is of other images, or of unknown origin.
        """
        self.made_by = dict(made_by)
        with self.locked():
            said = self.make_room(overwrite)
            here = root.resolve()
            stamps = {image: stamp(here / image) for image in images}
            said += self.release(stamps, overwrite)
            names = assign(images, {name: relative(known.image, here) for name, known in self.stamps.items()})
            said += self.renew({names[image]: stamps[image] for image in images}, overwrite)
            self.write({**about, "status": "running"})
        return [Entry(root / image, names[image]) for image in images], said

    def finish(self, about: Mapping[str, Any], order: Sequence[str] = ()) -> None:
        """Bring the record up to date, with what other processes have added to it meanwhile.

        Args:
            order: the names, as files of all images have them.
        """
        with self.locked():
            self.writer.close(order)
            earlier = read(self.path)
            if earlier is not None and not differences(earlier, self.made_by):
                self.stamps = {**stamps_of(earlier), **self.stamps}
            self.write(about)

    def write(self, about: Mapping[str, Any]) -> None:
        """Write ``report.json``."""
        known = {name: found._asdict() for name, found in self.stamps.items()}
        head = {"format": FORMAT, "seglab": __version__, **self.made_by}
        atomic.write_json(self.path / FILE, {**head, **about, "predictions": known})

    def make_room(self, overwrite: bool) -> list[str]:
        """Go on with what the folder holds, or have it moved away.

        Raises:
            ConfigError: it was made by something else, or nobody knows by what.
        """
        earlier = read(self.path)
        there = [path for path in self.writer.places if os.path.lexists(path)]
        if earlier is not None and not (changes := differences(earlier, self.made_by)):
            self.stamps = stamps_of(earlier)
            return []
        if earlier is None and not os.path.lexists(self.path / FILE) and not any(map(holds_files, there)):
            return []
        if earlier is not None:
            why = f"predictions made with {'; '.join(changes)}"
        elif os.path.lexists(self.path / FILE):
            why = f"a {FILE} that does not say which checkpoint made the predictions beside it"
        else:
            why = f"files in {', '.join(path.name for path in there)}/ and no {FILE} that says what made them"
        if not overwrite:
            raise ConfigError(
                f"output={self.path} holds {why} — choose another output=, or set overwrite=true, which moves what is "
                f"there to {REPLACED}"
            )
        return [self.put_away([*there, self.path / FILE])]

    def release(self, stamps: Mapping[str, Stamp], overwrite: bool) -> list[str]:
        """Take names back that are of images of the same path below another folder.

        Raises:
            ConfigError: there are such names.
        """
        others = {}
        for image, own in stamps.items():
            for name in (stem(image), image):
                known = self.stamps.get(name)
                if known is not None and known.image != own.image and known.image.endswith(f"{os.sep}{image}"):
                    others[name] = known.image
        if not others:
            return []
        if not overwrite:
            name, image = next(iter(others.items()))
            raise ConfigError(
                f"output={self.path} holds predictions of other images of the same names ({len(others)}, such as "
                f"{name} of {image}) — choose another output=, or set overwrite=true, which moves them to {REPLACED}"
            )
        for name in others:
            del self.stamps[name]
        self.writer.forget(others)
        return [self.put_away(self.files(others))]

    def renew(self, stamps: Mapping[str, Stamp], overwrite: bool) -> list[str]:
        """Record the images under their names; predictions of what they were before they changed are moved away.

        Raises:
            ConfigError: a file stands in the way that no record knows.
        """
        changed = [name for name, found in stamps.items() if self.stamps.get(name, found) != found]
        unknown = self.files(name for name in stamps if name not in self.stamps)
        if unknown and not overwrite:
            raise ConfigError(
                f"output={self.path} holds {len(unknown)} files that {FILE} does not know, such as {unknown[0]} — move "
                f"them, choose another output=, or set overwrite=true, which moves them to {REPLACED}"
            )
        self.writer.forget([*changed, *(name for name in stamps if name not in self.stamps)])
        said = [self.put_away(unknown)] if unknown else []
        if stale := self.files(changed):
            images = "1 image has" if len(changed) == 1 else f"{len(changed)} images have"
            said.append(f"{images} changed since the last prediction: {self.put_away(stale)}")
        self.stamps.update(stamps)
        return said

    def files(self, names: Iterable[str]) -> list[Path]:
        """Those of single images that are there."""
        return [path for name in names for path in self.writer.files(name)]

    def put_away(self, paths: Iterable[Path]) -> str:
        """Move files or folders below ``.replaced``; says where they are."""
        base = self.path / REPLACED / time.strftime("%Y%m%d-%H%M%S")
        place = next(p for n in itertools.count() if not (p := base.with_name(f"{base.name}{'x' * n}")).exists())
        for path in paths:
            if os.path.lexists(path):
                target = place / path.relative_to(self.path)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.rename(target)
        return f"what was there is now in {place}"

    def probe(self) -> None:
        """Raises Unwritable: nothing at all can be written here any more."""
        try:
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise atomic.unwritable(error, self.path) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While the record is read and written, no other process of this host does.

        Raises:
            Unwritable: no such folder, and it cannot be made or written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDONLY)
            try:
                with suppress(ImportError, OSError):  # no such call on this system or file system
                    import fcntl

                    fcntl.flock(handle, fcntl.LOCK_EX)
                yield
            finally:
                os.close(handle)
        except OSError as error:
            raise atomic.unwritable(error, self.path) from error


def stamp(path: Path) -> Stamp:
    """An image file as it is now."""
    try:
        found = os.stat(path)
    except OSError:
        return Stamp(str(path), None, None)
    return Stamp(str(path), found.st_size, found.st_mtime_ns)


def relative(image: str, root: Path) -> str:
    """A recorded image's path below ``root``; the whole path where it is elsewhere."""
    return image.removeprefix(f"{root}{os.sep}")


def assign(images: Sequence[str], recorded: Mapping[str, str]) -> dict[str, str]:
    """A name for each image, no two alike.

    It is the path without its suffix. Images that differ in the suffix alone keep it, and so does one whose name is
    another's already. A recorded name stays with its image, and is never given to a second one.

    Args:
        images: different paths.
        recorded: names and the images that they stand for.
    """
    wanted, names = set(images), {}
    for name, image in recorded.items():
        if image in wanted and (name in (stem(image), image) or name.startswith(f"{image}~")):
            names[image] = name
    used, alike = set(recorded), Counter(map(stem, images))
    for image in sorted(wanted - names.keys()):  # a path before those that it is the beginning of
        short = [stem(image)] if alike[stem(image)] == 1 else []
        choices = itertools.chain(short, [image], (f"{image}~{n}" for n in itertools.count(2)))
        names[image] = next(name for name in choices if name not in used)
        used.add(names[image])
    return names


def read(folder: Path) -> dict[str, Any] | None:
    """The record of a folder; None where there is none, or none that says what made its predictions."""
    found = atomic.read_json(folder / FILE)
    if found.get("format") != FORMAT or not isinstance(found.get("predictions"), dict):
        return None
    checkpoint, protocol = found.get("checkpoint"), found.get("protocol")
    fine = isinstance(checkpoint, dict) and isinstance(checkpoint.get("checksum"), str) and isinstance(protocol, dict)
    return found if fine and all(isinstance(found.get(key), str) for key in ("network", "labels_out")) else None


def stamps_of(record: Mapping[str, Any]) -> dict[str, Stamp]:
    """The images that a record's names stand for; entries of another form are unknown."""
    found = {}
    for name, about in record["predictions"].items():
        if isinstance(about, dict) and about.keys() == set(Stamp._fields) and isinstance(about["image"], str):
            found[name] = Stamp(**about)
    return found


def differences(record: Mapping[str, Any], made_by: Mapping[str, Any]) -> list[str]:
    """What of a record's predictions would be made otherwise now, a line each."""
    before, now = record["checkpoint"], made_by["checkpoint"]
    found = []
    if before["checksum"] != now["checksum"] or record["network"] != made_by["network"]:
        place, step = before.get("path"), before.get("step")
        found.append(f"another checkpoint ({place}, step {step}; now {now['path']}, step {now['step']})")
    for key in {**record["protocol"], **made_by["protocol"]}:
        old, new = record["protocol"].get(key), made_by["protocol"].get(key)
        if old != new and key not in WITHOUT_EFFECT:
            found.append(f"evaluation.{key}={json.dumps(old)} (now {json.dumps(new)})")
    before, now = record.get("predictor", STILL), made_by.get("predictor", STILL)
    if before != now:
        found.append(f"predictor={json.dumps(before)} (now {json.dumps(now)})")
    if record.get("size") != made_by.get("size"):
        found.append(f"size={json.dumps(record.get('size'))} (now {json.dumps(made_by.get('size'))})")
    if record["labels_out"] != made_by["labels_out"]:
        found.append(f"labels_out={record['labels_out']} (now {made_by['labels_out']})")
    return found


def holds_files(path: Path) -> bool:
    """Whether anything but empty folders is there."""
    return not path.is_dir() or any(files for _, _, files in os.walk(path))
