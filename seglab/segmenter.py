"""Backbone, decoder, classifier, and the heads beside them: the whole network and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from seglab.classifiers.base import Classifier
from seglab.decoders.base import Decoder
from seglab.errors import ConfigError
from seglab.heads.base import Head
from seglab.types import Output, Size, is_of

if TYPE_CHECKING:
    from seglab.checkpoint import Description
    from seglab.data.spec import DatasetSpec

FEATURE = "feature"
"""The branch that is the decoded feature, what enters the classifier."""


class Segmenter(nn.Module):
    """``forward(image [B, 3, H, W], target [B, H, W] | None, wanted, size) -> Output``, logits at feature resolution.

    ``wanted`` names the branches that are to be there beside those that the prediction needs: ``feature``, branches of
    the decoder, of the heads. ``size`` is the [height, width] that the caller would resize the prediction to.

    Args:
        heads: modules beside the decoder, trained and never deployed. Each is skipped unless a branch of it is wanted.
        normalise: what turns a uint8 image into numbers, and leaves normalised ones alone; None: images are normalised.

    Raises:
        ConfigError: two parts publish a branch of the same name.
    """

    spec: DatasetSpec | None = None
    """Classes and palette, where the network was opened from a file."""
    description: Description | None = None
    """What the file says about itself."""

    def __init__(
        self,
        backbone: nn.Module,
        decoder: Decoder,
        classifier: Classifier,
        heads: Mapping[str, Head] | None = None,
        normalise: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.normalise = nn.Identity() if normalise is None else normalise
        self.backbone = backbone
        self.decoder = decoder
        self.classifier = classifier
        self.heads = nn.ModuleDict(heads or {})
        self.reads = {name: frozenset(head.reads) for name, head in (heads or {}).items()}
        outputs = [name for head in (heads or {}).values() for name in head.outputs]
        names = [*classifier.Output.branches(), FEATURE, *decoder.branches, *outputs]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ConfigError(
                f"the branch '{min(twice)}' is published twice — expected one name for one thing; rename the head"
            )
        self.branches = frozenset(names)
        """All that can be wanted of it."""

    def forward(
        self,
        image: Tensor,
        target: Tensor | None = None,
        *,
        wanted: frozenset[str] = frozenset(),
        size: Size | None = None,
    ) -> Output:
        asked = [name for name in self.heads if any(is_of(branch, name) for branch in wanted)]
        # Normalised in float32, then in the precision of the weights, which bf16-true makes another.
        maps = self.backbone(self.normalise(image).to(next(self.parameters()).dtype))
        decoded = self.decoder(maps, wanted.union(*(self.reads[name] for name in asked)), size)
        output = self.classifier(decoded.feature, target)
        extra = {name: value for name, value in decoded.extra.items() if name in wanted}
        if FEATURE in wanted:
            extra[FEATURE] = decoded.feature
        features = {f"backbone.{i}": value for i, value in enumerate(maps)}
        features |= {FEATURE: decoded.feature, **decoded.extra}
        for name in asked:
            made = self.heads[name](features, output)
            extra |= {name: made} if isinstance(made, Tensor) else {f"{name}.{key}": x for key, x in made.items()}
        return replace(output, extra=extra) if extra else output
