"""Learning to mimic the oracle: the entropy-aware distillation of CAC and its boundary-aware form of SSA-Seg.

With student logits r, teacher logits u, labels y at the size of the map, one-hot o, q = softmax(u), all but r fixed:

    t   = s q + (1 - s) o;   t <- t (1 - eps) + (1 - t) eps / (K - 1)
    c   = - sum_k t_k log softmax(r)_k               per pixel
    e   = - sum_k q_k log(q_k + 1e-12)               per pixel: where the teacher hesitates, there is more to learn
                                                     (also of softmax(r), of the target, or of the coarse prediction)
    D_k = sum_{y=k} c e / (sum_{y=k} e + 1e-12)      CAC
    D_k = half that sum over boundary pixels + half that over interior pixels, 0 where a class has none    SSA-Seg
    D   = mean of D_k over the classes in y

CAC (arXiv 2303.11633) calls it a KL divergence; the published code leaves out the entropy of t, a constant.
"""

from __future__ import annotations

from typing import cast, get_args

import torch
from torch import Tensor

from seglab.checks import one_of, within
from seglab.losses.base import Term, Weight
from seglab.ops.class_means import sum_by
from seglab.ops.edges import edge_mask
from seglab.ops.precision import full_precision, widen
from seglab.ops.resize import downsample_labels
from seglab.ops.soft_cross_entropy import Entropy, entropy_of, soft_cross_entropy
from seglab.types import IGNORE, Batch, Output

COARSE = "coarse"
"""The branch of a classifier's first prediction."""


class Distillation(Term):
    """Cross entropy to a teacher, at the size of the feature map. A batch without a labelled pixel gives 0.

    The ladder of CAC's ablation begins with ``entropy=none class_wise=false``, a plain mean over pixels.

    Args:
        student: logits that learn.
        teacher: logits that are held fixed; the student itself makes it self-distillation.
        smoothness: s, share of the teacher in the target.
        eps: second smoothing of the target.
        entropy: weight of a pixel: of the teacher, the student, the target, or of ``coarse``, the classifier's first
            prediction; or none.
        class_wise: average over classes; otherwise over pixels.
        edges: split boundary and interior: none, map (found in labels at the size of the feature map), or label (at
            their full size; each map cell then takes its nearest pixel's).
        edge_size: width of the boundary.
        edge_border: pixels along the border of the map that edges are cleared in.

    Raises:
        ConfigError: an option out of range.
    """

    def __init__(
        self,
        student: str = "logits",
        teacher: str = "oracle",
        weight: Weight = 1.0,
        smoothness: float = 0.5,
        eps: float = 0.0,
        entropy: str = "teacher",
        class_wise: bool = True,
        edges: str = "none",
        edge_size: int = 3,
        edge_border: int = 6,
    ) -> None:
        super().__init__((student, teacher, *([COARSE] if entropy == COARSE else [])), weight)
        self.entropy = one_of("entropy", entropy, (*get_args(Entropy), COARSE))
        self.student = student
        self.teacher = teacher
        self.smoothness = within("smoothness", smoothness, 0, 1)
        self.eps = within("eps", eps, 0, 1)
        self.class_wise = class_wise
        self.edges = one_of("edges", edges, ("none", "map", "label"))
        self.edge_size = int(within("edge_size", edge_size, 1))
        self.edge_border = int(within("edge_border", edge_border, 0))

    def forward(self, output: Output, batch: Batch) -> Tensor:
        student, teacher = self.read(output, self.student), self.read(output, self.teacher).detach()
        label = downsample_labels(self.labels(batch), student.shape[-2:])
        with full_precision(student):
            valid = label != IGNORE
            true = label.masked_fill(~valid, 0)
            inside = "none" if self.entropy == COARSE else self.entropy
            mixed = (self.smoothness, self.eps, cast(Entropy, inside))
            cross_entropy, entropy = soft_cross_entropy(widen(student), widen(teacher), true, *mixed)
            if self.entropy == COARSE:
                entropy = entropy_of(widen(self.read(output, COARSE).detach()))
            weight = entropy * valid
            weighted = cross_entropy * weight

            # One pass over the pixels: sums by class, and by side of the boundary where there is one.
            boundary, classes = self.boundary(batch, label), student.shape[1]
            group = true if boundary is None else true + classes * boundary
            sides = 1 if boundary is None else 2
            values = torch.stack([weighted, weight, valid.to(weight.dtype)]).flatten(1)
            sums, masses, counts = sum_by(group.flatten(), values, sides * classes).unflatten(1, (sides, classes))
            if not self.class_wise:
                sums, masses, counts = (x.sum(1, keepdim=True) for x in (sums, masses, counts))
            present = counts.sum(0) > 0
            means = (sums / (masses + 1e-12)).mean(0)
            return (means * present).sum() / present.sum().clamp(min=1)

    def boundary(self, batch: Batch, label: Tensor) -> Tensor | None:
        """Whether a map cell lies on a boundary, [B, h, w]."""
        if self.edges == "none":
            return None
        if self.edges == "map":
            return edge_mask(label, self.edge_size, self.edge_border)
        fine = edge_mask(self.labels(batch), self.edge_size, self.edge_border)
        return downsample_labels(fine.to(torch.uint8), label.shape[-2:]).bool()
