"""Semantic segmentation: a class for every pixel. Cross entropy and its relatives, mIoU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

from seglab import visualize
from seglab.errors import ConfigError
from seglab.inference import Network, infer
from seglab.models.segmenter import Segmenter
from seglab.ops.resize import resize_argmax
from seglab.predictors.pixels import PixelPredictor
from seglab.tasks.base import Panel, Task, result_size
from seglab.types import Batch, Evaluated, Score

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

    def infer(self, network: Network, image: Tensor, batch: Batch, target: Tensor | None) -> Tensor:
        return infer(network, image, self.protocol, result_size(batch), target)

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
        found = super().figures(results, title)
        if "matrix" not in results:
            return found
        heading = f"{title}: mIoU {visualize.percent(results['mIoU'])}" if title else ""
        return {"confusion": visualize.confusion_figure(results["matrix"], self.spec.classes, heading), **found}

    @classmethod
    def predictor(cls, opened: Opened) -> Predictor:
        return PixelPredictor(opened)
