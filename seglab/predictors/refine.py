"""What a prediction takes from the frames before it, where images are frames of videos.

A refinement stands behind the network and its test protocol, in evaluation and in prediction alike: it is given the
frames of a sequence one after another, each with its scores, and gives the scores that count.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from seglab.errors import ConfigError, DataError

if TYPE_CHECKING:
    from seglab.data.spec import DatasetSpec
    from seglab.inference import Protocol
    from seglab.models.base import Model


class Refinement(ABC):
    """``refinement(image [1, 3, H, W], scores [1, K, h, w]) -> scores``, frame by frame."""

    adapts: ClassVar[bool] = False
    """Whether it computes gradients. Frames are then predicted without gradients, but not in inference mode, whose
    tensors no gradient can pass."""

    own_scores: bool = False
    """Whether it makes the scores of the image itself. Prediction then computes none for it; those that an evaluation
    has anyway are not read."""

    forgets: bool = True
    """Whether nothing of a sequence reaches the next one, so that each can be predicted by itself."""

    sequence: str | None = None
    """That of the frame before; None before the first."""

    def attach(self, model: Model, spec: DatasetSpec, protocol: Protocol) -> None:  # noqa: B027 (most need none of it)
        """Told once, before the first frame: the network that the scores are of, its classes and its test protocol.

        The network is not to be changed. It may be moved to another device later.

        Raises:
            UserError: a network or protocol that it cannot stand behind.
        """

    def networks(self) -> dict[str, str]:
        """Checksums of further networks that the scores depend on, by the keys that chose them."""
        return {}

    @abstractmethod
    def reset(self) -> None:
        """Before the first frame of a sequence: nothing is known of any other."""

    @abstractmethod
    def __call__(self, image: Tensor, scores: Tensor) -> Tensor:
        """The scores of the next frame of the sequence.

        Args:
            image: [1, 3, H, W] normalised, at its own size.
            scores: [1, K, h, w] (or [1, K] of a whole image) whose softmax is the probability; an empty tensor may
                stand for them where ``own_scores``.

        Raises:
            DataError: a frame that cannot be of the sequence.
        """

    def along(self, images: Tensor, scores: Tensor, sequences: Sequence[str]) -> Tensor:
        """Scores [B, K, h, w] of B frames in their order, each of the sequence that is named."""
        refined = []
        for image, given, sequence in zip(images.split(1), scores.split(1), sequences, strict=True):
            if sequence != self.sequence:
                self.reset()
                self.sequence = sequence
            refined.append(self(image, given))
        return torch.cat(refined)


class TemporalAverage(Refinement):
    """Exponential moving average of the class probabilities along a sequence.

    ``a_t = momentum a_(t-1) + (1 - momentum) softmax(scores_t)``, ``a_1 = softmax(scores_1)``; scores are ``log a_t``.
    The plain baseline of temporal consistency: it does not follow motion, so it steadies what stands still and smears
    what moves.

    Args:
        momentum: share of the past, 0 <= momentum < 1.
    """

    def __init__(self, momentum: float = 0.5) -> None:
        if not 0 <= momentum < 1:
            raise ConfigError(f"predictor.refine.momentum={momentum} — expected 0 <= momentum < 1")
        self.momentum = momentum
        self.average: Tensor | None = None

    def reset(self) -> None:
        self.average = None

    def __call__(self, image: Tensor, scores: Tensor) -> Tensor:
        probability = scores.float().softmax(1)
        if self.average is not None:
            if self.average.shape != probability.shape:
                before, now = (list(x.shape[2:]) for x in (self.average, probability))
                raise DataError(
                    f"a frame of the sequence {self.sequence or '.'} has scores of {now} (height, width), the one "
                    f"before it {before} — expected frames of one size; keep each sequence in a folder of its own, or "
                    "set predictor=still"
                )
            probability.lerp_(self.average, self.momentum)
        self.average = probability
        # A probability of 0 keeps a finite logarithm.
        return probability.clamp_min(torch.finfo(torch.float32).tiny).log()


def without_gradients(refinement: Refinement | None) -> AbstractContextManager[None]:
    """How a prediction is computed: in inference mode, unless the refinement computes gradients."""
    adapts = refinement is not None and refinement.adapts
    return torch.no_grad() if adapts else torch.inference_mode()
