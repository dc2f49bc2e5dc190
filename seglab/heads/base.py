"""The seam for what is trained beside the decoder and never deployed: auxiliary losses, boundaries, inner stages."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor, nn

from seglab.types import Output


class Head(nn.Module):
    """``forward(features, output) -> Tensor | {name: Tensor}``, published as the branch NAME, or as NAME.name each.

    ``conf/heads`` names a head (``heads.NAME``); it is built iff an active loss term reads NAME or a branch below it,
    and is computed only where one of these is wanted.

    Args:
        channels: of every feature that it may read: the backbone's maps ``backbone.0`` (the finest), ``backbone.1``, …,
            the decoded ``feature``, and the decoder's own branches.
        strides: of the same.
        outputs: channels that the loss terms want of each branch of this head.
    """

    reads: Collection[str] = ()
    """Branches of the decoder that it needs, which are computed for it."""

    def __init__(self, channels: Mapping[str, int], strides: Mapping[str, int], outputs: Mapping[str, int]) -> None:
        super().__init__()
        self.channels = dict(channels)
        self.strides = dict(strides)
        self.outputs = dict(outputs)

    def forward(self, features: Mapping[str, Tensor], output: Output) -> Tensor | Mapping[str, Tensor]:
        raise NotImplementedError


def backbone_maps(names: Mapping[str, object]) -> list[str]:
    """The names among those of features that are the backbone's maps, finest first."""
    return [name for name in names if name.startswith("backbone.")]
