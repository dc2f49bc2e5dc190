"""SSA-Seg's losses between the prototypes of the estimated branch and those of the oracle (arXiv 2405.06525).

Semantic: rel(V) = softmax over j of tau <v_k, stopgrad(v_j)>, v normalised; loss = mean over images and classes k of
sum_{j != k} max(0, rel(P)_kj - rel(T)_kj): no class may be more like another than in the oracle.

Spatial: loss = mean over images and classes of - sum_c softmax_c(T) log softmax_c(P).

Both look at every class, present or not. A batch without a labelled pixel has no oracle to learn from: they are 0 there
(the published code compares with an oracle made of static prototypes).
"""

from __future__ import annotations

import torch
from torch import Tensor

from seglab.checks import one_of, within
from seglab.classifiers.similarity import unit
from seglab.losses.base import Term, Weight
from seglab.ops.precision import full_precision, widen
from seglab.types import IGNORE, Batch, Output


class Relation(Term):
    """Between semantic prototypes, [B, K, C] or [K, C].

    Args:
        student: prototypes that learn.
        teacher: prototypes that are held fixed.
        tau: scale of the cosine.
        similarity: cosine, or dot (the paper's equation 10: neither tau nor norm).
        eps: added to the norms.

    Raises:
        ConfigError: an option out of range.
    """

    def __init__(
        self,
        student: str = "semantic_prototypes",
        teacher: str = "oracle_semantic_prototypes",
        weight: Weight = 1.0,
        tau: float = 15.0,
        similarity: str = "cosine",
        eps: float = 1e-12,
    ) -> None:
        super().__init__((student, teacher), weight)
        self.student = student
        self.teacher = teacher
        self.tau = within("tau", tau, 0, open_low=True)
        self.similarity = one_of("similarity", similarity, ("cosine", "dot"))
        self.eps = within("eps", eps, 0)

    def forward(self, output: Output, batch: Batch) -> Tensor:
        student, teacher = self.read(output, self.student), self.read(output, self.teacher).detach()
        labelled = (self.labels(batch) != IGNORE).any()
        with full_precision(student):
            excess = (self.relation(student) - self.relation(teacher)).clamp(min=0)
            itself = torch.eye(excess.shape[-1], dtype=torch.bool, device=excess.device)
            return excess.masked_fill(itself, 0).sum(-1).mean() * labelled

    def relation(self, prototypes: Tensor) -> Tensor:
        """rel(V), [..., K, K]; the gradient flows through the row's prototype only."""
        v = widen(prototypes)
        if self.similarity == "cosine":
            v = unit(v, self.eps)
        scale = self.tau if self.similarity == "cosine" else 1.0
        return (scale * v @ v.detach().transpose(-1, -2)).softmax(-1)


class PrototypeDistribution(Term):
    """Between spatial prototypes, [B, K, C] or [K, C], each read as a distribution over channels.

    Args:
        student: prototypes that learn.
        teacher: prototypes that are held fixed.
    """

    def __init__(
        self,
        student: str = "spatial_prototypes",
        teacher: str = "oracle_spatial_prototypes",
        weight: Weight = 1.0,
    ) -> None:
        super().__init__((student, teacher), weight)
        self.student = student
        self.teacher = teacher

    def forward(self, output: Output, batch: Batch) -> Tensor:
        student, teacher = self.read(output, self.student), self.read(output, self.teacher).detach()
        labelled = (self.labels(batch) != IGNORE).any()
        with full_precision(student):
            return -(widen(teacher).softmax(-1) * widen(student).log_softmax(-1)).sum(-1).mean() * labelled
