"""The seam between a decoder's feature map and the losses: one classifier, one typed output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import ClassVar

from torch import Tensor, nn

FROM_LABELS = MappingProxyType({"from_labels": True})
"""``field(default=None, metadata=FROM_LABELS)``: a field of an :class:`Output` that needs the ground truth."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a network says about a batch. Loss terms and metrics read it by the names of its branches.

    A branch is a field that the classifier fills, or an entry of ``extra``, which decoder and heads add by name.
    """

    logits: Tensor
    """[B, K, h, w] the prediction, at feature resolution."""
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    """What was wanted beside the classifier's own: ``feature`` [B, C, h, w], the decoder's branches, the heads'."""

    def read(self, branch: str) -> Tensor | None:
        """A branch by its name; None where it was not computed."""
        return self.extra[branch] if branch in self.extra else getattr(self, branch, None)

    @classmethod
    def branches(cls) -> frozenset[str]:
        """Names of the branches that the classifier fills."""
        return frozenset(f.name for f in fields(cls) if f.name != "extra")

    @classmethod
    def label_branches(cls) -> frozenset[str]:
        """Names of the fields that are computed from labels."""
        return frozenset(f.name for f in fields(cls) if f.metadata.get("from_labels"))

    def missing(self) -> frozenset[str]:
        """Names of the fields that this output leaves empty."""
        return frozenset(name for name in self.branches() if getattr(self, name) is None)


def is_of(branch: str, head: str) -> bool:
    """Whether a branch is published by the head of that name."""
    return branch == head or branch.startswith(f"{head}.")


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
