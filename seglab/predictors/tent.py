"""Tent: a copy of the network becomes more certain of the frames that it sees.

Wang, Shelhamer, Liu, Olshausen, Darrell: "Tent: Fully Test-Time Adaptation by Entropy Minimization", ICLR 2021, arXiv
2006.10726. With the scores z of a frame and p = softmax(z)::

    l = mean over pixels of - sum_k p_k log p_k
    gamma, beta <- step of the optimiser along d l / d (gamma, beta)

Only scale gamma and shift beta of the normalisation layers learn. Batch normalisation takes mean and variance from the
frame instead of the stored ones, as the published code does; scores are those before the step, as there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from seglab.checks import one_of
from seglab.errors import ConfigError
from seglab.predictors.adapting import (
    Adaptation,
    Scored,
    copy_of,
    refuse_other_than_pixels,
    refuse_several_views,
    whole_scores,
)

if TYPE_CHECKING:
    from seglab.data.spec import DatasetSpec
    from seglab.inference import Protocol
    from seglab.models.base import Model

NORMALISATIONS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.InstanceNorm2d)


class Tent(Adaptation):
    """See above.

    Args:
        optimizer: parameters -> optimiser, with its options bound.
        statistics: of batch normalisation: those of the ``batch``, which is the frame, or the ``stored`` ones.
        reset, steps: see :class:`Adaptation`.

    Raises:
        ConfigError: an option out of range.
    """

    own_scores = True

    def __init__(
        self, optimizer: Callable[..., Optimizer], statistics: str = "batch", reset: str = "clip", steps: int = 1
    ) -> None:
        super().__init__(optimizer, reset, steps)
        self.statistics = one_of("predictor.refine.statistics", statistics, ("batch", "stored"))

    def attach(self, model: Model, spec: DatasetSpec, protocol: Protocol) -> None:
        """See the base class.

        Raises:
            ConfigError: a network without a layer that could learn, or a protocol of several views.
        """
        refuse_other_than_pixels(model, "predictor=tent")
        refuse_several_views(protocol, "predictor=tent")
        self.protocol = protocol
        copied = copy_of(model)
        layers = list(normalisations(copied))
        trained = [parameter for layer in layers for parameter in layer.parameters(recurse=False)]
        if not trained:
            raise ConfigError(
                "predictor=tent: the network has no normalisation layer with a scale or shift — expected some that can "
                "learn; choose another predictor="
            )
        if self.statistics == "batch":
            for layer in layers:
                if isinstance(layer, _BatchNorm):
                    layer.train()
                    layer.track_running_stats = False
                    layer.running_mean = layer.running_var = None
        self.adapt(copied, trained)

    def score(self, image: Tensor, scores: Tensor) -> Scored:
        try:
            own = whole_scores(self.network, image, self.protocol)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):  # torch's, of a layer behind global pooling
                raise
            raise ConfigError(
                "predictor.refine.statistics=batch: a batch normalisation of the network has one value per channel of "
                "a frame — expected at least two; set predictor.refine.statistics=stored"
            ) from error
        return Scored(own, own)

    def objective(self, judged: Tensor, given: Tensor) -> Tensor:
        return entropy(judged)


def entropy(scores: Tensor) -> Tensor:
    """Mean over the pixels of the entropy, in nats, of the softmax of scores [B, K, h, w]."""
    log_p = scores.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1).mean()


def normalisations(network: nn.Module) -> Iterator[nn.Module]:
    """The layers that normalise."""
    return (layer for layer in network.modules() if isinstance(layer, NORMALISATIONS))
