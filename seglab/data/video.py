"""The only place that opens and writes video files, frame by frame: memory does not grow with their length.

By PyAV, FFmpeg's libraries, an extra: ``pip install 'seglab[video]'``. Frames are turned as a player would show them.
Their times are the file's own, whole numbers of its time base, so that a rate that varies stays as it is.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from seglab.data.io import MAX_PIXELS
from seglab.errors import ConfigError, DataError

VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".ogv",
    ".3gp",
)  # fmt: skip
CODECS = ("libx264", "mpeg4")
"""What frames are written with: the first that FFmpeg was built with."""
RATE = Fraction(25)
"""Of a video that does not say its own."""


class BrokenVideo(DataError):
    """A video that ends before it should. The frames before are as they should be."""


class Frame(NamedTuple):
    """One image of a video."""

    image: np.ndarray
    """[H, W, 3] uint8 RGB, upright."""
    pts: int
    """When it is shown, in units of the video's time base; the first one at 0."""
    duration: int
    """How long, in the same units; 0 where the file does not say."""


def library() -> Any:
    """PyAV.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ConfigError(
            f"video files are read and written by PyAV, which cannot be imported ({error}) — install it with "
            "pip install 'seglab[video]', or give a folder with the frames as images"
        ) from error
    av.logging.set_level(av.logging.PANIC)  # what is wrong with a file, its error says
    return av


class VideoReader:
    """``for frame in video``: once, from the first to the last.

    Args:
        path: the file.
        max_pixels: of a frame.
        limit: the key of the command that sets ``max_pixels``.

    Raises:
        ConfigError: PyAV is not installed.
        DataError: nothing in it can be decoded, or its frames are too large.
    """

    size: tuple[int, int]
    """(height, width) of the frames, upright."""
    rate: Fraction
    """Frames per second, on average."""
    time_base: Fraction
    """Seconds that the times of frames count."""
    expected: int | None
    """The number of frames, as far as the file says it."""

    def __init__(self, path: str | Path, max_pixels: int = MAX_PIXELS, limit: str = "max_pixels") -> None:
        av = library()
        self.path = Path(path)
        self.number = 0
        """Of frames that were read."""
        try:
            self.container = av.open(str(path))
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self.unreadable(why(error)) from error
        try:
            self._open(av, max_pixels, limit)
        except BaseException:
            self.close()
            raise

    def _open(self, av: Any, max_pixels: int, limit: str) -> None:
        if not self.container.streams.video:
            raise self.unreadable("there is no video in it")
        stream = self.stream = self.container.streams.video[0]
        if stream.codec_context is None:
            raise self.unreadable("it is of a codec that this FFmpeg does not know")
        self.rate = Fraction(stream.average_rate or stream.guessed_rate or RATE)
        self.time_base = Fraction(stream.time_base)
        length = stream.duration and float(stream.duration * self.time_base * self.rate)
        if not length and self.container.duration:
            length = self.container.duration / av.time_base * float(self.rate)
        self.expected = stream.frames or (round(length) if length else None)
        pixels = (stream.width or 0) * (stream.height or 0)
        if pixels > max_pixels:
            raise DataError(
                f"{self.path}: frames of {stream.height}x{stream.width} have {pixels} pixels — expected at most "
                f"{max_pixels}; set {limit}={pixels} to read them nevertheless"
            )
        self.decoded = self._decode(av)
        try:
            self.first = next(self.decoded)
        except BrokenVideo as error:
            raise self.unreadable(str(error).removeprefix(f"{self.path}: ")) from error
        except StopIteration:
            raise self.unreadable("it holds no frame") from None
        self.size = (self.first.image.shape[0], self.first.image.shape[1])

    def __iter__(self) -> Iterator[Frame]:
        """The frames.

        Raises:
            BrokenVideo: a frame cannot be decoded or has another size, or the file was cut off.
        """
        yield self.first
        yield from self.decoded

    def _decode(self, av: Any) -> Iterator[Frame]:
        stored, start, last = None, None, -1
        step = max(1, round(1 / (self.rate * self.time_base)))
        frames = self.container.decode(self.stream)
        while True:
            try:
                frame = next(frames, None)
            except (av.FFmpegError, OSError, ValueError) as error:
                raise self.broken(f"cannot be decoded ({why(error)})") from error
            if frame is None:
                break
            if frame.is_corrupt:
                raise self.broken("is damaged")
            size = (frame.height, frame.width)
            if size != (stored := stored or size):
                raise self.broken(f"is {size[0]}x{size[1]} (height x width), those before it {stored[0]}x{stored[1]}")
            pts = last + step if frame.pts is None else frame.pts - (start := frame.pts if start is None else start)
            last = max(pts, last + 1)  # two frames at one time cannot be written
            image = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
            self.number += 1
            yield Frame(np.ascontiguousarray(image), last, frame.duration or 0)
        if missing := missing_bytes(self.path):
            raise self.broken(f"is missing: the file was cut off ({missing} bytes)")

    def broken(self, what: str) -> BrokenVideo:
        """The error to raise of the next frame."""
        return BrokenVideo(f"{self.path}: frame {self.number + 1} {what} — expected a whole video; replace the file")

    def unreadable(self, reason: str) -> DataError:
        """The error to raise where there is no frame."""
        return DataError(f"{self.path}: no frame of it can be decoded: {reason} — expected a video; replace the file")

    def close(self) -> None:
        """Let go of the file."""
        self.container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class VideoWriter:
    """An MP4 file of frames of one size. It can be played once it is closed.

    Sides of an odd number of pixels get one more, a copy of the last: the codec's colours are of 2x2 pixels.

    Args:
        path: ends in .mp4.
        size: (height, width).
        rate: frames per second, on average.
        time_base: seconds that the times of frames count.

    Raises:
        ConfigError: PyAV is not installed.
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, size: tuple[int, int], rate: Fraction, time_base: Fraction) -> None:
        self.av = library()
        self.time_base = time_base
        self.pad = ((0, size[0] % 2), (0, size[1] % 2), (0, 0))
        self.container = self.av.open(str(path), "w", format="mp4")
        codec = next(name for name in CODECS if name in self.av.codecs_available)
        self.stream = self.container.add_stream(codec, rate=rate)
        self.stream.height, self.stream.width = size[0] + size[0] % 2, size[1] + size[1] % 2
        self.stream.pix_fmt = "yuv420p"
        # The codec of the second choice counts with 16 bits, so that fine time bases are only for the first.
        self.stream.codec_context.time_base = time_base if codec == CODECS[0] else 1 / rate
        if codec == CODECS[0]:
            self.stream.options = {"crf": "18", "preset": "veryfast"}

    def add(self, image: np.ndarray, pts: int, duration: int = 0) -> None:
        """The next frame [H, W, 3] uint8, and when it is shown."""
        frame = self.av.VideoFrame.from_ndarray(np.pad(image, self.pad, "edge"), format="rgb24")
        frame.pts, frame.time_base = pts, self.time_base
        if duration:
            frame.duration = duration
        self.container.mux(self.stream.encode(frame))

    def close(self) -> None:
        """Write what is left."""
        self.container.mux(self.stream.encode())
        self.container.close()


