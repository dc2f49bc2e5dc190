"""CAC: Context-Aware Classifier.

Tian et al., "Learning Context-aware Classifier for Semantic Segmentation", AAAI 2023, arXiv 2303.11633.

    Z = W dropout(X) + b                            coarse logits
    M = sum_n A X / (sum_n A + eps),  A = softmax_k(Z)   context: what each class looks like in this image
    P = theta([M ; W]),  R = tau cos(X, P)          adapted prototypes, refined logits

With labels, the oracle branch: G = class means of X, P_y = theta_y([G ; W]), T = tau cos(X, P_y). It is trained beside
the estimated branch, which learns to mimic it.

| symbol | here | published code |
|---|---|---|
| X, y | feature, target | |
| W, b | weight, conv | conv_seg |
| theta, theta_y | projector, oracle_projector | proj, apd_proj |
| M, P, R, Z | context, prototypes, logits, coarse | |
| G, P_y, T | oracle_context, oracle_prototypes, oracle | |
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from seglab.checks import one_of, within
from seglab.classifiers.linear import Linear
from seglab.classifiers.projector import Projector
from seglab.classifiers.similarity import Similarity
from seglab.ops.class_means import class_means, means_of, one_hot, weighted_means, weighted_sums
from seglab.ops.precision import full_precision, widen
from seglab.ops.resize import downsample_labels
from seglab.types import FROM_LABELS, Bands, Output


@dataclass(frozen=True, kw_only=True)
class CACOutput(Output):
    """``logits`` are the refined ones."""

    coarse: Tensor
    """[B, K, h, w] logits of the plain 1x1 convolution."""
    context: Tensor
    """[B, K, C] soft class means of the feature."""
    prototypes: Tensor
    """[B, K, C], before normalisation."""
    oracle: Tensor | None = field(default=None, metadata=FROM_LABELS)
    """[B, K, h, w] logits of the ground-truth branch."""
    oracle_context: Tensor | None = field(default=None, metadata=FROM_LABELS)
    """[K, C] class means, or [B, K, C] where they are taken per image."""
    oracle_prototypes: Tensor | None = field(default=None, metadata=FROM_LABELS)
    """[K, C] or [B, K, C], before normalisation."""


def soft_classes(coarse: Tensor, confidence: float) -> Tensor:
    """Soft membership [B, K, N] of the pixels of coarse logits [B, K, h, w]; unsure pixels belong nowhere."""
    probability = coarse.flatten(2).softmax(dim=1)
    if confidence > 0:
        probability = probability * (probability.amax(dim=1, keepdim=True) >= confidence)
    return probability


def oracle_classes(source: str, logits: Tensor, target: Tensor) -> Tensor:
    """The class of each cell of a feature map, [B, h, w], that an oracle takes its means over.

    Args:
        source: ``labels``, or ``prediction`` for that of the logits [B, K, h, w].
        target: [B, H, W]
    """
    return logits.argmax(1) if source == "prediction" else downsample_labels(target, logits.shape[-2:])


class CAC(Linear):
    """Prototypes adapted to the image by the context of each class. Defaults are the published code's.

    Args:
        tau: scale of the cosine.
        similarity: cosine or dot.
        projector: mlp or linear.
        projector_width: hidden width of the mlp, as a multiple of C.
        shared_projector: whether the oracle branch uses the projector of the estimated one.
        oracle_context: batch (class means over the batch of this process) or image.
        oracle_from: whose classes the oracle's means are taken over: the labels', or the refined prediction's own
            (SSA-Seg, Table 12), with which it is no upper bound any more.
        detach_means: stop the gradient through the oracle's class means.
        detach_coarse: stop the gradient from the context into the coarse logits.
        confidence: least coarse probability of a pixel that enters the context; 0 admits all.
        dropout: probability that a channel is zeroed, in front of the coarse convolution only.
        bias: whether the coarse convolution has one.
        eps: added to norms and to the weights of a context.

    Raises:
        ConfigError: an option out of range.
    """

    Output: ClassVar[type[Output]] = CACOutput
    bands = True

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        tau: float = 15.0,
        similarity: str = "cosine",
        projector: str = "mlp",
        projector_width: float = 0.5,
        shared_projector: bool = False,
        oracle_context: str = "batch",
        oracle_from: str = "labels",
        detach_means: bool = False,
        detach_coarse: bool = False,
        confidence: float = 0.0,
        dropout: float = 0.1,
        bias: bool = True,
        eps: float = 1e-12,
    ) -> None:
        super().__init__(in_channels, num_classes, dropout, bias)
        self.similarity = Similarity(similarity, tau, eps)
        self.projector = Projector(in_channels, projector, projector_width)
        self.oracle_projector = None if shared_projector else Projector(in_channels, projector, projector_width)
        self.oracle_context = one_of("classifier.oracle_context", oracle_context, ("batch", "image"))
        self.oracle_from = one_of("classifier.oracle_from", oracle_from, ("labels", "prediction"))
        self.detach_means = detach_means
        self.detach_coarse = detach_coarse
        self.confidence = within("classifier.confidence", confidence, 0, 1)
        self.eps = eps

    def forward(self, feature: Tensor, target: Tensor | None = None) -> CACOutput:
        coarse = self.static_logits(feature)
        with full_precision(feature):
            x = widen(feature)
            z = widen(coarse.detach() if self.detach_coarse else coarse)
            context = weighted_means(soft_classes(z, self.confidence), x, self.eps)
            prototypes = self.projector(context, self.weight)
            lengths = self.similarity.lengths(x)
            logits = self.similarity(x, prototypes, lengths)
            if target is None:
                return CACOutput(logits=logits, coarse=coarse, context=context, prototypes=prototypes)

            members = one_hot(oracle_classes(self.oracle_from, logits, target), self.num_classes, x.dtype)
            seen = x.detach() if self.detach_means else x
            means = class_means(members, seen, self.weight.detach(), self.oracle_context == "image", self.eps)
            oracle_prototypes = (self.oracle_projector or self.projector)(means, self.weight)
            return CACOutput(
                logits=logits,
                coarse=coarse,
                context=context,
                prototypes=prototypes,
                oracle=self.similarity(x, oracle_prototypes, lengths),
                oracle_context=means,
                oracle_prototypes=oracle_prototypes,
            )

    def in_bands(self, bands: Bands, target: Tensor | None = None) -> CACOutput:
        """In two passes over the bands: the context is the whole image's before any pixel is compared with a prototype.

        With a target the second one collects the oracle's class means as well, and a third compares with these.
        """
        coarse: list[Tensor] = []
        sums = masses = torch.zeros(())
        for feature in bands:
            coarse.append(self.static_logits(feature))
            with full_precision(feature):
                members = soft_classes(widen(coarse[-1]), self.confidence)
                sums = sums.to(members) + weighted_sums(members, widen(feature))
                masses = masses.to(members) + members.sum(-1, keepdim=True)
        with full_precision(coarse[0]):
            context = sums / (masses + self.eps)
            prototypes = self.projector(context, self.weight)
        labels = None if target is None else downsample_labels(target, bands.size)
        logits: list[Tensor] = []
        own = counts = torch.zeros(())
        row = 0
        for feature in bands:
            with full_precision(feature):
                x = widen(feature)
                logits.append(self.similarity(x, prototypes))
                if labels is not None:
                    part = labels[:, row : row + x.shape[-2]]
                    seen = logits[-1].argmax(1) if self.oracle_from == "prediction" else part
                    members = one_hot(seen, self.num_classes, x.dtype)
                    own, counts = own.to(x) + weighted_sums(members, x), counts.to(x) + members.sum(-1)
                    row += x.shape[-2]
        output = CACOutput(
            logits=torch.cat(logits, 2), coarse=torch.cat(coarse, 2), context=context, prototypes=prototypes
        )
        if target is None:
            return output
        with full_precision(coarse[0]):
            means = means_of(own, counts, self.weight.detach(), self.oracle_context == "image", self.eps)
            oracle_prototypes = (self.oracle_projector or self.projector)(means, self.weight)
            oracle = torch.cat([self.similarity(widen(feature), oracle_prototypes) for feature in bands], 2)
        return replace(output, oracle=oracle, oracle_context=means, oracle_prototypes=oracle_prototypes)
