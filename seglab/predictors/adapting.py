"""Networks that learn from a video while it is predicted: what all ways of test-time adaptation share.

For every frame t, in the order of the stream::

    z_t     = f(x_t; theta_t)                          the scores that are given out
    theta_(t+1) = step(theta_t, grad of l(z_t))        one step of an optimiser, or several

so the scores of a frame depend on no later frame. The network that adapts is never the one that was loaded to predict:
it is a copy of it, or another one.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from seglab.checks import one_of, within
from seglab.errors import ConfigError, DataError
from seglab.inference import Protocol, height_width, round_up, view_logits
from seglab.predictors.refine import Refinement

if TYPE_CHECKING:
    from seglab.models.base import Model


class Scored(NamedTuple):
    """The scores of a frame."""

    given: Tensor
    """[1, K, h, w] those that count."""
    judged: Tensor
    """[1, K, h', w'] those that the loss is of; with a graph where the network learns."""


class Adaptation(Refinement):
    """A network in evaluation mode, in float32, of which some parameters take steps after every frame.

    Args:
        optimizer: parameters -> optimiser, with its learning rate bound; None: nothing is learnt.
        reset: ``clip``: the parameters and the optimiser begin anew with every sequence; ``never``: they go on.
        steps: of the optimiser after each frame.

    Raises:
        ConfigError: an option out of range.
    """

    adapts = True
    network: Model
    """What adapts, once it is attached."""

    def __init__(self, optimizer: Callable[..., Optimizer] | None, reset: str = "clip", steps: int = 1) -> None:
        self.make_optimizer = optimizer
        self.forgets = one_of("predictor.refine.reset", reset, ("clip", "never")) == "clip"
        self.steps = int(within("predictor.refine.steps", steps, 1)) if optimizer is not None else 0
        self.loss: Tensor | None = None
        """Of the last frame, before its first step."""
        self.frames = 0
        """How many were predicted since the last reset."""

    def adapt(self, network: Model, trained: Sequence[nn.Parameter]) -> None:
        """Have these parameters of a network learn, and no others.

        Raises:
            ConfigError: none, or the optimiser refuses its options.
        """
        self.network = network
        network.requires_grad_(False)
        self.trained = list(trained)
        self.start = [parameter.detach().clone() for parameter in self.trained]
        for parameter in self.trained:
            parameter.requires_grad_(self.steps > 0)
        self.optimizer = self.fresh()

    def fresh(self) -> Optimizer | None:
        """An optimiser that has seen nothing."""
        if self.make_optimizer is None:
            return None
        try:
            return self.make_optimizer(self.trained)
        except (ValueError, TypeError, LookupError, RuntimeError) as error:
            raise ConfigError(
                f"predictor.refine.optimizer refuses its options ({error}) — change or drop what it names"
            ) from error

    def reset(self) -> None:
        self.frames = 0
        if not self.forgets or self.optimizer is None:
            return
        with torch.no_grad():
            for parameter, start in zip(self.trained, self.start, strict=True):
                parameter.copy_(start)
                parameter.grad = None
        self.optimizer = self.fresh()

    def __call__(self, image: Tensor, scores: Tensor) -> Tensor:
        self.network.to(image.device)
        learns = self.optimizer is not None
        # Mixed precision is for the network in front: a step of 1e-3 is lost in 8 bits.
        with torch.autocast(image.device.type, enabled=False), torch.set_grad_enabled(learns):
            image, scores = image.float(), scores.float()
            scored = self.score(image, scores)
            given = scored.given.detach()
            for step in range(self.steps):
                loss = self.objective(scored.judged if step == 0 else self.score(image, scores).judged, given)
                if step == 0:
                    self.loss = loss.detach()
                self.step(loss)
        self.frames += 1
        return given

    def step(self, loss: Tensor) -> None:
        """One step down the gradient of the loss.

        Raises:
            DataError: the loss is not finite: what was learnt is worth nothing.
        """
        assert self.optimizer is not None
        if not loss.isfinite():
            raise DataError(
                f"frame {self.frames + 1} of the sequence {self.sequence or '.'}: the loss of the adaptation is not "
                "finite — expected a stable one; lower predictor.refine.optimizer.lr"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    @abstractmethod
    def score(self, image: Tensor, scores: Tensor) -> Scored:
        """The scores of a frame [1, 3, H, W], normalised, with those [1, K, h, w] of the network in front."""

    @abstractmethod
    def objective(self, judged: Tensor, given: Tensor) -> Tensor:
        """The loss, a scalar, of scores; ``given`` [1, K, h, w] are those that were given out of the frame."""


def copy_of(model: Model) -> Model:
    """A copy that may learn: without the heads, in float32 and in evaluation mode."""
    made = copy.deepcopy(model)
    made.heads = nn.ModuleDict()
    return made.float().eval()


def refuse_other_than_pixels(model: Model, of: str) -> None:
    """Raises ConfigError: a network whose scores are of no pixels."""
    if not getattr(model, "of_pixels", True):
        raise ConfigError(f"{of} adapts to scores of pixels — expected a network of task=semantic; set predictor=still")


def refuse_several_views(protocol: Protocol, of: str) -> None:
    """Raises ConfigError: a test protocol of windows, flips or scales, between which a network would have to adapt."""
    if not protocol.single_pass:
        raise ConfigError(
            f"{of} adapts the network to whole frames, seen once — expected a protocol of one view; set "
            "evaluation.mode=whole evaluation.flip=false 'evaluation.ratios=[1.0]'"
        )


def whole_scores(network: Model, image: Tensor, protocol: Protocol, scale: float = 1.0) -> Tensor:
    """Scores [1, K, h, w] of a whole frame [1, 3, H, W], normalised, at the protocol's (first) size times ``scale``.

    With a graph where gradients are computed; at scale 1 what a protocol of one view gives.
    """
    whole = replace(protocol, mode="whole")
    kept, final = whole.sizes(height_width(image))[0]
    if scale != 1:
        kept = (max(1, round(kept[0] * scale)), max(1, round(kept[1] * scale)))
        final = kept if whole.divisor is None else round_up(kept, whole.divisor)

    def logits(view: Tensor) -> Tensor:
        output = network(view, size=whole.next_size(height_width(view), height_width(image)))
        found: Tensor = output.logits
        return found.float()

    return view_logits(logits, image, whole, kept, final, False, None)
