"""SSA-Seg: Semantic and Spatial Adaptive classifier.

Ma et al., "SSA-Seg: Semantic and Spatial Adaptive Pixel-level Classifier for Semantic Segmentation", NeurIPS 2024,
arXiv 2405.06525.

    Z   = W dropout(X) + b                                  coarse logits
    F   = position encoding of X
    M   = sum_n A_c X / (sum_n A_c + eps),  A_c = softmax_k(Z)   semantic centre: what each class looks like here
    S   = sum_n A_s F,                      A_s = softmax_n(Z)   spatial centre: where each class lies here
    P_c = theta_c([M ; W]),  P_s = theta_s([Q ; S])         semantic (SEPA) and spatial (SPPA) prototypes
    R   = tau cos(X + F, Phi (P_c + P_s))                   refined logits

With labels, the oracle branch: G_c = class means of X over the batch, G_s = class means of F in each image,

    T_c = theta_c'([G_c ; W]),  T_s = theta_s'([G_s ; Q]),  T = tau cos(X + F, Phi' (T_c + T_s))

The published code concatenates basis and centre in opposite orders in the two spatial projectors; a shared projector
has the order of the estimated branch.

| symbol | here | published code |
|---|---|---|
| X, y | feature, target | |
| W, b; Q | weight, conv; basis | conv_seg; center_pos |
| F | position | get_feat_pos |
| theta_c | semantic_projector | center_content_proj |
| theta_s | spatial_projector | center_pos_proj |
| Phi | combine | center_proj |
| theta_c', theta_s', Phi' | oracle_ + the same | gt_ + the same |
| M, S; P_c, P_s | semantic_context, spatial_context; semantic_prototypes, spatial_prototypes | |
| G_c, G_s; T_c, T_s, T | oracle_ + the same; oracle | |
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from seglab.checks import one_of, within
from seglab.classifiers.cac import oracle_classes, soft_classes
from seglab.classifiers.linear import Linear
from seglab.classifiers.position import position_encoding
from seglab.classifiers.projector import Projector
from seglab.classifiers.similarity import Similarity
from seglab.errors import ConfigError
from seglab.ops.class_means import class_means, one_hot, weighted_means, weighted_sums
from seglab.ops.precision import full_precision, widen
from seglab.types import FROM_LABELS, Output


@dataclass(frozen=True, kw_only=True)
class SSAOutput(Output):
    """``logits`` are the refined ones. What a switched-off half would give is None."""

    coarse: Tensor
    """[B, K, h, w] logits of the plain 1x1 convolution."""
    prototypes: Tensor
    """[B, K, C] final prototypes, before normalisation."""
    semantic_context: Tensor | None = None
    """[B, K, C] soft class means of the feature."""
    semantic_prototypes: Tensor | None = None
    """[B, K, C]"""
    position: Tensor | None = None
    """[B or 1, C, h, w] the position encoding."""
    spatial_context: Tensor | None = None
    """[B, K, C] weighted sums of the position encoding."""
    spatial_prototypes: Tensor | None = None
    """[B, K, C]"""
    oracle: Tensor | None = field(default=None, metadata=FROM_LABELS)
    """[B, K, h, w] logits of the ground-truth branch."""
    oracle_prototypes: Tensor | None = field(default=None, metadata=FROM_LABELS)
    """[B, K, C], before normalisation ([K, C] where nothing in them depends on the image)."""
    oracle_semantic_context: Tensor | None = field(default=None, metadata=FROM_LABELS)
    """[K, C] class means of the feature over the batch, or [B, K, C] where they are taken per image."""
    oracle_semantic_prototypes: Tensor | None = field(default=None, metadata=FROM_LABELS)
    """[K, C] or [B, K, C]"""
    oracle_spatial_context: Tensor | None = field(default=None, metadata=FROM_LABELS)
    """[B, K, C] class means of the position encoding in each image."""
    oracle_spatial_prototypes: Tensor | None = field(default=None, metadata=FROM_LABELS)
    """[B, K, C]"""


class SSA(Linear):
    """Prototypes adapted by what classes look like and where they lie in the image. Defaults are the published code's.

    Args:
        semantic: adapt by the semantic centre (SEPA); without, the static prototype takes its place.
        spatial: use position (SPPA): without, neither the encoding nor the basis exists.
        position: conditional (depthwise convolution of the feature), learnable, sinusoidal or none.
        spatial_softmax: over pixels, over classes (then a weighted mean), or none (the basis alone, no centre).
        tau: scale of the cosine.
        similarity: cosine or dot.
        projector: mlp, or linear (the paper's equations 4 and 6).
        projector_width: hidden width of the mlp, as a multiple of C.
        shared_projector: whether the oracle branch uses the projectors of the estimated one.
        combine: whether a linear map follows the sum of the prototypes (the paper's equation 2 has none).
        oracle_context: batch (semantic class means over the batch of this process) or image.
        oracle_from: whose classes the oracle's means are taken over: the labels', or the refined prediction's own
            (SSA-Seg, Table 12), with which it is no upper bound any more.
        detach_means: stop the gradient through the oracle's class means.
        detach_coarse: stop the gradient from the centres into the coarse logits.
        confidence: least coarse probability of a pixel that enters the semantic centre; 0 admits all.
        dropout: probability that a channel is zeroed, in front of the coarse convolution only.
        bias: whether the coarse convolution has one.
        eps: added to norms and to the weights of a centre.

    Raises:
        ConfigError: an option out of range, or neither half switched on.
    """

    Output: ClassVar[type[Output]] = SSAOutput

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        semantic: bool = True,
        spatial: bool = True,
        position: str = "conditional",
        spatial_softmax: str = "pixels",
        tau: float = 15.0,
        similarity: str = "cosine",
        projector: str = "mlp",
        projector_width: float = 0.5,
        shared_projector: bool = False,
        combine: bool = True,
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
        if not (semantic or spatial):
            raise ConfigError(
                "classifier.semantic=false and classifier.spatial=false — expected at least one, or classifier=cosine"
            )
        self.spatial_softmax = one_of("classifier.spatial_softmax", spatial_softmax, ("pixels", "classes", "none"))
        self.oracle_context = one_of("classifier.oracle_context", oracle_context, ("batch", "image"))
        self.oracle_from = one_of("classifier.oracle_from", oracle_from, ("labels", "prediction"))
        self.detach_means = detach_means
        self.detach_coarse = detach_coarse
        self.confidence = within("classifier.confidence", confidence, 0, 1)
        self.eps = eps
        self.similarity = Similarity(similarity, tau, eps)

        def project(wanted: bool) -> Projector | None:
            return Projector(in_channels, projector, projector_width) if wanted else None

        def mix(wanted: bool) -> nn.Linear | None:
            return nn.Linear(in_channels, in_channels, bias=False) if wanted else None

        separate = not shared_projector
        centred = spatial and spatial_softmax != "none"
        self.position = position_encoding(position, in_channels) if spatial else None
        self.basis = nn.Parameter(torch.randn(num_classes, in_channels)) if spatial else None
        self.semantic_projector = project(semantic)
        self.spatial_projector = project(centred)
        self.combine = mix(combine)
        self.oracle_semantic_projector = project(semantic and separate)
        self.oracle_spatial_projector = project(centred and separate)
        self.oracle_combine = mix(combine and separate)

    def forward(self, feature: Tensor, target: Tensor | None = None) -> SSAOutput:
        coarse = self.static_logits(feature)
        position = None if self.position is None else widen(self.position(feature))
        with full_precision(feature):
            x = widen(feature)
            z = widen(coarse.detach() if self.detach_coarse else coarse)
            located = x if position is None else x + position

            semantic_context = semantic = None
            if self.semantic_projector is not None:
                semantic_context = weighted_means(soft_classes(z, self.confidence), x, self.eps)
                semantic = self.semantic_projector(semantic_context, self.weight)
            spatial_context, spatial = None, self.basis
            if self.spatial_projector is not None and position is not None:
                spatial_context = self.spatial_centre(z, position)
                spatial = self.spatial_projector(self.basis, spatial_context)
            prototypes = self.final_prototypes(semantic, spatial, self.combine)
            lengths = self.similarity.lengths(located)

            output = SSAOutput(
                logits=self.similarity(located, prototypes, lengths),
                coarse=coarse,
                prototypes=prototypes,
                semantic_context=semantic_context,
                semantic_prototypes=semantic,
                position=position,
                spatial_context=spatial_context,
                spatial_prototypes=spatial,
            )
            return output if target is None else self.add_oracle(output, x, located, lengths, target)

    def add_oracle(
        self, output: SSAOutput, x: Tensor, located: Tensor, lengths: Tensor | None, target: Tensor
    ) -> SSAOutput:
        """Add the ground-truth branch."""
        members = one_hot(oracle_classes(self.oracle_from, output.logits, target), self.num_classes, x.dtype)

        def means(feature: Tensor, absent: Tensor, per_image: bool) -> Tensor:
            seen = feature.detach() if self.detach_means else feature
            return class_means(members, seen, absent.detach(), per_image, self.eps)

        semantic_context = semantic = None
        if self.semantic_projector is not None:
            semantic_context = means(x, self.weight, self.oracle_context == "image")
            semantic = (self.oracle_semantic_projector or self.semantic_projector)(semantic_context, self.weight)
        spatial_context, spatial = None, self.basis
        if self.spatial_projector is not None and self.basis is not None and output.position is not None:
            spatial_context = means(output.position, self.basis, True)
            if self.oracle_spatial_projector is not None:
                spatial = self.oracle_spatial_projector(spatial_context, self.basis)
            else:
                spatial = self.spatial_projector(self.basis, spatial_context)
        prototypes = self.final_prototypes(semantic, spatial, self.oracle_combine or self.combine)
        return replace(
            output,
            oracle=self.similarity(located, prototypes, lengths),
            oracle_prototypes=prototypes,
            oracle_semantic_context=semantic_context,
            oracle_semantic_prototypes=semantic,
            oracle_spatial_context=spatial_context,
            oracle_spatial_prototypes=spatial,
        )

    def spatial_centre(self, coarse: Tensor, position: Tensor) -> Tensor:
        """[B, K, C] where each class lies, by coarse logits [B, K, h, w]."""
        if self.spatial_softmax == "classes":
            return weighted_means(soft_classes(coarse, 0), position, self.eps)
        return weighted_sums(coarse.flatten(2).softmax(dim=2), position)

    def final_prototypes(self, semantic: Tensor | None, spatial: Tensor | None, combine: nn.Module | None) -> Tensor:
        """The sum of both halves, or what is there of it; the static prototype stands in for the semantic one."""
        prototypes = self.weight if semantic is None else semantic
        prototypes = prototypes if spatial is None else prototypes + spatial
        return prototypes if combine is None else combine(prototypes)
