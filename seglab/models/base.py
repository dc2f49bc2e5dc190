"""What every network has: normalisation in front, named branches, heads beside it that only train."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from seglab.classifiers.base import Classifier
from seglab.decoders.base import Decoded, Decoder
from seglab.errors import ConfigError
from seglab.heads.base import Head
from seglab.models.normalise import Normalise
from seglab.types import FEATURE, Output, Size, at_pixels, is_of


class Model(nn.Module):
    """``forward(image, target=None, *, wanted=frozenset(), size=None) -> Output``.

    The image is [B, 3, H, W] RGB: uint8, or float32 that is normalised already. ``wanted`` names the branches that are
    to be there beside those that the prediction needs; ``size`` is the [height, width] that the caller would resize the
    prediction to.

    Args:
        normalise: brings a uint8 image to the scale that the backbone was made for.
        parts: the modules of the deployed network, by the names of their attributes; optimisers count them in this
            order.
        heads: modules beside the prediction, trained and never deployed. Each is skipped unless a branch of it is
            wanted.
        branches: what the network publishes itself, beside its heads' branches.

    Raises:
        ConfigError: two parts publish a branch of the same name.
    """

    def __init__(
        self,
        normalise: Normalise,
        parts: Mapping[str, nn.Module],
        heads: Mapping[str, Head],
        branches: Sequence[str],
    ) -> None:
        super().__init__()
        self.normalise = normalise
        for name, part in parts.items():
            self.add_module(name, part)
        self.heads = nn.ModuleDict(dict(heads))
        self.reads = {name: frozenset(head.reads) for name, head in heads.items()}
        names = [*branches, *(name for head in heads.values() for name in head.outputs)]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ConfigError(
                f"the branch '{min(twice)}' is published twice — expected one name for one thing; rename the head"
            )
        self.branches = frozenset(names)
        """All that can be wanted of it."""

    @property
    def label_branches(self) -> frozenset[str]:
        """Those of its branches that are computed from the ground truth."""
        return frozenset()

    def asked(self, wanted: frozenset[str]) -> list[str]:
        """The heads that publish a wanted branch."""
        return [name for name in self.heads if any(is_of(branch, name) for branch in wanted)]


class Features(dict[str, Tensor]):
    """What heads read, by name. The decoded feature is there for who asks: it may not be held as one map."""

    def __init__(self, decoded: Decoded) -> None:
        super().__init__()
        self.decoded = decoded

    def __missing__(self, name: str) -> Tensor:
        """The feature.

        Raises:
            KeyError: another name.
            ConfigError: the feature is of single pixels.
        """
        if name != FEATURE:
            raise KeyError(name)
        if self.decoded.pixels is not None:
            raise ConfigError(
                "a head (heads=) reads the decoded feature, which is of single pixels in training — expected one of "
                "the whole image; set decoder.train_query=stride4"
            )
        feature = self.decoded.feature
        if feature is None:
            assert self.decoded.bands is not None
            feature = self.decoded.bands.whole()
        self[name] = feature
        return feature


class Composed(Model):
    """Backbone, decoder, classifier, and heads beside them.

    Branches are those that the prediction has, ``feature``, those of the decoder and of the heads.
    """

    backbone: nn.Module
    decoder: Decoder
    classifier: Classifier
    of_pixels: ClassVar[bool] = True
    """Whether its prediction has a size that could be asked for."""

    def __init__(
        self,
        normalise: Normalise,
        backbone: nn.Module,
        decoder: Decoder,
        classifier: Classifier,
        heads: Mapping[str, Head] | None = None,
    ) -> None:
        parts = {"backbone": backbone, "decoder": decoder, "classifier": classifier}
        super().__init__(normalise, parts, heads or {}, [*self.predicted(classifier), FEATURE, *decoder.branches])

    @property
    def any_size(self) -> bool:
        """Whether the prediction has the ``size`` that it is asked for, in evaluation."""
        return self.of_pixels and self.decoder.any_size

    @staticmethod
    @abstractmethod
    def predicted(classifier: Classifier) -> frozenset[str]:
        """The branches that :meth:`classify` fills."""

    @abstractmethod
    def classify(self, feature: Tensor, target: Tensor | None) -> Output:
        """The prediction from the decoded feature [B, C, h, w]."""

    @torch.compiler.disable  # as many bands as there are, which are not to be unrolled
    def predict(self, decoded: Decoded, target: Tensor | None) -> Output:
        """The prediction from bands of a feature, each of which the classifier reads by itself."""
        assert decoded.bands is not None
        output: Output = self.classifier.in_bands(decoded.bands, target)
        return output

    def forward(
        self,
        image: Tensor,
        target: Tensor | None = None,
        *,
        wanted: frozenset[str] = frozenset(),
        size: Size | None = None,
    ) -> Output:
        asked = self.asked(wanted)
        # Where the whole network is in half precision (trainer.precision=bf16-true), so is what it reads.
        maps = self.backbone(self.normalise(image).to(next(self.parameters()).dtype))
        needed = wanted.union(*(self.reads[name] for name in asked))
        decoded = self.decoder(maps, needed, size if self.of_pixels else None)
        feature = decoded.feature
        if decoded.bands is not None and (FEATURE in wanted or not self.classifier.takes_bands()):
            feature = decoded.bands.whole()
        if decoded.pixels is not None and target is not None:
            target = at_pixels(target, decoded.pixels)
        output = self.predict(decoded, target) if feature is None else self.classify(feature, target)
        if decoded.pixels is not None:
            output = replace(output, pixels=decoded.pixels)
        extra = {name: value for name, value in decoded.extra.items() if name in wanted}
        if FEATURE in wanted and feature is not None:
            extra[FEATURE] = feature
        features = Features(decoded)
        features.update({f"backbone.{i}": value for i, value in enumerate(maps)} | dict(decoded.extra))
        for name in asked:
            made = self.heads[name](features, output)
            extra |= {name: made} if isinstance(made, Tensor) else {f"{name}.{key}": x for key, x in made.items()}
        return replace(output, extra=extra) if extra else output
