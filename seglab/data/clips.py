"""Clips of training: which frames near an image an item has beside it, and how they travel with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from seglab.checks import one_of, within
from seglab.data.flow import fitting
from seglab.data.source import Opened
from seglab.errors import ConfigError

if TYPE_CHECKING:
    from seglab.data.items import Items

CLIP = 0xC11B
"""Separates the random numbers of the near frame from those of order and augmentation."""


@dataclass(frozen=True)
class Surroundings:
    """The frames of an item's clip, not augmented yet."""

    offsets: tuple[int, ...]
    """How many frames each lies after the item, in the order of time; 0 is the item itself."""
    frames: Mapping[int, Opened]
    """All of them but the item, by their offsets."""
    flow: Mapping[int, np.ndarray] | None = None
    """[H, W, 2] float32 optical flow from the item to ``frames``, as far as it is known; None: nobody knows any."""


class Clips:
    """Chooses the frames of an item's clip, as a function of (seed, epoch, index).

    Args:
        gap: largest distance of the one near frame, before or after the image, which is drawn.
        offsets: the frames themselves instead, 0 (the image) among them: ``[-1, 0, 1]``. None: one is drawn.
        unreached: of items whose video has no such frame: ``refuse``, or ``leave_out``.
        flow: give the optical flow to the frames, too, where the data know it.

    Raises:
        ConfigError: an option out of range.
    """

    def __init__(
        self, gap: int = 3, offsets: Sequence[int] | None = None, unreached: str = "refuse", flow: bool = True
    ) -> None:
        self.flow = flow
        self.gap = int(within("data.clip.gap", gap, 1))
        self.unreached = one_of("data.clip.unreached", unreached, ("refuse", "leave_out"))
        if offsets is not None and (0 not in offsets or len(set(offsets)) != len(offsets) or len(offsets) < 2):
            raise ConfigError(
                f"data.clip.offsets={list(offsets)} — expected different numbers of frames with 0, the image itself, "
                "among them, such as [-1,0,1]; or null for one frame within data.clip.gap"
            )
        self.offsets = None if offsets is None else tuple(sorted(offsets))

    def reached(self, reach: tuple[int, int]) -> bool:
        """Whether an item with so many frames before and after it has what a clip needs."""
        before, after = reach
        if self.offsets is None:
            return before + after > 0
        return -before <= self.offsets[0] and self.offsets[-1] <= after

    def choose(self, reach: tuple[int, int], key: tuple[int, int, int]) -> tuple[int, ...]:
        """The offsets of a clip's frames, in the order of time, 0 among them.

        Args:
            reach: frames before the item and after it.
            key: (seed, epoch, index).
        """
        if self.offsets is not None:
            return self.offsets
        before, after = (min(side, self.gap) for side in reach)
        drawn = int(np.random.default_rng([CLIP, *key]).integers(before + after)) - before
        return (drawn, 0) if drawn < 0 else (0, drawn + 1)

    def open(self, items: Items, index: int, key: tuple[int, int, int]) -> Surroundings:
        """The frames around an item, to be augmented with it; DataError names one that cannot be used."""
        offsets = self.choose(items.reach(index), key)
        others = [offset for offset in offsets if offset]
        frames = {offset: items.near(index, offset) for offset in others}
        if not (self.flow and items.knows_flow):
            return Surroundings(offsets, frames)
        found = {offset: items.flow(index, offset) for offset in others}
        known = {
            offset: fitting(flow, items.names[index], frames[offset].size)
            for offset, flow in found.items()
            if flow is not None
        }
        return Surroundings(offsets, frames, known)

    def wanted(self) -> str:
        """What an item has to have, in words."""
        return f"within {self.gap}" if self.offsets is None else f"at {list(self.offsets)}"
