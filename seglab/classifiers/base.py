"""The seam between a decoder's feature map and the losses: one classifier, one typed output."""

from __future__ import annotations

from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import ClassVar

from torch import Tensor, nn

FROM_LABELS = MappingProxyType({"from_labels": True})
"""``field(default=None, metadata=FROM_LABELS)``: a field of an :class:`Output` that needs the ground truth."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a network says about a batch. Loss terms and metrics name the fields ("branches") that they read."""

    logits: Tensor
    """[B, K, h, w] the prediction, at feature resolution."""
    auxiliary: Tensor | None = None
    """[B, K, h', w'] logits of the auxiliary head, where the network has one."""

    @classmethod
    def branches(cls) -> frozenset[str]:
        """Names of all fields."""
        return frozenset(f.name for f in fields(cls))

    @classmethod
    def label_branches(cls) -> frozenset[str]:
        """Names of the fields that are computed from labels."""
        return frozenset(f.name for f in fields(cls) if f.metadata.get("from_labels"))

    def missing(self) -> frozenset[str]:
        """Names of the fields that this output leaves empty."""
        return frozenset(f.name for f in fields(self) if getattr(self, f.name) is None)


class Classifier(nn.Module):
    """A pixel classifier: ``forward(feature [B, C, h, w], target [B, H, W] | None) -> Output``.

    A subclass takes ``in_channels`` and ``num_classes`` first (the builder hands them on), declares its ``Output`` and
    fills the label-using fields only when it is given a target.
    """

    Output: ClassVar[type[Output]] = Output

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.num_classes = num_classes

    def forward(self, feature: Tensor, target: Tensor | None = None) -> Output:  # type: ignore[valid-type]
        raise NotImplementedError
