"""Losses of a boundary head, and of the classes at its boundaries (InverseForm, Borse et al., CVPR 2021).

With the logits b of a map with one channel, brought to the size of the labels, and the label's boundary map g::

    boundary   mean over all pixels of w(g) BCE(b, g),   w(1) = n_0 / (n_0 + n_1),   w(0) = n_1 / (n_0 + n_1)
    attention  the class-weighted cross entropy of the pixels where b > threshold

n_1 and n_0 are the numbers of boundary and other pixels of the batch.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor
from torch.nn import functional as F

from seglab.checks import one_of, within
from seglab.errors import ConfigError
from seglab.losses.base import Term, Weight
from seglab.losses.cross_entropy import CrossEntropy
from seglab.ops.boundaries import boundary_map, resized
from seglab.ops.precision import full_precision, widen
from seglab.types import IGNORE, Batch, Output


class BoundaryTerm(Term):
    """A loss that compares a boundary map with that of the labels.

    Args:
        branches: what it reads beside the boundaries.
        boundary: the branch of the boundary logits [B, 1, h, w].
        radius: of the label's boundaries, in pixels on each side.
        classes: whose boundaries these are: ``all``, or ``released``: all but class 0, as the published code's one-hot
            encoding has it (:mod:`seglab.ops.boundaries`).

    Raises:
        ConfigError: an option out of range; in use, a branch of more than one channel.
    """

    def __init__(
        self, boundary: str, weight: Weight, radius: int = 2, classes: str = "all", branches: tuple[str, ...] = ()
    ) -> None:
        super().__init__(dict.fromkeys(branches) | {boundary: 1}, weight)
        self.boundary = boundary
        self.radius = int(within("radius", radius, 1))
        self.first_class = int(one_of("classes", classes, ("all", "released")) == "released")

    def logits(self, output: Output) -> Tensor:
        """The boundary logits [B, 1, h, w] in float32 or wider."""
        found = self.read(output, self.boundary)
        if found.ndim != 4 or found.shape[1] != 1:
            raise ConfigError(
                f"{type(self).__name__} reads the branch '{self.boundary}' of shape {list(found.shape)} — expected "
                "logits [B, 1, h, w] of boundaries; choose a head that publishes them (heads.boundary)"
            )
        return widen(found)

    def true(self, label: Tensor) -> Tensor:
        """Boundary map [B, 1, H, W] bool of labels."""
        return boundary_map(label, self.radius, self.first_class)[:, None]


class BoundaryCrossEntropy(BoundaryTerm):
    """Balanced binary cross entropy. A batch without boundaries, or of nothing else, gives 0.

    Args:
        branch: the logits [B, 1, h, w].
        radius, classes: see :class:`BoundaryTerm`.
    """

    def __init__(self, branch: str = "boundary", weight: Weight = 0.3, radius: int = 2, classes: str = "all") -> None:
        super().__init__(branch, weight, radius, classes)

    def forward(self, output: Output, batch: Batch) -> Tensor:
        logits, label = self.logits(output), self.labels(batch)
        with full_precision(logits):
            true = self.true(label)
            logits = resized(logits, (label.shape[-2], label.shape[-1]))
            share = true.to(logits.dtype).mean()
            balance = share + true * (1 - 2 * share)  # n_0 / n at boundaries, n_1 / n elsewhere
            return F.binary_cross_entropy_with_logits(logits, true.to(logits.dtype), balance)


class BoundaryAttention(BoundaryTerm):
    """Cross entropy of the pixels that the boundary head is sure of, as in the published code.

    Classes are weighted by what is left of the batch's labels, each image's mean is taken over what is left of it, and
    these are summed (:class:`CrossEntropy` with ``class_weight: histogram`` and ``average: image``). Where no pixel is
    left it gives 0; the published code gives NaN. The boundary head gets no gradient.

    Args:
        branch: logits of the classes.
        boundary: the boundary logits.
        threshold: of the boundary logit; 0.8 is a probability of 0.69.
        align_corners: of the resize of the classes' logits.
    """

    def __init__(
        self,
        branch: str = "logits",
        boundary: str = "boundary",
        weight: Weight = 0.1,
        threshold: float = 0.8,
        align_corners: bool = False,
    ) -> None:
        super().__init__(boundary, weight, branches=(branch,))
        self.threshold = threshold
        self.entropy = CrossEntropy(branch, align_corners=align_corners, class_weight="histogram", average="image")

    def forward(self, output: Output, batch: Batch) -> Tensor:
        label = self.labels(batch)
        sure = resized(self.logits(output).detach(), (label.shape[-2], label.shape[-1]))[:, 0] > self.threshold
        kept: Tensor = self.entropy(output, replace(batch, label=label.where(sure, IGNORE)))
        return kept
