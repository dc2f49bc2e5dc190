"""AuxAdapt: a small network learns from the frames what a large, frozen one and itself agree on.

Zhang, Borse, Cai, Porikli: "AuxAdapt: Stable and Efficient Test-Time Adaptation for Temporally Consistent Video
Semantic Segmentation", WACV 2022, arXiv 2110.12369. No code of the authors is known; docs/auxadapt.md says what is
theirs and what was chosen here, and docs/patents.md which patents there are. For every frame x_t::

    z_m = Main(x_t)                     no gradient; Main never changes
    z_a = Aux_theta(x_t)
    z   = z_m + w z_a                   given out; y = argmax_k z is the prediction and the pseudo label
    l   = mean over pixels of CE(z, y)
    theta <- step of the optimiser along d l / d theta;      d l / d z_a = w (softmax(z) - onehot(y)) / (H W)

So confident pixels teach nothing, and unsure ones are pulled towards the decision that both made.

===========================  ==============================================
symbol                       here
===========================  ==============================================
z_m                          ``scores``, of the predictor's network and protocol
Aux, theta                   ``network``, all of its parameters
w                            ``aux_weight``
z                            ``Scored.given``
===========================  ==============================================
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from seglab.checks import one_of, within
from seglab.checksum import checksum
from seglab.errors import CheckpointError, ConfigError
from seglab.inference import height_width
from seglab.ops.resize import resize_logits
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
    from seglab.models.normalise import Normalise

log = logging.getLogger(__name__)


class AuxAdapt(Adaptation):
    """See above.

    Args:
        optimizer: parameters -> optimiser, with its options bound.
        aux: opens the auxiliary network; of a configuration ``{_target_: seglab.load, _partial_: true, path: …}``.
        fusion: ``logit_sum`` as above, or ``prob_mean``: z = log((softmax(z_m) + w softmax(z_a)) / (1 + w)).
        loss_on: the cross entropy is of ``fused`` scores z, or of ``aux`` alone, z_a.
        target: what learns: ``aux``; ``main``, a copy of the main network that predicts without an auxiliary one
            (plain self-training); ``none``, an ensemble of frozen networks.
        aux_scale: size of the image that Aux is shown, as a factor on that of the main network's.
        aux_weight: w.
        resolution: where scores are added and compared: at the pixels of the ``frame`` (H x W above), or at those of
            the main network's ``scores``, which takes less time and memory.
        reset, steps: see :class:`Adaptation`.
        unsure: a warning is given where the main network's mean confidence (the largest probability, averaged over the
            pixels of the sequence so far) is below it: what it is unsure about, self-training makes worse.

    Raises:
        ConfigError: an option out of range, no auxiliary network.
    """

    def __init__(
        self,
        optimizer: Callable[..., Optimizer],
        aux: Callable[[], Any] | None = None,
        fusion: str = "logit_sum",
        loss_on: str = "fused",
        target: str = "aux",
        aux_scale: float = 1.0,
        aux_weight: float = 1.0,
        resolution: str = "frame",
        reset: str = "clip",
        steps: int = 1,
        unsure: float = 0.7,
    ) -> None:
        self.target = one_of("predictor.refine.target", target, ("aux", "main", "none"))
        super().__init__(None if target == "none" else optimizer, reset, steps)
        self.fusion = one_of("predictor.refine.fusion", fusion, ("logit_sum", "prob_mean"))
        self.loss_on = one_of("predictor.refine.loss_on", loss_on, ("fused", "aux"))
        self.resolution = one_of("predictor.refine.resolution", resolution, ("frame", "scores"))
        self.aux_scale = within("predictor.refine.aux_scale", aux_scale, 0, 4, open_low=True)
        self.aux_weight = within("predictor.refine.aux_weight", aux_weight, 0)
        self.unsure = within("predictor.refine.unsure", unsure, 0, 1)
        self.own_scores = target == "main"
        if not self.own_scores and (aux is None or getattr(aux, "keywords", {}).get("path", "") is None):
            raise ConfigError(
                "predictor=aux_adapt without an auxiliary network — expected the checkpoint of a small network of the "
                "same classes; set predictor.aux=FILE (predictor.refine.target=main adapts the main network itself)"
            )
        self.open_aux = aux
        self.checksums: dict[str, str] = {}
        self.confidence: list[Tensor] = []
        self.warned = False

    def attach(self, model: Model, spec: DatasetSpec, protocol: Protocol) -> None:
        """See the base class.

        Raises:
            CheckpointError: the auxiliary network cannot be opened, or has other classes.
            ConfigError: networks or a protocol that it is not for.
        """
        refuse_other_than_pixels(model, "predictor=aux_adapt")
        self.protocol, self.main = protocol, model.normalise
        if self.own_scores:
            refuse_several_views(protocol, "predictor.refine.target=main")
            copied = copy_of(model)
            self.adapt(copied, list(copied.parameters()))
            return
        assert self.open_aux is not None
        loaded = self.open_aux()
        where = f"predictor.aux={loaded.description.path}"
        refuse_other_classes(loaded.spec, spec, where)
        refuse_other_than_pixels(loaded.model, where)
        self.checksums = {"predictor.aux": loaded.description.checksum or checksum(loaded.model.state_dict())}
        self.adapt(loaded.model.float().eval(), list(loaded.model.parameters()))

    def networks(self) -> dict[str, str]:
        return self.checksums

    def reset(self) -> None:
        super().reset()
        self.confidence.clear()

    def score(self, image: Tensor, scores: Tensor) -> Scored:
        size = height_width(image)
        if self.own_scores:
            own = whole_scores(self.network, image, self.protocol)
            self.watch(own.detach())
            return Scored(own, resize_logits(own, size) if self.resolution == "frame" else own)
        self.watch(scores)
        shown = renormalised(image, self.main, self.network.normalise)
        aux = whole_scores(self.network, shown, self.protocol, self.aux_scale)
        size = size if self.resolution == "frame" else height_width(scores)
        aux = resize_logits(aux, size)
        fused = self.fuse(resize_logits(scores, size), aux)
        return Scored(fused, fused if self.loss_on == "fused" else aux)

    def fuse(self, main: Tensor, aux: Tensor) -> Tensor:
        """Scores [1, K, H, W] of both networks' together."""
        if self.fusion == "logit_sum":
            return main + self.aux_weight * aux
        mean = (main.softmax(1) + self.aux_weight * aux.softmax(1)) / (1 + self.aux_weight)
        # A probability of 0 keeps a finite logarithm.
        return mean.clamp_min(torch.finfo(mean.dtype).tiny).log()

    def objective(self, judged: Tensor, given: Tensor) -> Tensor:
        return F.cross_entropy(judged, resize_logits(given, height_width(judged)).argmax(1))

    def watch(self, scores: Tensor) -> None:
        """Warn, once, where the main network is unsure on the mean of a sequence's frames."""
        if self.warned or self.optimizer is None:
            return
        self.confidence.append(scores.softmax(1).amax(1).mean())
        mean = float(torch.stack(self.confidence).mean())
        if mean < self.unsure:
            self.warned = True
            log.warning(
                "predictor=aux_adapt: the main network is unsure of the sequence %s (mean confidence %.2f, below "
                "predictor.refine.unsure=%g) — what learns from unsure predictions may end with a single class, which "
                "flickers little and is wrong; compare with predictor.refine.target=none",
                self.sequence or ".", mean, self.unsure,
            )  # fmt: skip


