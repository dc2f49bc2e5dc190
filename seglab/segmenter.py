"""Backbone, decoder, classifier: the whole network and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from seglab.classifiers.base import Classifier, Output
from seglab.decoders.base import Decoder

if TYPE_CHECKING:
    from seglab.checkpoint import Description
    from seglab.data.spec import DatasetSpec


class Segmenter(nn.Module):
    """``forward(image [B, 3, H, W], target [B, H, W] | None, wanted) -> Output``, logits at feature resolution.

    ``wanted`` names the branches that are to be there beside those that the prediction needs.

    Args:
        auxiliary: a head on the backbone's maps that gives logits for a loss of its own (``loss.aux``). It is skipped
            unless its branch is wanted, so a deployed network does not pay for it.
    """

    spec: DatasetSpec | None = None
    """Classes and palette, where the network was opened from a file."""
    description: Description | None = None
    """What the file says about itself."""

    def __init__(
        self, backbone: nn.Module, decoder: Decoder, classifier: Classifier, auxiliary: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.decoder = decoder
        self.classifier = classifier
        self.auxiliary = auxiliary

    def forward(self, image: Tensor, target: Tensor | None = None, wanted: frozenset[str] = frozenset()) -> Output:
        maps = self.backbone(image)
        decoded = self.decoder(maps)
        output = self.classifier(decoded.feature, target)
        if self.auxiliary is not None and "auxiliary" in wanted:
            return replace(output, auxiliary=self.auxiliary(maps))
        return replace(output, auxiliary=decoded.auxiliary) if decoded.auxiliary is not None else output
