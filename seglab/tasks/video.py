"""Semantic segmentation that also sees a frame near the labelled one in training: for terms that compare the two.

Validation, metrics and prediction are of single images, as in semantic segmentation.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from seglab.errors import ConfigError
from seglab.losses.base import Criterion, Losses
from seglab.models.base import Model
from seglab.tasks.base import result_size
from seglab.tasks.semantic import Semantic
from seglab.types import Batch, Clip, Output

NEAR = "near."
"""Begins the names of the branches of the near frame."""


class Video(Semantic):
    """See :class:`seglab.tasks.base.Task`.

    Where an active loss term reads ``near.NAME``, the network is called a second time, on the near frame of the batch's
    clip and without the ground truth, which is the image's; ``near.NAME`` is that call's branch NAME. Gradients go
    through both calls.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        branches = self.criterion.branches if self.criterion else frozenset()
        self.wanted_near = frozenset(name.removeprefix(NEAR) for name in branches if name.startswith(NEAR))
        """What the loss terms read of the near frame."""

    @classmethod
    def published(cls, model: Model) -> frozenset[str]:
        return model.branches | {NEAR + name for name in model.branches - model.label_branches}

    @classmethod
    def own_branches(cls, branches: frozenset[str]) -> frozenset[str]:
        return frozenset(name for name in branches if not name.startswith(NEAR))

    @classmethod
    def evaluated_terms(cls, criterion: Criterion) -> list[str]:
        """Without those that read the near frame: an evaluation has none."""
        terms = dict(criterion.named())
        read = {name: frozenset(terms[name].branches) for name in super().evaluated_terms(criterion)}
        return [name for name, branches in read.items() if cls.own_branches(branches) == branches]

    def output(self, batch: Batch, wanted: frozenset[str] = frozenset(), compiled: bool = True) -> Output:
        output = super().output(batch, wanted, compiled)
        if not self.wanted_near or batch.clip is None:  # an evaluation's
            return output
        image = near_frame(batch.clip).contiguous(memory_format=self.memory_format)
        network = self.model if compiled else self.model.forward
        near: Output = network(image, None, wanted=self.wanted_near, size=result_size(batch))
        if near.pixels is not None:
            raise ConfigError(
                "the decoder gives single pixels in training, others of the near frame than of the image — expected "
                "whole maps; set decoder.train_query=stride4, or take out the loss terms that read near.…"
            )
        read = {name: near.read(name) for name in self.wanted_near}
        found = {NEAR + name: value for name, value in read.items() if value is not None}
        return replace(output, extra={**output.extra, **found})

    def losses(self, batch: Batch, step: int) -> Losses:
        """As of every task; ConfigError where a term reads the near frame, and the batch has none."""
        if self.wanted_near and batch.clip is None:
            names = ", ".join(sorted(NEAR + name for name in self.wanted_near))
            raise ConfigError(
                f"loss terms read {names}; the training items have no frames beside them — expected a clip; set "
                "data.clip={_target_: seglab.data.clips.Clips}, as task=video does"
            )
        return super().losses(batch, step)


def near_frame(clip: Clip) -> Tensor:
    """[B, 3, H, W] the frame of each clip of two that is not the image itself, in the colours that are shown.

    Raises:
        ConfigError: clips of more frames.
    """
    frames = clip.shown.shape[1]
    if frames != 2:
        raise ConfigError(
            f"task=video with a loss term that reads near.… got clips of {frames} frames — expected the image and one "
            "near frame — set data.clip.offsets=null"
        )
    return clip.shown[torch.arange(len(clip.index), device=clip.index.device), 1 - clip.index]
