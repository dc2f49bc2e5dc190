"""Terms that compare the prediction of the labelled frame with that of a near frame of its clip."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from seglab.errors import ConfigError
from seglab.losses.base import Term, Weight
from seglab.types import Batch

NEAR = "near."
"""What the near frame's branches begin with."""


class Pair(NamedTuple):
    """The labelled frame and the near one of every image of a batch, with the colours as stored."""

    image: Tensor
    """[B, 3, H, W] uint8."""
    near: Tensor
    """[B, 3, H, W] uint8."""
    flow: Tensor | None
    """[B, 2, H, W] from the labelled frame to the near one, NaN where it is unknown."""


class ClipTerm(Term):
    """Reads ``branch``, the prediction of the labelled frame, and ``near.branch``, that of the other frame of the clip.

    In training only: an evaluation has no clips.

    Raises:
        ConfigError: a weight out of range.
    """

    training_only: ClassVar[bool] = True

    def __init__(self, branch: str, weight: Weight) -> None:
        super().__init__((branch, NEAR + branch), weight)

    def pair(self, batch: Batch) -> Pair:
        """The two frames of every clip.

        Raises:
            ConfigError: a batch without clips, or with clips of another length.
        """
        clip = batch.clip
        if clip is None or clip.frames.shape[1] != 2:
            found = "without clips" if clip is None else f"with clips of {clip.frames.shape[1]} frames"
            raise ConfigError(
                f"{type(self).__name__} got a batch {found} — expected the labelled frame and one near it; set "
                "task=video, or remove the loss term (~loss.<name>)"
            )
        every = torch.arange(len(clip.index), device=clip.index.device)
        near = 1 - clip.index
        flow = None if clip.flow is None else clip.flow[every, near]
        return Pair(clip.frames[every, clip.index], clip.frames[every, near], flow)
