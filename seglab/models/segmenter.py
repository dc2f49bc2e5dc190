"""A network that says something about every pixel."""

from __future__ import annotations

from torch import Tensor

from seglab.classifiers.base import Classifier
from seglab.models.base import Composed
from seglab.types import Output


class Segmenter(Composed):
    """``forward(image [B, 3, H, W], target [B, H, W] | None, wanted, size) -> Output``, logits at feature resolution.

    The output is of the classifier's own type, with its branches.
    """

    @staticmethod
    def predicted(classifier: Classifier) -> frozenset[str]:
        return classifier.Output.branches()

    @property
    def label_branches(self) -> frozenset[str]:
        return self.classifier.Output.label_branches()

    def classify(self, feature: Tensor, target: Tensor | None) -> Output:
        output: Output = self.classifier(feature, target)
        return output
