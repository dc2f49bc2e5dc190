"""The class of every pixel of videos: index and colour maps of each frame, and an overlay as a video.

::

    OUT/index/NAME/000000.png …  OUT/colour/NAME/000000.png …  OUT/overlay/NAME.mp4

They get these names when the video is through. Of a video that ends too early the frames before are kept as
``NAME.partial`` and ``NAME.partial.mp4``, so that nobody takes them for all, and it is predicted again the next time.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from seglab import visualize
from seglab.data.video import BrokenVideo, Frame, VideoReader, VideoWriter
from seglab.predictors.base import Writer
from seglab.runs import atomic

if TYPE_CHECKING:
    from seglab.predictors.pixels import PixelWriter

FILM = ".mp4"
"""The suffix of what is one file of all frames."""
PARTIAL = ".partial"


class PixelVideoWriter(Writer):
    """See above.

    Args:
        images: writes the same kinds of files of images.
    """

    def __init__(self, images: PixelWriter) -> None:
        super().__init__(images.folder, images.kinds)
        self.images = images

    @property
    def places(self) -> list[Path]:
        return self.images.places

    def target(self, name: str, kind: str) -> Path:
        return self.folder / kind / f"{name}{FILM if kind == 'overlay' else ''}"

    def done(self, name: str) -> bool:
        there = {kind: self.target(name, kind) for kind in self.kinds}
        return all(path.is_file() if kind == "overlay" else path.is_dir() for kind, path in there.items())

    def files(self, name: str) -> list[Path]:
        kinds = [place.name for place in self.places]
        whole_and_partial = [self.target(each, kind) for kind in kinds for each in (name, name + PARTIAL)]
        return [path for path in whole_and_partial if os.path.lexists(path)]

    def add(self, name: str, image: VideoReader, prediction: Iterator[tuple[Frame, np.ndarray]]) -> None:
        """Write the predictions of a video, frame by frame.

        Raises:
            BrokenVideo: it ends too early; what there is of it is written.
            OSError, UserError: it cannot be written, or a frame not be predicted; nothing is.
        """
        parts = {kind: self.unfinished(self.target(name, kind)) for kind in self.kinds}
        try:
            with atomic.refused(self.folder):
                try:
                    self.write(parts, image, prediction)
                except BrokenVideo:
                    self.rename(parts, name + PARTIAL)
                    raise
                self.rename(parts, name)
            for kind in self.kinds:
                remove(self.target(name + PARTIAL, kind))
        finally:
            for path in parts.values():
                remove(path)

    def unfinished(self, target: Path) -> Path:
        """Where a file or folder is made; only this process knows the name."""
        return target.with_name(f".{os.fsdecode(os.fsencode(target.name)[:200])}.{os.getpid()}.tmp")

    def write(
        self, parts: Mapping[str, Path], video: VideoReader, prediction: Iterator[tuple[Frame, np.ndarray]]
    ) -> None:
        """Write every kind of every frame; what a video that ends too early has is whole when the error leaves."""
        film: VideoWriter | None = None
        for kind, path in parts.items():
            (path.parent if kind == "overlay" else path).mkdir(parents=True, exist_ok=True)
        try:
            for number, (frame, ids) in enumerate(prediction):
                for kind, path in parts.items():
                    if kind != "overlay":
                        Image.fromarray(self.content(kind, frame.image, ids)).save(path / f"{number:06d}.png")
                        continue
                    film = film or VideoWriter(path, (ids.shape[0], ids.shape[1]), video.rate, video.time_base)
                    film.add(self.content(kind, frame.image, ids), frame.pts, frame.duration)
        except BrokenVideo:
            if film is not None:
                film.close()
            raise
        except BaseException:
            if film is not None:
                with suppress(OSError, ValueError):  # the disk may be full; the reason that we leave for is said
                    film.close()
            raise
        if film is not None:
            film.close()

    def rename(self, parts: Mapping[str, Path], name: str) -> None:
        """Give what is made its name, in the place of what has it."""
        for kind, path in parts.items():
            target = self.target(name, kind)
            remove(target)
            os.replace(path, target)

    def content(self, kind: str, image: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """What a kind of file shows of a frame [H, W, 3] and its class ids [H, W]."""
        if kind != "overlay":
            return self.images.content(kind, image, ids)
        if image.shape[:2] != ids.shape:
            image = visualize.stretch(image, ids.shape)
        return visualize.overlay(image, ids, self.images.spec.palette)  # of the frame's size: no legend comes and goes


def remove(path: Path) -> None:
    """Remove a file or a folder of files, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