def renormalised(image: Tensor, before: Normalise, after: Normalise) -> Tensor:
    """A normalised image [B, 3, H, W] with the mean and standard deviation of another network."""
    if (before.mean, before.std) == (after.mean, after.std):
        return image
    mean, std, other_mean, other_std = (
        torch.tensor(each, device=image.device).view(3, 1, 1)
        for each in (before.mean, before.std, after.mean, after.std)
    )
    return (image * std + mean - other_mean) / other_std


def refuse_other_classes(aux: DatasetSpec, main: DatasetSpec, where: str) -> None:
    """Raises CheckpointError: another number of classes, or one that has another id."""
    if aux.num_classes != main.num_classes:
        raise CheckpointError(
            f"{where} has {aux.num_classes} classes ({aux.name}), the main network {main.num_classes} ({main.name}) — "
            "expected a network of the same classes"
        )
    ids = {name: k for k, name in enumerate(main.classes)}
    for k, name in enumerate(aux.classes):
        if ids.get(name, k) != k:
            raise CheckpointError(
                f"{where} has the class {name} as {k}, the main network as {ids[name]} — expected a network with the "
                "classes in the main network's order"
            )
    if aux.classes != main.classes:
        log.warning("the class names of %s differ from the main network's: was it trained on this set?", where)
