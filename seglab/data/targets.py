"""What an item may have beside its image, and how each of these targets is treated: the one table that all code reads.

A target is a field of the same name in :class:`~seglab.data.source.Sample`, :class:`Item` and
:class:`~seglab.types.Batch`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from torch import Tensor

from seglab.types import IGNORE, Clip

if TYPE_CHECKING:
    from seglab.data.source import Sample


@dataclass(frozen=True)
class Target:
    """How a target is treated.

    A map [H, W] has one value per pixel: it is resized (nearest neighbour), cropped and flipped with the image. A value
    of the whole image is touched by no geometry.
    """

    fill: int | None
    """Value of pixels that padding adds to a map; None: this target is no map."""
    dtype: type[np.generic]
    """In an item; a sample may store it in fewer bits."""

    @property
    def is_map(self) -> bool:
        """Whether it has one value per pixel."""
        return self.fill is not None


TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        "label": Target(fill=IGNORE, dtype=np.int64),
        "category": Target(fill=None, dtype=np.int64),
        "depth": Target(fill=0, dtype=np.float32),
    }
)


@dataclass(kw_only=True)
class Item:
    """One image at the size that the network sees or, in evaluation, its own, with whatever targets it has."""

    image: Tensor
    """[3, H, W] uint8 RGB."""
    name: str
    label: Tensor | None = None
    """[H, W] int64 train ids, ``IGNORE`` where void."""
    category: Tensor | None = None
    """[] int64 class of the whole image."""
    depth: Tensor | None = None
    """[H, W] float32 metres, 0 where unknown. Resizing an image leaves the metres as they are."""
    flow: Tensor | None = None
    """[2, H, W] float32, in evaluation: optical flow (dx, dy) in pixels to the next frame; NaN where it is unknown."""
    sequence: str | None = None
    """In evaluation: the sequence that it is a frame of."""
    clip: Clip | None = None
    """In training: the frames around it, each tensor without the axis of the batch."""


def given(sample: Sample) -> dict[str, Any]:
    """The targets that a sample has, by name, as stored."""
    values = {name: getattr(sample, name) for name in TARGETS}
    return {name: value for name, value in values.items() if value is not None}


def tensors(values: Mapping[str, Any]) -> dict[str, Tensor]:
    """Targets as an item has them: copies, in the table's dtype."""
    return {name: torch.from_numpy(np.array(value, TARGETS[name].dtype)) for name, value in values.items()}


def planes(image: np.ndarray) -> Tensor:
    """[3, H, W] of an image [H, W, 3] uint8, a copy."""
    out = np.empty((3, *image.shape[:2]), np.uint8)
    cv2.split(np.ascontiguousarray(image), list(out))
    return torch.from_numpy(out)


def planes_of_flow(flow: np.ndarray) -> Tensor:
    """[2, H, W] float32 of an optical flow [H, W, 2], a copy."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(flow, -1, 0), dtype=np.float32).copy())


def padded(name: str, values: np.ndarray, height: int, width: int) -> Tensor:
    """A map [h, w] at the top left of [height, width], its fill value around it."""
    target = TARGETS[name]
    if values.shape == (height, width):
        return torch.from_numpy(np.array(values, target.dtype, order="C"))
    out = np.full((height, width), target.fill, target.dtype)
    out[: values.shape[0], : values.shape[1]] = values
    return torch.from_numpy(out)
