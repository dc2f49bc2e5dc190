"""Files of optical flow, in the three formats that are common.

- ``.flo`` (Middlebury): the number 202021.25, width and height as little-endian 32-bit, then (dx, dy) in float32, row
  by row; values above 1e9 are unknown.
- ``.png`` (KITTI): three channels of 16 bits: dx and dy as 64 * d + 2^15, and whether it is known.
- ``.npy``: floats [H, W, 2] or [2, H, W]; NaN is unknown.
"""

from __future__ import annotations

import os

import cv2
import numpy as np

from seglab.errors import DataError

SUFFIXES = (".flo", ".png", ".npy")
MAGIC = 202021.25
UNKNOWN = 1e9
"""Values of a ``.flo`` file beyond this are none."""


class StoredFlow:
    """``(name of a frame) -> [H, W, 2]`` float32 flow (dx, dy) in pixels to the next frame, NaN where unknown.

    Args:
        folder: holds ``NAME.flo``, ``NAME.png`` or ``NAME.npy``, where NAME is the frame's path below the data set's
            root, without suffix.

    Raises:
        DataError: no such folder.
    """

    def __init__(self, folder: str) -> None:
        self.folder = os.path.expanduser(folder)
        if not os.path.isdir(self.folder):
            raise DataError(f"data.flow={folder} — expected a folder with a file of optical flow for each frame")

    def __call__(self, name: str) -> np.ndarray:
        paths = [os.path.join(self.folder, name + suffix) for suffix in SUFFIXES]
        path = next((path for path in paths if os.path.exists(path)), None)
        if path is None:
            raise DataError(
                f"{paths[0]}: no such file, nor {' or '.join(SUFFIXES[1:])} — the optical flow from {name} to the next "
                "frame is expected there — add it, or set data.flow=null"
            )
        return read_flow(path)


def fitting(flow: np.ndarray, name: str, size: tuple[int, int]) -> np.ndarray:
    """The flow [H, W, 2] of the frame of that name; DataError where its size is not (height, width) ``size``."""
    if flow.shape[:2] != tuple(size):
        raise DataError(
            f"{name}: an optical flow of {flow.shape[1]}x{flow.shape[0]} beside a frame of {size[1]}x{size[0]}"
            " (width x height) — one size is expected — compute the flow of the frames as they are stored"
        )
    return flow


def read_flow(path: str) -> np.ndarray:
    """[H, W, 2] float32 (dx, dy) in pixels, NaN where unknown; DataError where the file cannot be used."""
    read = {".flo": _flo, ".png": _kitti, ".npy": _npy}[os.path.splitext(path)[1]]
    try:
        return read(path)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: {error} — an optical flow is expected — compute it again") from error


def _flo(path: str) -> np.ndarray:
    data = np.fromfile(path, np.uint8)
    if len(data) < 12 or data[:4].view("<f4")[0] != MAGIC:
        raise ValueError("no .flo file")
    width, height = data[4:12].view("<i4").tolist()
    if min(width, height) < 1 or len(data) != 12 + 8 * width * height:
        raise ValueError(f"{len(data)} bytes for {width}x{height} pixels")
    flow = data[12:].view("<f4").reshape(height, width, 2).astype(np.float32)
    flow[~(np.abs(flow) < UNKNOWN).all(-1)] = np.nan
    return flow


def _kitti(path: str) -> np.ndarray:
    stored = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    if stored is None or stored.dtype != np.uint16 or stored.shape[2:] != (3,):
        raise ValueError("no PNG of three channels of 16 bits")
    known, y, x = np.moveaxis(stored, -1, 0)  # OpenCV reads the channels from the last to the first
    flow = (np.stack((x, y), -1).astype(np.float32) - np.float32(1 << 15)) / np.float32(64)
    flow[known == 0] = np.nan
    return flow


def _npy(path: str) -> np.ndarray:
    flow = np.load(path, allow_pickle=False)
    if flow.ndim != 3 or 2 not in (flow.shape[0], flow.shape[-1]) or not np.issubdtype(flow.dtype, np.floating):
        raise ValueError(f"an array {list(flow.shape)} of {flow.dtype}, not [H, W, 2] or [2, H, W] of floats")
    flow = flow if flow.shape[-1] == 2 else np.moveaxis(flow, 0, -1)
    found = np.array(flow, np.float32)
    found[~np.isfinite(found).all(-1)] = np.nan
    return found
