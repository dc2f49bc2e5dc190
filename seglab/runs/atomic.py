"""Files that are whole or absent: written beside the target, flushed to the disk, then renamed."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from seglab.errors import UserError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_WRITABLE = (
    *NO_SPACE, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EISDIR, errno.EEXIST,
)  # fmt: skip
"""What the system says of a place where nothing can be written."""


class Unwritable(UserError):
    """A file or folder could not be written; what stood there before is untouched."""


class DiskFull(Unwritable):
    """There is no space for it."""


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes ``path``'s place when the block ends well, and leaves nothing behind when it does not.

    Raises:
        Unwritable: no space, quota or size limit reached (DiskFull), or no place where files can be written.
    """
    path = Path(path)
    # In the same folder, for a rename within one file system is atomic, and not longer than a file system allows.
    beside = path.with_name(f".{os.fsdecode(os.fsencode(path.name)[:200])}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        cause = system_error(error)
        if cause is not None:
            raise unwritable(cause, path) from error
        raise


@contextmanager
def refused(path: Path) -> Iterator[None]:
    """For work that writes to ``path`` by other means: the system's refusal becomes a user's error.

    Raises:
        Unwritable: no space, or no place where files can be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise
        raise unwritable(error, path) from error


def system_error(error: BaseException | None) -> OSError | None:
    """The refusal of the system that lies behind an error (torch wraps it), if one does."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in NOT_WRITABLE:
            return error
        error = error.__cause__ or error.__context__
    return None


def unwritable(cause: OSError, path: Path) -> Unwritable:
    """The error to raise for a path that the system does not let us write."""
    if cause.errno not in NO_SPACE:
        return Unwritable(f"{path}: cannot be written ({cause.strerror}) — expected a place where files can be made")
    there = next(folder for folder in path.absolute().parents if folder.exists())
    free = shutil.disk_usage(there).free / 2**20
    return DiskFull(
        f"{path}: no space to write it ({cause.strerror}; {free:.0f} MiB free) — what stood there before is kept; free "
        "some space"
    )


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut, where the file system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def sweep(folder: Path) -> list[Path]:
    """Remove what writers killed in the middle left behind; only where no writer can be alive."""
    leftovers = sorted(Path(folder).glob(".*.tmp"))
    for leftover in leftovers:
        leftover.unlink(missing_ok=True)
    return leftovers


def write_text(path: Path, text: str) -> None:
    """Replace a text file; what UTF-8 does not have (half a character, a byte of a file's name) is escaped."""
    with replacing(path) as file:
        file.write(text.encode(errors="backslashreplace"))


def write_json(path: Path, content: Any) -> None:
    """Replace a JSON file."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def jsonable(value: Any) -> Any:
    """Plain JSON: tensors and arrays as numbers or lists, NaN and infinities as null."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one where there is none."""
    try:
        content = json.loads(Path(path).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
