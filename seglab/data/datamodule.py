"""One DataModule for every dataset: checks, loaders and the training stream."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader, Sampler

from seglab.checks import one_of, within
from seglab.data import check as checking
from seglab.data import workers
from seglab.data.augment import Augment
from seglab.data.clips import Clips
from seglab.data.collate import group, stack
from seglab.data.corruption import Corruption
from seglab.data.flow import StoredFlow
from seglab.data.items import EvalItems, Item, Items, TrainItems
from seglab.data.listing import natural
from seglab.data.sampler import SequenceSampler, ShardSampler, StreamSampler
from seglab.data.source import Source, digest
from seglab.data.spec import DatasetSpec
from seglab.errors import ConfigError, DataError
from seglab.types import Batch

ROLES = ("train", "val", "test")

STAGES = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}


class DataModule(L.LightningDataModule):
    """Loaders for the three roles of a dataset's splits.

    Training batches come from one endless stream that depends on the seed alone, neither on the number of workers nor
    on where it was interrupted. Evaluation gives every item once, at its own size, over all processes.

    Args:
        dataset: called with ``root``, gives the source.
        root: the dataset's folder.
        splits: official split, or list of splits, of ``train``, ``val`` and ``test``. ``test`` may be null (no test) or
            ``auto``: the dataset's split ``test`` where it has one, else no test.
        augment: of training images.
        needs: targets that the task learns from and is scored by.
        fraction: share of the training items that is trained on, drawn by the seed.
        batch_size: items per process and training batch.
        eval_batch_size: items per process in evaluation; those of one size go through the network together.
        num_workers: loader processes; None takes the cores divided by the training processes, half of them where
            these compute on the CPU, at most 8.
        check: what is checked before training starts: ``names``, ``headers`` or ``full``.
        allow_unlabelled: leave out images without a label instead of refusing them.
        on_corrupt: ``raise``, or ``skip`` in training an item that cannot be read (at most one in a thousand).
        clip: chooses the frames of its video that a training item has beside it; None: there are none.
        flow: folder with a file of optical flow for each frame (:class:`StoredFlow`); None: what the dataset knows.
    """

    start_step = 0
    """Training batches already consumed; set it before the loader is iterated to resume there."""
    in_sequences = False
    """Evaluate sequences frame by frame, each as a whole in one process; otherwise items are dealt one by one."""
    corruption: Corruption | None = None
    """Of the images of an evaluation."""

    def __init__(
        self,
        dataset: Callable[..., Source],
        root: str | None,
        splits: Mapping[str, str | Sequence[str] | None],
        augment: Augment,
        batch_size: int = 8,
        eval_batch_size: int = 1,
        num_workers: int | None = None,
        seed: int = 0,
        check: str = "names",
        allow_unlabelled: bool = False,
        on_corrupt: str = "raise",
        fraction: float = 1.0,
        persistent_workers: bool = True,
        pin_memory: bool = True,
        prefetch_factor: int = 4,
        needs: Collection[str] = ("label",),
        clip: Clips | None = None,
        flow: str | None = None,
    ) -> None:
        super().__init__()
        if set(splits) != set(ROLES):
            raise ConfigError(f"data.splits has {', '.join(splits)} — expected one entry each for {', '.join(ROLES)}")
        least = {"batch_size": (batch_size, 1), "eval_batch_size": (eval_batch_size, 1),
                 "num_workers": (num_workers or 0, 0), "prefetch_factor": (prefetch_factor, 1)}  # fmt: skip
        for name, (value, low) in least.items():
            within(f"data.{name}", value, low)
        self.fraction = within("data.fraction", fraction, 0, 1, open_low=True)
        one_of("data.check", check, checking.LEVELS)
        one_of("data.on_corrupt", on_corrupt, ("raise", "skip"))
        self.source = dataset(root=root)
        self.source.allow_unlabelled = allow_unlabelled
        self.needs = tuple(needs)
        self.source.wanted = frozenset(self.needs)
        if lacking := [name for name in self.needs if name not in self.source.gives]:
            raise ConfigError(
                f"{self.spec.name} gives {', '.join(sorted(self.source.gives))}; the task needs {', '.join(lacking)}"
                " — choose another data= or task="
            )
        self.splits = {role: named(role, given, self.source.splits) for role, given in splits.items()}
        self.augment = augment
        self.clips = clip
        self.stored_flow = None if flow is None else StoredFlow(flow)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.level = check
        self.on_corrupt = on_corrupt
        self.persistent_workers = persistent_workers
        self.pin_memory = pin_memory
        self.prefetch_factor = prefetch_factor
        self._items: dict[str, Items] = {}
        self._checked: set[str] = set()
        self._judged = False

    @property
    def spec(self) -> DatasetSpec:
        """Classes, palette, label map."""
        return self.source.spec

    def split(self, role: str) -> str:
        """The dataset's own name of a role's split, ``train + val`` of several; empty where there is no test."""
        return " + ".join(self.splits[role])

    def items(self, role: str) -> Items:
        """The items of ``train``, ``val`` or ``test``, paired and counted; DataError where that fails."""
        if not self.splits[role]:
            there = ", ".join(self.source.splits)
            raise ConfigError(f"{self.spec.name}: no {role} split is chosen — it has {there} — set data.splits.{role}")
        if role not in self._items:
            for split in self.splits[role]:
                checking.run(self.source, split, "names")
            items = self._all(role)
            self._items[role] = items.part(self.fraction, self.seed) if role == "train" and self.fraction < 1 else items
        return self._items[role]

    def _all(self, role: str) -> Items:
        """The items of a role's splits; of training those that have a clip, where clips are asked for."""
        items = Items(self.source, self.splits[role], self.stored_flow)
        if role != "train" or self.clips is None:
            return items
        reached = items.within(self.clips)
        lacking = len(items) - len(reached)
        if lacking and (self.clips.unreached == "refuse" or not len(reached)):
            name = min(set(items.names) - set(reached.names))
            raise DataError(
                f"{self.spec.name}, split {self.split(role)}: {lacking} of {len(items)} training items have no frame "
                f"of their video {self.clips.wanted()} of them, such as {name} — a near frame is one of the video at "
                "its own rate, not the next image of a split that holds one in many — choose other data.splits.train "
                "or data=, set data.clip=null, or leave these out: data.clip.unreached=leave_out"
            )
        return reached

    def unseen(self) -> Items:
        """The training items that are not trained on: all but the ``fraction``.

        Raises:
            ConfigError: there are none.
        """
        self.items("train")  # pairs and counts them
        items = self._all("train").rest(self.fraction, self.seed)
        if not len(items):
            raise ConfigError(
                f"data.fraction={self.fraction:g} of split `{self.split('train')}` is all of it: no item is left that "
                "was not trained on — expected a run with data.fraction=0.9 or another share below 1"
            )
        return items

    def names(self, role: str) -> list[str]:
        """One name per item of a role, in order."""
        return self.items(role).names

    def steps_per_epoch(self, world_size: int = 1) -> int:
        """Training batches that show every item about once."""
        return math.ceil(len(self.items("train")) / (self.batch_size * world_size))

    def fingerprint(self, roles: Sequence[str] = ("train", "val")) -> str:
        """Hash of names and sizes of the data of these roles; by default of what is trained and validated on."""
        splits = [split for role in roles for split in self.splits[role]]
        return digest(f"{split}:{self.source.fingerprint(split)}" for split in splits)

    def setup(self, stage: str) -> None:
        """Pair, count and check the files that ``stage`` needs, and refuse too few of them."""
        _, world_size = self._place()
        for role in STAGES.get(stage, ROLES):
            self._check(role)
            size, split = len(self.items(role)), self.split(role)
            if role == "train" and size < self.batch_size * world_size:
                raise DataError(
                    f"split `{split}` has {size} items; batch {self.batch_size} x {world_size} devices needs >= "
                    f"{self.batch_size * world_size} — lower data.batch_size or trainer.devices"
                )
            if role != "train" and self.in_sequences:
                self._check_sequences(role, world_size)
            if size < world_size:
                raise DataError(
                    f"split `{split}` has {size} items, fewer than the {world_size} processes that evaluate it"
                    " — lower trainer.devices"
                )
            if role == "train" and not self._judged and _first_process():
                checking.classes(self.source, self.splits[role], tolerant=self.on_corrupt == "skip")
                self._judged = True

    def _check_sequences(self, role: str, world_size: int) -> None:
        sequences = self.items(role).sequences
        if sequences is None:
            raise ConfigError(
                f"{self.spec.name} has no sequences of frames in split `{self.split(role)}` — metrics=video, and any "
                "predictor but still, need videos, as of camvid, or data=folder with a subfolder for each; set "
                "metrics=default and predictor=still"
            )
        if (count := len(set(sequences))) < world_size:
            raise DataError(
                f"split `{self.split(role)}` has {count} sequences, fewer than the {world_size} processes that "
                "evaluate them — lower trainer.devices"
            )

    def _check(self, role: str) -> None:
        """The slow levels, once and in one process."""
        for split in self.splits[role]:
            if self.level != "names" and split not in self._checked and _first_process():
                checking.run(self.source, split, self.level)
                self._checked.add(split)

    def train_dataloader(self) -> DataLoader[Item]:
        """Endless batches of this process, beginning at ``start_step``."""
        items = self.items("train")
        rank, world_size = self._place()
        if self.trainer:  # restored from a checkpoint by now; 0 in a fresh run
            self.start_step = self.trainer.fit_loop.epoch_loop.batch_progress.total.ready
        sampler = StreamSampler(len(items), self.batch_size, self.seed, rank, world_size, lambda: self.start_step)
        dataset = TrainItems(items, self.augment, self.seed, self.on_corrupt, self.needs, self.clips)
        return DataLoader(dataset, batch_sampler=sampler, collate_fn=stack, **self._loading())

    def probe(self) -> Batch:
        """The first training items as they are augmented, the same in every process: one batch of at most two."""
        items = self.items("train")
        dataset = TrainItems(items, self.augment, self.seed, self.on_corrupt, self.needs, self.clips)
        return group([dataset[0, index] for index in range(min(2, len(items)))])[0]

    def val_dataloader(self) -> DataLoader[Item]:
        """This process's share of the validation items, as lists of batches."""
        return self._eval_dataloader("val")

    def test_dataloader(self) -> DataLoader[Item]:
        """This process's share of the test items, as lists of batches."""
        return self._eval_dataloader("test")

    def unseen_dataloader(self) -> DataLoader[Item]:
        """The training items that are not trained on, as they are evaluated: at their own size, as lists of batches."""
        return self._loader(self.unseen())

    def _eval_dataloader(self, role: str) -> DataLoader[Item]:
        return self._loader(self.items(role))

    def _loader(self, items: Items) -> DataLoader[Item]:
        sampler: Sampler[int] = ShardSampler(len(items), *self._place())
        following: list[bool] | None = None
        if self.in_sequences and items.sequences is not None:
            order = sorted(range(len(items)), key=lambda index: natural(items.names[index]))
            following = followed(items.sequences, order)
            sampler = SequenceSampler(items.sequences, order, *self._place())
        return DataLoader(
            EvalItems(items, self.corruption, following),
            batch_size=self.eval_batch_size,
            sampler=sampler,
            collate_fn=group,
            **self._loading(),
        )

    def _loading(self) -> dict[str, Any]:
        number = self._workers() if self.num_workers is None else self.num_workers
        return {
            "num_workers": number,
            "persistent_workers": self.persistent_workers and number > 0,
            "prefetch_factor": self.prefetch_factor if number > 0 else None,
            "pin_memory": self.pin_memory and torch.cuda.is_available(),
            "worker_init_fn": workers.begin,
            # A loader draws one number to seed its workers; taken from the global generator it would change dropout.
            "generator": torch.Generator().manual_seed(self.seed),
        }

    def _workers(self) -> int:
        """Loader processes, of one thread each, so that all training processes' together are no more than the cores."""
        local = self.trainer.num_devices if self.trainer else 1
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type != "cpu"
        # On a CPU the network computes on the same cores (docs/performance.md, "Threads and processes").
        return min(8, max(1, _cores() // local // (1 if on_gpu else 2)))

    def _place(self) -> tuple[int, int]:
        """Rank and number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


def followed(sequences: Sequence[str], order: Sequence[int]) -> list[bool]:
    """Of each item whether another one of its sequence comes after it in the order."""
    last = {sequences[index]: index for index in order}
    return [last[sequence] != index for index, sequence in enumerate(sequences)]


def named(role: str, given: str | Sequence[str] | None, there: Sequence[str]) -> list[str]:
    """The splits that ``data.splits.ROLE`` asks for, of those that are there; ConfigError where a role needs one."""
    if role == "test" and given == "auto":
        return [role] if role in there else []
    splits = [given] if isinstance(given, str) else list(given or ())
    if not splits and role != "test":
        raise ConfigError(f"data.splits.{role}={given} — expected one of {', '.join(there)}; only test may be null")
    return splits


def _first_process() -> bool:
    return getattr(rank_zero_only, "rank", 0) == 0


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
