"""Video files of known frames, as tests of reading and predicting them need them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest


def picture(number: int, size: tuple[int, int] = (32, 48)) -> np.ndarray:
    """[H, W, 3] uint8: a frame that says its number in grey, with a red top left corner."""
    image = np.full((*size, 3), 40 + 8 * number, np.uint8)
    image[: size[0] // 4, : size[1] // 4] = (250, 0, 0)
    return image


def film(
    path: Path,
    times: list[int] | int = 8,
    rate: Fraction = Fraction(30000, 1001),
    time_base: Fraction | None = None,
    size: tuple[int, int] = (32, 48),
    codec: str = "libx264",
    rotation: int = 0,
    sizes: dict[int, tuple[int, int]] | None = None,
    **options: str,
) -> Path:
    """A video of pictures.

    Args:
        times: of the frames, in units of ``time_base``; or their number, at the rate.
        rotation: degrees, counter-clockwise, that a player has to turn it by.
        sizes: of single frames; a codec in which every frame is by itself (mjpeg).
        options: of the container.
    """
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = time_base or 1 / rate
        if codec == "libx264":
            stream.options = {"crf": "8", "g": "4", "bf": "0"}
        if rotation:
            stream.set_display_rotation(rotation)
        for number, time in enumerate(range(times) if isinstance(times, int) else times):
            own = (sizes or {}).get(number, size)
            frame = av.VideoFrame.from_ndarray(picture(number, own), format="rgb24")
            frame.pts, frame.time_base = time, time_base or 1 / rate
            if own == size:
                container.mux(stream.encode(frame))
                continue
            other = av.CodecContext.create(codec, "w")
            other.height, other.width, other.pix_fmt, other.time_base = *own, "yuvj420p", 1 / rate
            for packet in other.encode(frame):
                packet.stream, packet.pts, packet.dts, packet.time_base = stream, time, time, time_base or 1 / rate
                container.mux(packet)
        container.mux(stream.encode())
    return path


def cut(path: Path, share: float) -> Path:
    """The same file without its end."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path
