"""From items to batches, over all fields that a batch has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from itertools import groupby
from typing import Any

from torch.utils.data import default_collate

from seglab.data.targets import Item
from seglab.errors import ConfigError, DataError
from seglab.types import Batch, Clip

TENSORS = tuple(f.name for f in fields(Batch) if f.name not in ("names", "sequence", "clip"))
"""Fields of a batch that are stacked from the items' fields of the same name."""


def stack(items: Sequence[Item]) -> Batch:
    """One batch of items of one size; a field that no item has is None.

    Raises:
        ConfigError: images of different sizes.
        DataError: some of the items have a target that others lack.
    """
    sizes = {tuple(item.image.shape[-2:]) for item in items}
    if len(sizes) > 1:
        raise ConfigError(
            f"images of different sizes in one batch: {sorted(sizes)} (height, width) — training needs one size"
            " — set augment.crop=[H,W]"
        )
    columns = {name: column(items, name) for name in TENSORS}
    # In a worker, default_collate stacks straight into shared memory, where torch.stack would copy once more.
    stacked: dict[str, Any] = {name: default_collate(values) for name, values in columns.items() if values}
    sequence = tuple(column(items, "sequence")) or None
    clips = column(items, "clip")
    return Batch(
        names=tuple(item.name for item in items),
        sequence=sequence,
        clip=stack_clips(clips, items) if clips else None,
        **stacked,
    )


def stack_clips(clips: Sequence[Clip], items: Sequence[Item]) -> Clip:
    """The clips of a batch; DataError where only some have a flow."""
    columns = {f.name: [getattr(clip, f.name) for clip in clips] for f in fields(Clip)}
    known = [value is not None for value in columns["flow"]]
    if not any(known):
        del columns["flow"]
    elif not all(known):
        raise DataError(
            f"{items[known.index(False)].name}: no optical flow to the frames of its clip, which others of its batch "
            "have — expected for all items or for none — set data.clip.flow=false"
        )
    return Clip(**{name: default_collate(values) for name, values in columns.items()})


def column(items: Sequence[Item], field: str) -> list[Any]:
    """One field of all items; empty where none of them has it."""
    values = [getattr(item, field) for item in items]
    there = [value for value in values if value is not None]
    if there and len(there) < len(items):
        without = next(item.name for item, value in zip(items, values, strict=True) if value is None)
        raise DataError(
            f"{without}: no {field}, which others of its batch have — expected in all items or in none"
            " — complete the data set, or choose other data.splits"
        )
    return there


def group(items: Sequence[Item]) -> list[Batch]:
    """Batches of neighbouring items alike in the shapes of all fields, in order: no image is padded to be evaluated."""
    return [stack(list(run)) for _, run in groupby(items, key=shapes)]


def shapes(item: Item) -> tuple[Any, ...]:
    """The shape of every field of an item; None where it has none."""
    values = [getattr(item, name) for name in TENSORS]
    values += [] if item.clip is None else [getattr(item.clip, f.name) for f in fields(Clip)]
    return tuple(None if value is None else value.shape for value in values)
