"""Writing converted label files so that a run can be killed and started again: the engine of ``scripts/prepare_*``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from seglab.errors import DataError, UserError


class Conversion(NamedTuple):
    """What to read (a file, or what names a part of one) and the file to write."""

    source: str
    target: str


def convert(
    conversions: Sequence[Conversion], encode: Callable[[str], np.ndarray], title: str, workers: int | None = None
) -> int:
    """Write ``encode(source)`` as PNG to every target that does not exist yet; returns how many.

    Arrays are [H, W] uint8 or uint16, or [H, W, 3] uint8.

    A target appears by renaming, so one that exists is complete. The first error stops the run and what is done stays.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    pending = [conversion for conversion in conversions if not os.path.exists(conversion.target)]
    for folder in {os.path.dirname(conversion.target) for conversion in pending}:
        os.makedirs(folder, exist_ok=True)

    def work(conversion: Conversion) -> None:
        save_png(encode(conversion.source), conversion.target)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress, ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        task = progress.add_task(title, total=len(conversions), completed=len(conversions) - len(pending))
        try:
            for _ in pool.map(work, pending):
                progress.advance(task)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return len(pending)


def save_png(array: np.ndarray, path: str) -> None:
    """Write a PNG whole or not at all: grey of 8 or 16 bits, or RGB, as the array is."""
    write_whole(path, lambda part: Image.fromarray(array).save(part, format="PNG"))


def write_whole(path: str, write: Callable[[str], object]) -> None:
    """Let ``write`` fill a hidden file beside ``path`` and rename it."""
    part = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{os.getpid()}.part")
    try:
        write(part)
        os.replace(part, path)
    finally:
        if os.path.exists(part):
            os.remove(part)


def read_mat(path: str, *fields: str) -> np.ndarray:
    """[H, W] of a variable of a MATLAB file, or of a field of the 1x1 structs that the ``fields`` before it name.

    Raises:
        DataError: a file that is damaged or lacks the field.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DataError("reading .mat files needs scipy — run: pip install 'seglab[prepare]'") from error
    name = ".".join(fields)
    try:
        value = loadmat(path, variable_names=[fields[0]])
    except Exception as error:  # scipy raises nearly anything on damaged bytes.
        raise DataError(f"{path}: cannot be read as a MATLAB file ({error}) — restore it from the archive") from error
    array = value.get(fields[0])
    for field in fields[1:]:
        held = array.dtype.names if isinstance(array, np.ndarray) and array.size == 1 else None
        array = array[field].item() if field in (held or ()) else None
    if array is None:
        raise DataError(f"{path}: no field {name} — the label map is expected there — take the official archive")
    return np.asarray(array)


def run(main: Callable[[], None]) -> None:
    """Run a script: a user's error becomes one line on stderr and exit code 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
