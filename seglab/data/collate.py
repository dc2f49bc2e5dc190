"""From items to batches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from torch.utils.data import default_collate

from seglab.data.items import Item
from seglab.errors import ConfigError
from seglab.types import Batch


def stack(items: Sequence[Item]) -> Batch:
    """One batch of items of one size; ConfigError where sizes differ."""
    sizes = {tuple(item.image.shape[-2:]) for item in items}
    if len(sizes) > 1:
        raise ConfigError(
            f"images of different sizes in one batch: {sorted(sizes)} (height, width) — training needs one size"
            " — set augment.crop=[H,W]"
        )
    labels = [item.label for item in items if item.label is not None]
    # In a worker, default_collate stacks straight into shared memory, where torch.stack would copy once more.
    return Batch(
        image=default_collate([item.image for item in items]),
        label=default_collate(labels) if labels else None,
        names=tuple(item.name for item in items),
    )


def group(items: Sequence[Item]) -> list[Batch]:
    """Batches of neighbouring items of one size, in order: images of any size can be evaluated without padding."""
    return [stack(list(run)) for _, run in groupby(items, key=lambda item: (item.image.shape, item.label is None))]
