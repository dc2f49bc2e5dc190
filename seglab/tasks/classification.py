"""Image classification: a class for every image. Cross entropy, top-1 error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

from seglab import visualize
from seglab.inference import Network, classify
from seglab.models.image_classifier import ImageClassifier
from seglab.predictors.categories import CategoryPredictor
from seglab.tasks.base import Panel, Task
from seglab.types import Batch, Evaluated, Score

if TYPE_CHECKING:
    from rich.console import RenderableType

    from seglab.predictors.base import Opened, Predictor

SHOWN = 160
"""Width of an image beside its classes, in pixels, unless told otherwise."""


class Classification(Task):
    """See :class:`seglab.tasks.base.Task`; the network is an :class:`ImageClassifier`."""

    NEEDS: ClassVar[frozenset[str]] = frozenset({"category"})
    headline: ClassVar[Score] = Score("top1_error", "min", "percent")
    network = ImageClassifier
    model: ImageClassifier

    def target(self, batch: Batch) -> None:
        return None

    def infer(self, network: Network, image: Tensor, batch: Batch, target: Tensor | None) -> Tensor:
        return classify(network, image, self.protocol)

    def show(self, seen: Evaluated, index: int, width: int | None = None) -> Panel:
        true, predicted = int(seen.category[index]), int(seen.scores[index].argmax())
        image = visualize.fit(
            visualize.to_image(self.model.normalise.to_uint8(seen.batch.image[index])), width or SHOWN
        )
        sure = float(seen.scores[index].float().softmax(0)[predicted])
        text = f"{self.spec.classes[predicted]} ({sure:.0%})"
        verdict = "right" if true == predicted else f"wrong: it is {self.spec.classes[true]}"
        return Panel(visualize.titled(text, visualize.titled(verdict, image)))

    def summary(self, results: Mapping[str, Any], title: str, classes: bool = True) -> RenderableType:
        from rich.table import Table

        names = ("top1_error", "top5_error", "mAcc")
        line = "   ".join(f"{name} {visualize.percent(results[name])}" for name in names if name in results)
        if not classes:
            return f"{title}: {line}"
        table = Table(title=title or None, caption=line)
        table.add_column("class")
        table.add_column("Acc", justify="right")
        for row in self.rows(results):
            table.add_row(row["class"], visualize.percent(float(row["Acc"])))
        return table

    def figures(self, results: Mapping[str, Any], title: str = "") -> dict[str, np.ndarray]:
        found = super().figures(results, title)
        if "matrix" not in results:
            return found
        heading = f"{title}: top-1 error {visualize.percent(results['top1_error'])}" if title else ""
        return {"confusion": visualize.confusion_figure(results["matrix"], self.spec.classes, heading), **found}

    @classmethod
    def predictor(cls, opened: Opened) -> Predictor:
        return CategoryPredictor(opened)
