"""CIFAR-10: 60000 images of 32x32, each of one of 10 classes.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", technical report, University of Toronto, 2009. Read
as published, in either of two layouts: the "binary version" (records of one label byte and 3072 pixel bytes) and the
"python version" (pickled dicts, of which only plain data is taken: nothing that a file names is run). Pixels are three
planes R, G, B, row by row.
"""

from __future__ import annotations

import _codecs
import hashlib
import logging
import os
import pickle
import stat
from collections.abc import Callable
from textwrap import indent
from typing import Any, ClassVar

import numpy as np

from seglab.data.source import Sample, Source, digest
from seglab.data.spec import DatasetSpec
from seglab.errors import DataError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PALETTE = (
    (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75), (227, 119, 194),
    (127, 127, 127), (188, 189, 34), (23, 190, 207),
)  # fmt: skip
"""The published set has no colours; these are for images of results only."""

SIDE = 32
PIXELS = 3 * SIDE * SIDE
"""Bytes of an image."""
IMAGES = 10000
"""Of each published file."""
BATCHES = {
    "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
    "test": ("test_batch",),
}
OFFICIAL = {"train": 50000, "test": 10000}
FOLDERS = {"cifar-10-batches-bin": ".bin", "cifar-10-batches-py": ""}
"""The archives' folders, and what their batches end in. Where both are there the first is taken: processes share it."""
REMEDY = "unpack the official archive again"

_log = logging.getLogger(__name__)

Batch = tuple[np.ndarray, np.ndarray]
"""Pixels [n, 3072] uint8 and labels [n] of one file."""


class CIFAR10(Source):
    """The published files below ``root``, which is one of the archives' folders or the folder that holds it."""

    spec = DatasetSpec("cifar10", CLASSES, PALETTE)
    splits = ("train", "test")
    gives = frozenset({"category"})
    layout: ClassVar[str] = """
cifar-10-batches-bin/{data_batch_1,...,data_batch_5,test_batch}.bin   the binary version, or
cifar-10-batches-py/{data_batch_1,...,data_batch_5,test_batch}        the python version
"""

    def __init__(self, root: str | os.PathLike[str] | None) -> None:
        self.given = root
        self._batches: dict[str, list[Batch]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without what was read: a worker that is no fork opens the files itself instead of being sent their bytes."""
        return {**self.__dict__, "_batches": {}}

    @property
    def folder(self) -> tuple[str, str]:
        """The folder of the batches, and what their names end in; DataError with the expected tree if there is none."""
        expected = "expected below data.root:\n" + indent(self.layout.strip("\n"), "    ")
        if self.given is None:
            raise DataError(f"CIFAR10: data.root is not set — give the dataset's folder\n{expected}")
        root = os.path.expanduser(self.given)
        for name, suffix in FOLDERS.items():
            if os.path.isdir(os.path.join(root, name)):
                return os.path.join(root, name), suffix
        for suffix in FOLDERS.values():
            files = [f"{name}{suffix}" for names in BATCHES.values() for name in names]
            if any(os.path.isfile(os.path.join(root, file)) for file in files):
                return root, suffix
        raise DataError(f"CIFAR10: no batches in {root} — set data.root=FOLDER\n{expected}")

    def batches(self, split: str) -> list[Batch]:
        """The files of a split in order, opened once.

        Raises:
            DataError: a file that is missing, truncated, of another kind, or holds a label that is no class.
        """
        if self.known(split) not in self._batches:
            folder, suffix = self.folder
            read: Callable[[str], Batch] = read_binary if suffix else read_pickle
            self._batches[split] = [read(os.path.join(folder, f"{name}{suffix}")) for name in BATCHES[split]]
            self.refuse_cut(split)
            number = sum(len(labels) for _, labels in self._batches[split])
            if number != OFFICIAL[split]:
                _log.warning("cifar10, split %s: %d images; the official split has %d", split, number, OFFICIAL[split])
        return self._batches[split]

    def refuse_cut(self, split: str) -> None:
        """DataError where a file of the binary version is shorter than published and others beside it are not.

        A download that ends between two records is a sound file of fewer images; a pickle says itself where it ends.
        """
        folder, suffix = self.folder
        paths = {name: os.path.join(folder, f"{name}{suffix}") for names in BATCHES.values() for name in names}
        whole = IMAGES * (PIXELS + 1)
        if not suffix or not any(os.path.isfile(path) and os.path.getsize(path) == whole for path in paths.values()):
            return
        for name, (_, labels) in zip(BATCHES[split], self._batches[split], strict=True):
            if len(labels) != IMAGES:
                self._batches.pop(split)
                raise DataError(
                    f"{paths[name]}: {len(labels)} images, and files beside it are whole — expected {IMAGES} — {REMEDY}"
                )

    def names(self, split: str) -> list[str]:
        """``train/00000`` and so on, counted over the split's files."""
        return [f"{split}/{index:05d}" for index in range(sum(len(labels) for _, labels in self.batches(split)))]

    def read(self, split: str, index: int) -> Sample:
        """Image ``index`` with its class; IndexError beyond the split's length."""
        left = index
        for pixels, labels in self.batches(split):
            if 0 <= left < len(labels):
                planes = pixels[left].reshape(3, SIDE, SIDE)
                image = np.ascontiguousarray(planes.transpose(1, 2, 0))
                return Sample(image=image, category=int(labels[left]), name=f"{split}/{index:05d}")
            left -= len(labels)
        raise IndexError(f"cifar10: {split} has no index {index}")

    def fingerprint(self, split: str) -> str:
        """Hash of all pixels and labels, equal in both layouts."""
        hasher = hashlib.sha256()
        for pixels, labels in self.batches(split):
            hasher.update(pixels.tobytes())
            hasher.update(labels.tobytes())
        return digest([split, hasher.hexdigest()])


def read_binary(path: str) -> Batch:
    """A file of the binary version, mapped into memory; DataError where it is none."""
    try:
        size = os.path.getsize(path)
        if size == 0 or size % (PIXELS + 1):
            raise DataError(
                f"{path}: {size} bytes — expected a multiple of {PIXELS + 1}, one record an image — {REMEDY}"
            )
        records = np.memmap(path, np.uint8, "r").reshape(-1, PIXELS + 1)
    except OSError as error:
        raise unreadable(path, error) from error
    return checked(path, records[:, 1:], records[:, 0])


def read_pickle(path: str) -> Batch:
    """A file of the python version; DataError where it is none. Nothing that the file names is run."""
    batch = "a batch of CIFAR-10's python version"
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError(0, "no regular file")  # a pipe would be waited at for ever
        with open(path, "rb") as file:
            content = Plain(file, path).load()
    except OSError as error:
        raise unreadable(path, error) from error
    except DataError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(f"{path}: no whole pickle ({error!r}) — expected {batch} — {REMEDY}") from error
    if isinstance(content, dict):
        content = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in content.items()}
    if not isinstance(content, dict) or not {"data", "labels"} <= content.keys():
        raise DataError(f"{path}: no dict with data and labels — expected {batch} — {REMEDY}")
    pixels, labels = stored_bytes(content["data"]), content["labels"]
    if pixels is None:
        raise DataError(f"{path}: data is no array — expected uint8 [images, {PIXELS}] — {REMEDY}")
    if not isinstance(labels, list) or len(labels) != len(pixels) or not all(type(label) is int for label in labels):
        raise DataError(f"{path}: labels are no list of {len(pixels)} whole numbers, one an image — {REMEDY}")
    # Numbers of any size, until they are checked.
    return checked(path, pixels, np.array(labels, object))


