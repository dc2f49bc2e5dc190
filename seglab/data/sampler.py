"""Which item comes when: pure functions of position, so that a resumed run goes on exactly where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import lru_cache

import numpy as np
from torch.utils.data import Sampler

ORDER = 0x0D0E
"""Separates the random numbers of the order from those of the augmentation."""


class StreamSampler(Sampler[list[tuple[int, int]]]):
    """One process's share of an endless stream of (epoch, index), in batches.

    Position p of the stream is item ``permutation(seed, epoch)[k]`` with ``epoch, k = divmod(p, size)``: there are no
    epoch borders, and a batch may reach over the end of a permutation. Global batch b takes the positions from
    ``b * batch_size * world_size``; rank r the r-th ``batch_size`` of them.

    Args:
        batch_size: items per process and batch.
        start: number of batches already consumed, asked whenever iteration begins.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start: Callable[[], int] = lambda: 0,
    ) -> None:
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.start = start
        self._order = lru_cache(maxsize=2)(self._permutation)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        step = self.start()
        while True:
            begin = (step * self.world_size + self.rank) * self.batch_size
            yield [self.at(position) for position in range(begin, begin + self.batch_size)]
            step += 1

    def at(self, position: int) -> tuple[int, int]:
        """(epoch, index) at a position of the global stream."""
        epoch, k = divmod(position, self.size)
        return epoch, int(self._order(epoch)[k])

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([ORDER, self.seed, epoch]).permutation(self.size)


class ShardSampler(Sampler[int]):
    """Items rank, rank + world_size, ...: every item once over all processes, none repeated to even out the shares."""

    def __init__(self, size: int, rank: int = 0, world_size: int = 1) -> None:
        self.indices = range(rank, size, world_size)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


class SequenceSampler(Sampler[int]):
    """Items by whole sequences: every one once over all processes, each sequence's in order and in one process.

    Args:
        sequences: of each item.
        order: the items, those of a sequence as they follow one another.
    """

    def __init__(self, sequences: Sequence[Hashable], order: Sequence[int], rank: int = 0, world_size: int = 1) -> None:
        frames: dict[Hashable, list[int]] = {}
        for index in order:
            frames.setdefault(sequences[index], []).append(index)
        shares: list[list[int]] = [[] for _ in range(world_size)]
        for each in sorted(frames.values(), key=len, reverse=True):  # the longest first, to whom has least
            min(shares, key=len).extend(each)
        self.indices = shares[rank]

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)
