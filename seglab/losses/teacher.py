"""Distillation from a trained network.

Hinton, Vinyals, Dean: "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, pixel by pixel as in Liu et
al., "Structured Knowledge Distillation for Semantic Segmentation", CVPR 2019. With the logits s of the student and t of
the teacher, [B, K, h, w], and the temperature T::

    loss = T^2 mean over pixels of KL(softmax(t / T) || softmax(s / T))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from seglab.checks import within
from seglab.errors import ConfigError
from seglab.losses.base import Term, Weight
from seglab.losses.frozen import Frozen
from seglab.ops.precision import full_precision
from seglab.ops.resize import resize_logits
from seglab.types import Batch, Output, at_pixels

if TYPE_CHECKING:
    from seglab.loading import Loaded


class TeacherDistillation(Term):
    """Of the logits of one branch, at their own resolution, to which the teacher's are resized. In training only.

    The teacher sees the augmented image as the student does. Void pixels count: the teacher has an opinion on them.

    Args:
        network: opens the teacher, ``{_target_: seglab.load, _partial_: true, path: FILE}``.
        branch: the student's logits.
        temperature: T.

    Raises:
        ConfigError: an option out of range; in use, a teacher of another number of classes.
    """

    training_only: ClassVar[bool] = True

    def __init__(
        self,
        network: Callable[[], Loaded],
        branch: str = "logits",
        weight: Weight = 1.0,
        temperature: float = 1.0,
    ) -> None:
        super().__init__((branch,), weight)
        self.network = Frozen(network, type(self).__name__)
        self.branch = branch
        self.temperature = within("temperature", temperature, 0, open_low=True)

    def forward(self, output: Output, batch: Batch) -> Tensor:
        student = self.read(output, self.branch)
        with torch.no_grad():
            teacher = self.network(batch.image).logits
        if teacher.shape[1] != student.shape[1]:
            raise ConfigError(
                f"{type(self).__name__}: the teacher has {teacher.shape[1]} classes, the branch '{self.branch}' "
                f"{student.shape[1]} — expected a teacher that was trained on the same classes"
            )
        with full_precision(student):
            if teacher.ndim == 4:  # of pixels
                if output.pixels is None:
                    teacher = resize_logits(teacher, (student.shape[-2], student.shape[-1]))
                else:
                    teacher = at_pixels(resize_logits(teacher, batch.image.shape[-2:]), output.pixels)
            target = (teacher.float() / self.temperature).softmax(1)
            predicted = (student.float() / self.temperature).log_softmax(1)
            divergence = F.kl_div(predicted, target, reduction="none").sum(1)
            return self.temperature**2 * divergence.mean()
