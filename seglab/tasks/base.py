"""The seam between what is learnt and everything that trains, evaluates, predicts, exports and measures it.

A task owns the network, the loss terms, the metrics, the headline score and the predictor. Training, evaluation and
prediction call it and know no branch, no target and no metric by name.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from seglab import visualize
from seglab.data.spec import DatasetSpec
from seglab.errors import ConfigError
from seglab.heads.base import Head
from seglab.inference import Network, height_width
from seglab.inference import Protocol as TestProtocol
from seglab.losses.base import Criterion, Losses
from seglab.metrics.base import Metric
from seglab.models.base import Composed, Model
from seglab.types import FEATURE, Batch, Curve, Evaluated, Output, Score, Size

if TYPE_CHECKING:
    from rich.console import RenderableType

    from seglab.predictors.base import Opened, Predictor
    from seglab.predictors.refine import Refinement


class Make(Protocol):
    """What a task builds its network with (:class:`seglab.build.Maker`)."""

    num_classes: int

    def __call__(self, part: str, **late: Any) -> Any:
        """The object of a configuration node, with the values that are known only now."""

    def heads(self, features: Mapping[str, tuple[int, int]]) -> dict[str, Head]:
        """The heads that an active loss term reads; ``features`` gives (channels, stride) of what they may read."""


class Panel(NamedTuple):
    """How one item of an evaluated batch is shown."""

    strip: np.ndarray
    """[h, w, 3] uint8: image, ground truth and prediction side by side."""
    masks: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    """Image [H, W, 3], ground truth and prediction [H, W] of class ids, for loggers that show masks."""


class Task(nn.Module):
    """Model, criterion, metrics, headline, predictor.

    Args:
        model: the network; without its heads where ``criterion`` is None.
        criterion: the loss terms; None of a network that is only predicted with.
        metrics: by the name that the configuration gives them.
        protocol: how images are resized, cut and flipped in evaluation.
        spec: the classes.
        channels_last: keep the network's weights and images in that memory format.
        compile: compile the network.
    """

    PARTS: ClassVar[tuple[str, ...]] = ("normalize", "backbone", "decoder", "classifier")
    """The nodes of a configuration that make the deployed network."""
    TRAINING_PARTS: ClassVar[tuple[str, ...]] = ("heads",)
    """Those of what is trained beside it and stored in checkpoints, but neither exported nor used to predict. Together
    with ``PARTS`` the one list that building, trusting a file, resuming, costing and exporting read."""
    NEEDS: ClassVar[frozenset[str]] = frozenset({"label"})
    """Fields of a batch that the data has to give."""
    COMPARED: ClassVar[frozenset[str] | None] = None
    """What metrics can compare its scores with, where it is not what the data gives; None: ``NEEDS``."""
    network: ClassVar[type[Composed]]
    """The class of the network, of a task that is composed of the parts above."""
    branch = "logits"
    """What is scored: the prediction, or another branch (:meth:`scored`)."""
    refinement: Refinement | None = None
    """What becomes of the scores of frames of videos in an evaluation."""
    headline: ClassVar[Score]
    """What sweeps, checkpoints, search, tables and plots are about unless told otherwise."""

    def __init__(
        self,
        model: Model,
        criterion: Criterion | None,
        metrics: Mapping[str, Metric],
        protocol: TestProtocol,
        spec: DatasetSpec,
        channels_last: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.metrics = nn.ModuleDict(dict(metrics))
        self.protocol = protocol
        self.spec = spec
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model.to(memory_format=self.memory_format)
        if compile:
            self.model.compile()
        self.criterion = criterion
        self.evaluated = self.evaluated_terms(criterion) if criterion else []
        """The loss terms that are computed in an evaluation."""
        # Means over images, of whatever number each process has.
        names = ("loss", *self.evaluated) if criterion else ()
        self.averages = nn.ModuleDict({name: MeanMetric() for name in names})
        self.wanted = self.own_branches(criterion.branches) if criterion else frozenset()
        self.shows_target = bool(self.wanted & self.model.label_branches)
        """Whether a loss term reads what the network computes from the ground truth."""

    @classmethod
    def published(cls, model: Model) -> frozenset[str]:
        """The branches that loss terms can read."""
        return model.branches

    @classmethod
    def own_branches(cls, branches: frozenset[str]) -> frozenset[str]:
        """Those of the branches that loss terms read which the network publishes of the image itself."""
        return branches

    @classmethod
    def evaluated_terms(cls, criterion: Criterion) -> list[str]:
        """The names of the loss terms that are computed in an evaluation, too."""
        return criterion.of_evaluation()

    @classmethod
    def assemble(cls, make: Make) -> Model:
        """The network, part by part, each told what the previous ones publish."""
        backbone = make("backbone")
        decoder = make("decoder", channels=backbone.channels, strides=backbone.strides, num_classes=make.num_classes)
        classifier = make("classifier", in_channels=decoder.out_channels, num_classes=make.num_classes)
        maps = zip(backbone.channels, backbone.strides, strict=True)
        features = {f"backbone.{i}": pair for i, pair in enumerate(maps)}
        heads = make.heads(features | {FEATURE: (decoder.out_channels, decoder.stride), **decoder.branches})
        return cls.network(make("normalize"), backbone, decoder, classifier, heads)

    def target(self, batch: Batch) -> Tensor | None:
        """What the network may be shown of a batch's ground truth."""
        return batch.label

    def output(self, batch: Batch, wanted: frozenset[str] = frozenset(), compiled: bool = True) -> Output:
        """The network's output for a batch, with all that the loss terms read.

        Args:
            wanted: further branches.
            compiled: False for who differentiates at an inner feature: a compiled call has no gradient there.
        """
        image = batch.image.contiguous(memory_format=self.memory_format)
        network = self.model if compiled else self.model.forward
        target = self.target(batch) if self.shows_target else None
        return network(image, target, wanted=self.wanted | wanted, size=result_size(batch))

    def losses(self, batch: Batch, step: int) -> Losses:
        """The loss terms of a training batch at an optimiser step.

        Raises:
            ConfigError: batch normalisation has nothing to average.
        """
        try:
            output = self.output(batch)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):  # torch's, of the first layer that has only one
                raise
            height, width = batch.image.shape[-2:]
            raise ConfigError(
                f"data.batch_size={len(batch)} with an image of {height}x{width} (height x width) leaves a batch "
                "normalisation one value per channel — expected at least two — set data.batch_size=2, or a larger "
                "augment.crop=[height,width]"
            ) from error
        return self.terms(output, batch, step)

    def terms(self, output: Output, batch: Batch, step: int, names: Sequence[str] | None = None) -> Losses:
        """The loss terms of an output; ``names`` of some of them."""
        assert self.criterion is not None, "made to predict"
        losses: Losses = self.criterion(output, batch, step, names)
        return losses

    def evaluate(self, batch: Batch, step: int, observed: frozenset[str] = frozenset()) -> Evaluated:
        """Predict as the protocol says; add to the metrics and to the mean losses.

        Args:
            observed: branches that callbacks look at, of every pass.
        """
        seen = self.score(batch, observed)
        for metric in self.named_metrics().values():
            metric.update(seen)
        assert seen.output is not None
        losses = self.terms(seen.output, batch, step, self.evaluated)
        for name, value in {"loss": losses.total, **losses.parts}.items():
            cast(MeanMetric, self.averages[name]).update(value, len(batch))
        return seen

    def score(self, batch: Batch, observed: frozenset[str]) -> Evaluated:
        """The scores of a batch as the protocol says, and the output that its losses are computed of."""
        image = self.model.normalise(batch.image)
        passes: list[dict[str, Tensor]] = []
        output: Output | None = None
        # One view of the whole image is given the ground truth as it is; windows and mirrored views their part of it.
        # These see other ground truth: the loss is then that of the image as it is.
        whole = self.protocol.single_pass and self.protocol.divisor_mode == "resize"
        needed = self.shows_target or bool((observed | {self.branch}) & self.model.label_branches)
        target = self.target(batch) if needed else None

        def network(view: Tensor, shown: Tensor | None = target if whole else None) -> Tensor:
            nonlocal output
            view = view.contiguous(memory_format=self.memory_format)
            size = self.protocol.next_size(height_width(view), result_size(batch))
            output = self.model(view, shown, wanted=(self.wanted if whole else frozenset()) | observed, size=size)
            found = {branch: output.read(branch) for branch in observed}
            passes.append({branch: value for branch, value in found.items() if value is not None})
            scores = output.read(self.branch)
            assert scores is not None, f"the network fills {self.branch}"
            return scores

        scores = self.infer(network, image, batch, None if whole else target)
        if output is None or not whole:
            output = self.output(batch, observed)

        if self.refinement is not None:
            assert batch.sequence is not None, "the data module was asked for sequences"
            scores = self.refinement.along(image, scores, batch.sequence)

        def combine(values: Iterator[Tensor]) -> Tensor:
            return self.infer(lambda _: next(values), image, batch, None)

        return Evaluated(batch=batch, scores=scores, output=output, passes=tuple(passes), combine=combine)

    @abstractmethod
    def infer(self, network: Network, image: Tensor, batch: Batch, target: Tensor | None) -> Tensor:
        """Scores of a batch's normalised image from a function of one view, as the protocol says.

        Args:
            target: handed to the network beside each view, resized, mirrored and cut as it is; None: nothing is.
        """

    def scored(self, branch: str) -> None:
        """Score that branch instead of the prediction from now on.

        Raises:
            ConfigError: there is none that could be scored, or nothing trained it.
        """
        raise ConfigError(f"{branch}=true: {type(self).__name__} scores its prediction only — set {branch}=false")

    def frozen(self) -> dict[str, str]:
        """Checksums of the networks that loss terms learn from, by the keys that chose them."""
        networks = self.criterion.frozen() if self.criterion else {}
        return {key: network.fingerprint() for key, network in networks.items()}

    def named_metrics(self) -> dict[str, Metric]:
        """The metrics, under their type."""
        return {name: cast(Metric, metric) for name, metric in self.metrics.items()}

    def reset(self) -> None:
        """Before an evaluation: nothing is counted yet."""
        for metric in (*self.metrics.values(), *self.averages.values()):
            cast(Metric, metric).reset()
        if self.refinement is not None:
            self.refinement.sequence = None

    def mean_losses(self) -> dict[str, Tensor]:
        """Of the evaluated images: the total under ``loss`` and every term under its name; empty without an image."""
        means = {name: cast(MeanMetric, metric) for name, metric in self.averages.items()}
        return {name: metric.compute() for name, metric in means.items() if metric.update_called}

    def known_scores(self) -> dict[str, Score]:
        """Direction and unit of every number that an evaluation gives, before it gives any."""
        terms = self.criterion.terms if self.criterion else ()
        losses = [Score(name, "min") for name in ("loss", *terms)]
        found = [score for metric in self.named_metrics().values() for score in metric.scores]
        return {score.name: score for score in (*losses, *found, self.headline)}

    @abstractmethod
    def show(self, seen: Evaluated, index: int, width: int | None = None) -> Panel:
        """One item of an evaluated batch, to be looked at; each part of the strip ``width`` pixels wide."""

    @abstractmethod
    def summary(self, results: Mapping[str, Any], title: str, classes: bool = True) -> RenderableType:
        """An evaluation as it is printed; ``classes=False`` leaves the rows of single classes out."""

    def figures(self, results: Mapping[str, Any], title: str = "") -> dict[str, np.ndarray]:
        """Images [h, w, 3] of an evaluation, by name."""
        curves = curves_of(results)
        return {"frames": visualize.curve_figure(curves, title)} if curves else {}

    def tables(self, results: Mapping[str, Any]) -> dict[str, list[list[Any]]]:
        """Tables of an evaluation beside the numbers of each class, by name: rows, the heading first."""
        found: dict[str, list[list[Any]]] = {}
        if "matrix" in results:
            rows = zip(self.spec.classes, results["matrix"].tolist(), strict=True)
            heading = ["label \\ prediction", *self.spec.classes]
            found["confusion"] = [heading, *([name, *counts] for name, counts in rows)]
        if curves := curves_of(results):
            columns = [dict(zip(curve.frames, curve.values, strict=True)) for curve in curves.values()]
            frames = dict.fromkeys(frame for column in columns for frame in column)
            values = [[*frame, *(column.get(frame, math.nan) for column in columns)] for frame in frames]
            found["frames"] = [["sequence", "frame", *curves], *values]
        return found

    @classmethod
    @abstractmethod
    def predictor(cls, opened: Opened) -> Predictor:
        """From a network that a file holds: images in, predictions out."""

    def rows(self, results: Mapping[str, Any]) -> list[dict[str, Any]]:
        """One row per class with every number that there is for each."""
        lists = {
            name: value
            for name, value in results.items()
            if isinstance(value, Sequence) and len(value) == self.spec.num_classes and not isinstance(value, str)
        }
        return [
            {"class": name, **{key: value[k] for key, value in lists.items()}}
            for k, name in enumerate(self.spec.classes)
        ]


def curves_of(results: Mapping[str, Any]) -> dict[str, Curve]:
    """What an evaluation found of every frame of videos, by name."""
    return {name: value for name, value in results.items() if isinstance(value, Curve)}


def result_size(batch: Batch) -> Size:
    """(height, width) at which a batch's prediction is compared: the label map's, which may not be the image's."""
    return height_width(batch.image if batch.label is None else batch.label)
