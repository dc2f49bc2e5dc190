"""What travels between the pieces.

Shapes, here and everywhere: B images, K classes, C channels, H x W pixels of image or label, h x w of a feature map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor

Size = tuple[int, int]
"""(height, width) of an image or a map."""

IGNORE = 255
"""Label of a pixel that counts nowhere: in no loss, no gradient, no metric."""


@dataclass
class Batch:
    """A batch of images of one size with their labels.

    In training the label has the image's size. In evaluation the image may be resized and the label never is:
    ``label.shape[-2:]`` is then the size at which the prediction is compared.
    """

    image: Tensor
    """[B, 3, H, W] float32, normalised RGB."""
    label: Tensor | None
    """[B, H, W] int64 train ids, ``IGNORE`` where void; None for a split without labels."""
    names: tuple[str, ...]
    """One name per image: its path below the dataset's root, without suffix."""

    def __len__(self) -> int:
        return self.image.shape[0]

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with the function of every tensor in its place: moving and pinning can forget none."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        changed: dict[str, Any] = {name: function(x) for name, x in values.items() if isinstance(x, Tensor)}
        return replace(self, **changed)

    def pin_memory(self) -> Batch:
        """Copy to page-locked memory (called by the DataLoader)."""
        return self.map(Tensor.pin_memory)