class StoredArray:
    """What a pickle says of an array, in place of numpy's own function: reading a file then calls nothing of numpy."""

    def __init__(self, *_: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class StoredType:
    """What a pickle says of an array's type."""

    def __init__(self, code: object = None, *_: object) -> None:
        self.code = code.decode("latin1") if isinstance(code, bytes) else code

    def __setstate__(self, state: object) -> None:
        """Byte order and the like, of which a byte has none."""


class Plain(pickle.Unpickler):
    """Unpickles plain data, and arrays as :class:`StoredArray`. What else a file names is refused and not looked up."""

    ALLOWED: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): StoredArray,
        ("numpy._core.multiarray", "_reconstruct"): StoredArray,
        ("numpy", "ndarray"): "ndarray",  # an argument of the former, not to be called
        ("numpy", "dtype"): StoredType,
        ("_codecs", "encode"): _codecs.encode,  # bytes, where Python 3 wrote an old protocol
    }

    def __init__(self, file: Any, path: str) -> None:
        super().__init__(file, encoding="bytes")  # strings of Python 2, in which these files were written
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name in the file; DataError for a name that no batch needs."""
        if (module, name) not in self.ALLOWED:
            raise DataError(
                f"{self.path}: names {module}.{name}, which was not run — expected arrays, lists and text — {REMEDY}"
            )
        return self.ALLOWED[module, name]


def stored_bytes(array: object) -> np.ndarray | None:
    """[n, 3072] uint8 of a stored array; None where it is of another type or shape, or not whole."""
    try:
        _, (count, width), kind, columns_first, content = array.state  # type: ignore[attr-defined]
        fine = kind.code in ("u1", "uint8") and not columns_first and width == PIXELS and count > 0
        return np.frombuffer(content, np.uint8).reshape(count, PIXELS) if fine else None
    except (AttributeError, TypeError, ValueError):
        return None


def checked(path: str, pixels: np.ndarray, labels: np.ndarray) -> Batch:
    """A batch whose labels are classes; DataError names the first that is none."""
    wrong = np.flatnonzero((labels < 0) | (labels >= len(CLASSES)))
    if len(wrong):
        raise DataError(
            f"{path}: label {labels[wrong[0]]} of image {wrong[0]} — expected 0 to {len(CLASSES) - 1}"
            f" — {REMEDY} (CIFAR-100 is another data set)"
        )
    return pixels, labels.astype(np.uint8)


def unreadable(path: str, error: OSError) -> DataError:
    """What is said of a file that is not there or cannot be opened."""
    return DataError(f"{path}: {error.strerror} — expected a file of CIFAR-10 — {REMEDY}")
