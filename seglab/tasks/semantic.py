"""Semantic segmentation: a class for every pixel. Cross entropy and its relatives, mIoU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

from seglab import visualize
from seglab.errors import ConfigError
from seglab.inference import infer
from seglab.models.segmenter import Segmenter
from seglab.ops.resize import resize_argmax
from seglab.predictors.pixels import PixelPredictor
from seglab.tasks.base import Panel, Task
from seglab.types import Batch, Evaluated, Output, Score

if TYPE_CHECKING:
    from rich.console import RenderableType

    from seglab.predictors.base import Opened, Predictor


SHOWN = 360
"""Width of a panel in pixels, unless told otherwise."""


class Semantic(Task):
    """See :class:`seglab.tasks.base.Task`; the network is a :class:`Segmenter`."""

    headline: ClassVar[Score] = Score("mIoU", "max", "percent")
    network = Segmenter
    model: Segmenter
    branch = "logits"
    """What is scored: the prediction, or the branch that reads the labels (an upper bound, not a result)."""

    def score(self, batch: Batch, observed: frozenset[str]) -> Evaluated:
        image, size = self.model.normalise(batch.image), batch_size(batch)
        passes: list[dict[str, Tensor]] = []
        output: Output | None = None
        # One view of the whole image is given the label as it is; windows and mirrored views their part of it. These
        # see other labels: the loss is then that of the image as it is.
        whole = self.protocol.single_pass and self.protocol.divisor_mode == "resize"
        wanted = observed | {self.branch}
        shown = self.shows_target or bool(wanted & self.model.label_branches)

        def network(view: Tensor, label: Tensor | None = batch.label if whole and shown else None) -> Tensor:
            nonlocal output
            view = view.contiguous(memory_format=self.memory_format)
            output = self.model(view, label, wanted=(self.wanted if whole else frozenset()) | observed)
            found = {branch: output.read(branch) for branch in observed}
            passes.append({branch: value for branch, value in found.items() if value is not None})
            scores = output.read(self.branch)
            assert scores is not None
            return scores

        scores = infer(network, image, self.protocol, size, batch.label if shown and not whole else None)
        if output is None or not whole:
            output = self.output(batch, observed)

        def combine(values: Iterator[Tensor]) -> Tensor:
            return infer(lambda _: next(values), image, self.protocol, size)

        return Evaluated(batch=batch, scores=scores, output=output, passes=tuple(passes), combine=combine)

    def scored(self, branch: str) -> None:
        kind = type(self.model.classifier).__name__
        if branch not in self.model.classifier.Output.branches():
            raise ConfigError(
                f"{branch}=true: {kind} has no branch that reads the labels — expected e.g. CAC or SSA; set "
                f"{branch}=false"
            )
        if branch not in self.wanted:
            raise ConfigError(
                f"{branch}=true: no loss term trained {kind}'s ground-truth branch — expected a checkpoint whose "
                f"losses read '{branch}'; set {branch}=false"
            )
        self.branch = branch

    def show(self, seen: Evaluated, index: int, width: int | None = None) -> Panel:
        label = seen.label[index]
        prediction = resize_argmax(seen.scores[index : index + 1], (label.shape[0], label.shape[1]))[0]
        ids, truth = prediction.byte().cpu().numpy(), label.byte().cpu().numpy()
        image = visualize.to_image(self.model.normalise.to_uint8(seen.batch.image[index]))
        shown = visualize.strip(image, truth, ids, self.spec.classes, self.spec.palette, width or SHOWN)
        same = image.shape[:2] == truth.shape
        return Panel(shown, (image if same else visualize.fit(image, truth.shape[1]), truth, ids))

    def summary(self, results: Mapping[str, Any], title: str, classes: bool = True) -> RenderableType:
        if classes:
            return visualize.class_table(results, self.spec.classes, title)
        return f"{title}: mIoU {visualize.percent(results['mIoU'])}   {visualize.caption(results)}"

    def figures(self, results: Mapping[str, Any], title: str = "") -> dict[str, np.ndarray]:
        if "matrix" not in results:
            return {}
        heading = f"{title}: mIoU {visualize.percent(results['mIoU'])}" if title else ""
        return {"confusion": visualize.confusion_figure(results["matrix"], self.spec.classes, heading)}

    @classmethod
    def predictor(cls, opened: Opened) -> Predictor:
        return PixelPredictor(opened)


def batch_size(batch: Batch) -> tuple[int, int]:
    """(height, width) at which a batch's prediction is compared."""
    shown = batch.image if batch.label is None else batch.label
    return shown.shape[-2], shown.shape[-1]
