"""A network that says something about the image as a whole."""

from __future__ import annotations

from torch import Tensor

from seglab.classifiers.base import Classifier
from seglab.models.base import Composed
from seglab.types import Output


class ImageClassifier(Composed):
    """``forward(image [B, 3, H, W]) -> Output`` with logits [B, K].

    The classifier's 1x1 convolution reads the decoded feature's mean over all pixels, a map of one pixel. What an
    adaptive classifier says beside the logits is not published: there is no context in one pixel.
    """

    of_pixels = False

    @staticmethod
    def predicted(classifier: Classifier) -> frozenset[str]:
        return frozenset({"logits"})

    def classify(self, feature: Tensor, target: Tensor | None) -> Output:
        return Output(logits=self.classifier(feature.mean((2, 3), keepdim=True)).logits.flatten(1))
