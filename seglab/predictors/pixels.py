"""The class of every pixel, as an index map, a colour map and an overlay.

::

    OUT/index/NAME.png  OUT/colour/NAME.png  OUT/overlay/NAME.jpg

Those of video files: :mod:`seglab.predictors.videos`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from seglab import visualize
from seglab.data.spec import DatasetSpec
from seglab.errors import DataError
from seglab.inference import height_width, infer
from seglab.ops.resize import resize_argmax
from seglab.predictors.base import Predictor, Writer
from seglab.predictors.videos import PixelVideoWriter
from seglab.types import Size

SUFFIXES = {"index": ".png", "colour": ".png", "overlay": ".jpg"}
MAX_SCORES = 2**32
"""Scores of an image that are held at once (16 GiB), unless ``max_pixels`` asks for it."""


class PixelPredictor(Predictor):
    """Image [H, W, 3] uint8 -> class ids [H, W] uint8 of its own size, or of the one that was asked for."""

    sized = True
    kinds: ClassVar[tuple[str, ...]] = tuple(SUFFIXES)

    def scores(self, image: torch.Tensor, size: Size) -> torch.Tensor:
        def network(view: torch.Tensor) -> torch.Tensor:
            output = self.model(view, size=self.protocol.next_size(height_width(view), size))
            return output.logits

        return infer(network, image, self.protocol, size)

    def read(self, scores: torch.Tensor, size: Size) -> np.ndarray:
        return resize_argmax(scores, size)[0].cpu().numpy().astype(np.uint8)

    def writer(self, folder: Path, kinds: Sequence[str], raw: np.ndarray | None = None) -> PixelWriter:
        return PixelWriter(folder, kinds, self.spec, raw)

    def video_writer(self, folder: Path, kinds: Sequence[str], raw: np.ndarray | None = None) -> PixelVideoWriter:
        return PixelVideoWriter(self.writer(folder, kinds, raw))

    def check(self, size: Size) -> None:
        """Refuse an image [H, W] whose scores, where the protocol needs them at full resolution, are too many to hold.

        Raises:
            DataError: names the keys that mend it.
        """
        result = self.result_size(size)
        own = result[0] * result[1] if getattr(self.model, "any_size", False) else 0
        scores = self.spec.num_classes * max(self.protocol.scored_pixels(size), own)
        if scores > MAX_SCORES:
            raise DataError(
                f"{size[0]}x{size[1]} pixels, predicted at {result[0]}x{result[1]}: the scores for "
                f"{self.spec.num_classes} classes take {scores / 2**28:.0f} GiB — expected at most "
                f"{MAX_SCORES / 2**28:.0f}; {self.lighter()}, or try it "
                f"with max_pixels={size[0] * size[1]}"
            )


class PixelWriter(Writer):
    """One file per image and kind.

    Args:
        raw: [K] the ids that ``index`` stores; None: train ids.
    """

    def __init__(self, folder: Path, kinds: Sequence[str], spec: DatasetSpec, raw: np.ndarray | None = None) -> None:
        super().__init__(folder, kinds)
        self.spec = spec
        self.raw = raw

    @property
    def places(self) -> list[Path]:
        return [self.folder / kind for kind in SUFFIXES]

    def target(self, name: str, kind: str) -> Path:
        """The file of a kind."""
        return self.folder / kind / f"{name}{SUFFIXES[kind]}"

    def done(self, name: str) -> bool:
        # False, too, for what is no legal path.
        return all(os.path.isfile(self.target(name, kind)) for kind in self.kinds)

    def files(self, name: str) -> list[Path]:
        return [path for kind in SUFFIXES if os.path.lexists(path := self.target(name, kind))]

    def add(self, name: str, image: np.ndarray, prediction: np.ndarray) -> None:
        for kind in self.kinds:
            visualize.save(self.content(kind, image, prediction), self.target(name, kind))

    def content(self, kind: str, image: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """What a kind of file shows of an image [H, W, 3] and its class ids [H, W]."""
        if kind == "index":
            raw = self.raw
            return ids if raw is None else raw[ids].astype(np.uint8 if raw.max() < 256 else np.uint16)
        if kind == "colour":
            return visualize.colour_map(ids, self.spec.palette)
        if image.shape[:2] != ids.shape:
            image = visualize.stretch(image, ids.shape)
        return visualize.overlay_with_legend(image, ids, self.spec.classes, self.spec.palette)