def why(error: BaseException) -> str:
    """What FFmpeg says, without its numbers and the file's name."""
    return str(getattr(error, "strerror", None) or error)


def missing_bytes(path: Path) -> int:
    """How many bytes an MP4, Matroska or AVI file is shorter than it says itself; 0 where it does not say.

    Demuxers end a file that was cut off as if it had been whole.
    """
    length = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(12)
        file.seek(0)
        if head[:4] == b"\x1a\x45\xdf\xa3":
            return max(0, end_of_matroska(file) - length)
        if head[:4] == b"RIFF":
            return max(0, 8 + int(struct.unpack("<I", head[4:8])[0]) - length)
        if head[4:8] in (b"ftyp", b"styp", b"moov", b"mdat", b"moof", b"free", b"skip", b"wide"):
            return max(0, end_of_boxes(file, length) - length)
    return 0


def end_of_boxes(file: Any, length: int) -> int:
    """Where the last box of an MP4 file ends."""
    at = 0
    while at < length:
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            return at + 8
        size = int(struct.unpack(">I", head[:4])[0])
        if size == 1 and len(head) == 16:
            size = int(struct.unpack(">Q", head[8:])[0])
        if size < 8:  # 0: up to the end, whatever that is
            return length
        at += size
    return at


def end_of_matroska(file: Any) -> int:
    """Where the segment of a Matroska file ends; 0 where it does not say (it was streamed)."""
    for expected in (0x1A45DFA3, 0x18538067):
        if int.from_bytes(file.read(4), "big") != expected:
            return 0
        first = file.read(1)
        if not first or first[0] == 0:
            return 0
        width = 9 - first[0].bit_length()
        rest = file.read(width - 1)
        size = int.from_bytes(bytes([first[0] & ((1 << (8 - width)) - 1)]) + rest, "big")
        if size == (1 << (7 * width)) - 1:
            return 0
        start = file.tell()
        if expected == 0x18538067:
            return int(start) + size
        file.seek(start + size)
    return 0
