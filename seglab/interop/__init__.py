"""Other code's checkpoints: their names of tensors and seglab's, one file per format."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from seglab.interop import ffnet

FORMATS = (ffnet,)
"""Each knows its tensors (``recognises``) and gives them seglab's names (``ours``)."""


def translated(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under seglab's names, where they are of a known format; else as they are.

    Raises:
        CheckpointError: a tensor that the format does not have.
    """
    for each in FORMATS:
        if each.recognises(tensors):
            return each.ours(tensors)
    return dict(tensors)
