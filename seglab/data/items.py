"""What a loader's workers do: read one item, and augment it for training."""

from __future__ import annotations

import copy
import logging
from bisect import bisect_right
from collections.abc import Collection, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from seglab.data import targets
from seglab.data.augment import Augment
from seglab.data.clips import Clips
from seglab.data.corruption import Corruption
from seglab.data.flow import StoredFlow, fitting
from seglab.data.source import Opened, Sample, Source
from seglab.data.targets import Item
from seglab.errors import DataError

_log = logging.getLogger(__name__)


class Items:
    """The items of one or several official splits, one after another.

    Args:
        stored: files of optical flow, from each frame to the next one; None: only what the source itself knows.
    """

    def __init__(self, source: Source, splits: Sequence[str], stored: StoredFlow | None = None) -> None:
        self.source = source
        self.stored = stored
        self.splits = list(splits)
        self.names = [name for split in self.splits for name in source.names(split)]
        self.starts = [0, *accumulate(len(source.names(split)) for split in self.splits)]
        found = [source.sequences(split) for split in self.splits]
        named = zip(self.splits, found, strict=True)
        parts = [[f"{split}/{each}" for each in part] for split, part in named if part is not None]
        self.sequences = [each for part in parts for each in part] if None not in found else None
        """The sequence that each item is a frame of; None where a split has none."""

        self.chosen: Sequence[int] = range(self.starts[-1])
        """The number of each item, counted over all splits."""

    def part(self, fraction: float, seed: int) -> Items:
        """A share of the items, at least one, drawn at random; of one seed, a smaller share lies in a larger one."""
        number = max(1, round(fraction * len(self)))
        return self._of(self._order(seed)[:number])

    def rest(self, fraction: float, seed: int) -> Items:
        """All items that :meth:`part` of the same share and seed leaves out; none of a share of 1."""
        number = max(1, round(fraction * len(self)))
        return self._of(self._order(seed)[number:])

    def within(self, clips: Clips) -> Items:
        """The items that have the frames of a clip."""
        return self._of(np.array([index for index in range(len(self)) if clips.reached(self.reach(index))], int))

    def _order(self, seed: int) -> np.ndarray:
        return np.random.default_rng([seed, len(self)]).permutation(len(self))

    def _of(self, drawn: np.ndarray) -> Items:
        part = copy.copy(self)
        part.chosen = sorted(self.chosen[index] for index in drawn)
        part.names = [self.names[index] for index in sorted(drawn)]
        part.sequences = self.sequences and [self.sequences[index] for index in sorted(drawn)]
        return part

    def __len__(self) -> int:
        return len(self.chosen)

    def read(self, index: int) -> Sample:
        """Item ``index``."""
        return self.source.read(*self._place(index))

    def open(self, index: int) -> Opened:
        """The same item, its image to be decoded."""
        return self.source.open(*self._place(index))

    def reach(self, index: int) -> tuple[int, int]:
        """How many frames of its video lie before an item and after it."""
        return self.source.reach(*self._place(index))

    def near(self, index: int, offset: int) -> Opened:
        """The frame ``offset`` after an item, without targets, to be decoded."""
        return self.source.near(*self._place(index), offset)

    def flow(self, index: int, offset: int) -> np.ndarray | None:
        """[H, W, 2] optical flow to the frame ``offset`` after an item, NaN where unknown; None where there is none.

        Raises:
            DataError: a file of it is missing or cannot be used.
        """
        split, number = self._place(index)
        if self.stored is not None and offset == 1:
            return self.stored(self.source.names(split)[number])
        return self.source.flow(split, number, offset)

    @property
    def knows_flow(self) -> bool:
        """Whether the frames of sequences have an optical flow to the next one."""
        return self.stored is not None or self.source.knows_flow

    def _place(self, index: int) -> tuple[str, int]:
        index = self.chosen[index]
        part = bisect_right(self.starts, index) - 1
        return self.splits[part], index - self.starts[part]


