"""Frames of a video file by their numbers, for data whose images are frames of videos.

A frame is a path below its file: ``street.mp4/000019``. Reading goes on from the frame that was read last where that is
nearer than the key frame before the wanted one.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import OrderedDict
from threading import Lock
from typing import Any

import numpy as np

from seglab.data.video import VIDEO_SUFFIXES, library, why
from seglab.errors import DataError

OPEN = 4
"""Videos that a process keeps open; the rest are closed when nobody reads of them any more."""


def place(path: str) -> tuple[str, int] | None:
    """The video file and the number of the frame that a path stands for; None of any other path."""
    video, _, number = path.rpartition("/")
    return (video, int(number)) if video.lower().endswith(VIDEO_SUFFIXES) and number.isdecimal() else None


class VideoFrames:
    """Random access to the frames of a file, from any thread.

    Args:
        path: the file.
        max_pixels: of a frame.

    Raises:
        ConfigError: PyAV is not installed.
        DataError: no video, frames that are too large, or that do not say when they are shown.
    """

    size: tuple[int, int]
    """(height, width), upright."""

    def __init__(self, path: str, max_pixels: int) -> None:
        self.path = path
        self.av = library()
        try:
            self.container = self.av.open(path)
            stream = self.stream = self.container.streams.video[0]
            packets = [(p.pts, p.is_keyframe) for p in self.container.demux(stream) if p.size]
        except IndexError:
            raise self.unusable("there is no video in it") from None
        except (self.av.FFmpegError, OSError, ValueError) as error:
            raise self.unusable(why(error)) from error
        if any(pts is None for pts, _ in packets):
            raise self.unusable("its frames do not say when they are shown; convert it to MP4 or Matroska")
        if stream.height * stream.width > max_pixels:
            raise DataError(
                f"{path}: frames of {stream.width}x{stream.height} pixels — at most {max_pixels} are read — set "
                "data.dataset.max_pixels"
            )
        self.times = sorted(pts for pts, _ in packets)
        self.keys = sorted(pts for pts, key in packets if key)
        # No threads of FFmpeg's: a forked data worker that frees what it inherited would wait for them for ever.
        stream.codec_context.thread_count = 1
        self.reformatter = self.av.video.reformatter.VideoReformatter()
        self.lock = Lock()  # there is one decoder
        self.decoder: Any = None
        self.last: int | None = None
        if not self.times or not self.keys:
            raise self.unusable("it holds no frame")
        height, width = self.read(0).shape[:2]
        self.size = (height, width)

    def __len__(self) -> int:
        return len(self.times)

    def read(self, number: int) -> np.ndarray:
        """[H, W, 3] uint8 RGB of a frame, upright.

        Raises:
            DataError: it cannot be decoded, is not there, or has another size than the first.
        """
        if not 0 <= number < len(self.times):
            raise DataError(f"{self.path}: no frame {number}, it has {len(self.times)} — mend the name, or the video")
        with self.lock:
            return self._read(number)

    def _read(self, number: int) -> np.ndarray:
        wanted = self.times[number]
        key = self.keys[max(0, bisect_right(self.keys, wanted) - 1)]
        try:
            if self.last is None or not key <= self.last < wanted:
                self.container.seek(key, stream=self.stream)
                self.decoder = self.container.decode(self.stream)
            self.last = None  # until it is known again
            frame = next((each for each in self.decoder if each.pts is not None and each.pts >= wanted), None)
        except (self.av.FFmpegError, OSError, ValueError) as error:
            raise self.broken(number, f"cannot be decoded ({why(error)})") from error
        if frame is None or frame.pts != wanted or frame.is_corrupt:
            raise self.broken(number, "is damaged")
        rgb = self.reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        image = np.ascontiguousarray(np.rot90(rgb, round(frame.rotation / 90)))
        if number and image.shape[:2] != self.size:
            found = f"{image.shape[0]}x{image.shape[1]}"
            raise self.broken(number, f"is {found} (height x width), the first {self.size[0]}x{self.size[1]}")
        self.last = wanted
        return image

    def broken(self, number: int, what: str) -> DataError:
        """The error to raise of a frame."""
        return DataError(f"{self.path}: frame {number} {what} — expected a whole video — replace the file")

    def unusable(self, reason: str) -> DataError:
        """The error to raise of a file."""
        return DataError(f"{self.path}: cannot be read as a video: {reason} — a video is expected — replace the file")


_open: OrderedDict[tuple[int, str, int], VideoFrames] = OrderedDict()
_opening = Lock()


def opened(path: str, max_pixels: int) -> VideoFrames:
    """The frames of a file; the files used last stay open. A forked process opens its own."""
    key = (os.getpid(), path, max_pixels)
    with _opening:
        if key not in _open:
            _open[key] = VideoFrames(path, max_pixels)
            while len(_open) > OPEN:
                _open.popitem(last=False)
        _open.move_to_end(key)
        return _open[key]
