"""Files that are whole or absent: written beside the target, flushed to the disk, then renamed."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from seglab.errors import UserError


class DiskFull(UserError):
    """A file could not be written for want of space; what stood there before is untouched."""


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes ``path``'s place when the block ends well, and leaves nothing behind when it does not.

    Raises:
        DiskFull: no space, quota or size limit reached.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, for a rename within one file system is atomic, and not longer than a file system allows.
    beside = path.with_name(f".{os.fsdecode(os.fsencode(path.name)[:200])}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        sync_folder(path.parent)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        full = out_of_space(error)
        if full is not None:
            free = shutil.disk_usage(path.parent).free / 2**20
            raise DiskFull(
                f"{path}: no space to write it ({full.strerror}; {free:.0f} MiB free) — what stood there before is "
                "kept; free some space, or choose another folder with hydra.run.dir=…"
            ) from error
        raise


def out_of_space(error: BaseException | None) -> OSError | None:
    """The full disk, quota or size limit that lies behind an error (torch wraps it), if one does."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return error
        error = error.__cause__ or error.__context__
    return None


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
    """Replace a text file."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: Any) -> None:
    """Replace a JSON file."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one where there is none."""
    try:
        content = json.loads(Path(path).read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