class TrainItems(Dataset[Item]):
    """Augmented items, addressed by (epoch, index): the same key gives the same pixels in any worker.

    Args:
        needs: targets that every item must have.
        clips: chooses the frames around each item; None: there are none.
        on_corrupt: ``raise``, or ``skip`` to put the next readable item in the place of one that cannot be read, until
            more than one in a thousand items is found to be so.
    """

    TOLERATED = 0.001

    def __init__(
        self,
        items: Items,
        augment: Augment,
        seed: int,
        on_corrupt: str = "raise",
        needs: Collection[str] = ("label",),
        clips: Clips | None = None,
    ) -> None:
        self.clips = clips
        self.items = items
        self.augment = augment
        self.seed = seed
        self.on_corrupt = on_corrupt
        self.needs = tuple(needs)
        # In shared memory, so that all workers count together and the main process can tell.
        self.corrupt = torch.zeros(len(items), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, index = key
        random = (self.seed, epoch, index)  # those of the item asked for, whichever takes its place
        if self.on_corrupt == "raise":
            try:
                made = self._made(index, random)
            except DataError as error:
                raise DataError(f"{error} — or train without it: data.on_corrupt=skip") from error
        else:
            made = self._made_or_next(index, random)
        if isinstance(made, Item):
            return made
        raise DataError(
            f"{made.name}: no {self._missing(made)[0]}, which the task learns from — expected a split in which every"
            " image has one — change data.splits.train"
        )

    def _made(self, index: int, random: tuple[int, int, int]) -> Item | Opened:
        """The augmented item, or what was opened where a target is missing."""
        opened = self.items.open(index)
        if self._missing(opened):
            return opened
        around = None if self.clips is None else self.clips.open(self.items, index, random)
        return self.augment(opened, random, around)

    def _missing(self, opened: Opened) -> list[str]:
        return [name for name in self.needs if name not in opened.values]

    def _made_or_next(self, index: int, random: tuple[int, int, int]) -> Item | Opened:
        limit = max(1, int(self.TOLERATED * len(self)))
        while True:
            try:
                return self._made(index, random)
            except DataError as error:
                if not self.corrupt[index]:
                    self.corrupt[index] = True
                    _log.warning("skipped: %s", error)
                count = int(self.corrupt.sum())
                if count > limit:
                    raise DataError(
                        f"{count} of {len(self)} items cannot be read, the last being {error}"
                        f" — data.on_corrupt=skip tolerates {limit} — run with data.check=full to list them all"
                    ) from error
                index = (index + 1) % len(self)


class EvalItems(Dataset[Item]):
    """Items at their own size; one that cannot be read is an error, for a score is over the whole set.

    Args:
        corruption: of the images; None leaves them as they are.
        following: whether each item has a next frame in its sequence, to which the optical flow is given; None: none
            is given.
    """

    def __init__(
        self, items: Items, corruption: Corruption | None = None, following: Sequence[bool] | None = None
    ) -> None:
        self.items = items
        self.following = following
        self.corruption = corruption

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        sample = self.items.read(index)
        made: dict[str, Any] = dict(targets.tensors(targets.given(sample)))
        sequence = self.items.sequences[index] if self.items.sequences else None
        image = sample.image if self.corruption is None else self.corruption(sample.image, index)
        item = Item(image=targets.planes(image), name=sample.name, sequence=sequence, **made)
        if self.following is not None:
            item.flow = self._flow(index, item)
        return item

    def _flow(self, index: int, item: Item) -> Tensor | None:
        """[2, H, W] to the next frame, at the label's size; all NaN of a sequence's last frame."""
        assert self.following is not None
        size = (item.image if item.label is None else item.label).shape[-2:]
        if not self.following[index]:
            return torch.full((2, *size), torch.nan) if self.items.knows_flow else None
        flow = self.items.flow(index, 1)
        return None if flow is None else targets.planes_of_flow(fitting(flow, item.name, (size[0], size[1])))
