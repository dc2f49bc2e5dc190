"""What context brings to one checkpoint, and what it could bring: mIoU of three predictions of the same pass.

coarse: the plain 1x1 convolution, prototypes as learnt; adapted: the prediction, prototypes adapted to the image by
its own coarse classes; oracle: prototypes adapted by the labels. Then

    context_gain = mIoU(adapted) - mIoU(coarse)     context_gap = mIoU(oracle) - mIoU(adapted)

The oracle reads the labels: an upper bound of what better context could give, never a result. Each mIoU is the mean
over the classes that are labelled or that this prediction has, as everywhere.
"""

from __future__ import annotations

import logging
import math
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import lightning as L

from seglab.callbacks.base import EvaluationObserver
from seglab.callbacks.insight import OKABE_ITO, publish
from seglab.metrics.confusion import ConfusionMatrix
from seglab.models.segmenter import Segmenter
from seglab.types import Score
from seglab.visualize import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from seglab.tasks.base import Task
    from seglab.types import Evaluated

log = logging.getLogger(__name__)

BRANCHES = {"coarse": "coarse", "adapted": "logits", "oracle": "oracle"}
"""Prediction -> the field of the network's output that it is."""
SCORES = tuple(Score(name, "max", "percent") for name in ("mIoU_coarse", "mIoU_oracle", "context_gain", "context_gap"))
MOST = 60
"""Classes in the image."""


class ContextGap(EvaluationObserver):
    """Logs ``mIoU_coarse``, ``mIoU_oracle``, ``context_gain`` and ``context_gap``; what a network lacks is null.

    Writes ``insight/context_gap_<stage>.csv`` (IoU of each class) and ``.png``. Each prediction is made as the protocol
    says, of the passes that the evaluation makes anyway; windows and mirrored views show the oracle their labels.
    """

    whole_network = True

    def __init__(self) -> None:
        self.metrics: dict[str, ConfusionMatrix] = {}
        self.told: set[str] = set()

    def lacking(self, task: Task) -> dict[str, str]:
        """The predictions that a network does not make, and why."""
        kind, there = type(task.model.classifier).__name__, task.model.branches
        lacking = {name: f"{kind} has none" for name, branch in BRANCHES.items() if branch not in there}
        if "oracle" in there and "oracle" not in task.wanted:
            lacking["oracle"] = "no loss term trains it"
        return lacking

    def applies(self, task: Task, stage: str) -> bool:
        return isinstance(task.model, Segmenter)

    def observed(self, task: Task) -> frozenset[str]:
        return frozenset(BRANCHES.values()) - {BRANCHES[name] for name in self.lacking(task)}

    def begin(self, trainer: L.Trainer, module: Any) -> None:
        lacking = self.lacking(module.task)
        for name, reason in lacking.items():
            self.tell(name, reason)
        there = [name for name in BRANCHES if name not in lacking]
        classes = module.task.spec.num_classes
        self.metrics = {name: ConfusionMatrix(classes).to(module.device) for name in there}

    def tell(self, name: str, reason: str) -> None:
        """Say once that a prediction is not there."""
        if name not in self.told:
            log.info("context_gap: no %s prediction (%s), left empty", name, reason)
            self.told.add(name)

    def observe(self, seen: Evaluated) -> None:
        for name, metric in self.metrics.items():
            branch = BRANCHES[name]
            if any(branch not in branches for branches in seen.passes):
                self.tell(name, "the network left it out")
            else:
                metric.update(seen.of(itemgetter(branch)))

    def end(self, trainer: L.Trainer, module: Any) -> None:
        found = {name: metric.compute() for name, metric in self.metrics.items()}
        mean = {name: found[name]["mIoU"] if name in found else math.nan for name in BRANCHES}
        values = {
            "mIoU_coarse": mean["coarse"],
            "mIoU_oracle": mean["oracle"],
            "context_gain": mean["adapted"] - mean["coarse"],
            "context_gap": mean["oracle"] - mean["adapted"],
        }
        module.results.add({name: None if math.isnan(v) else v for name, v in values.items()}, SCORES)
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        rows = [
            {
                "step": trainer.global_step,
                "class": label,
                **{f"IoU_{name}": found[name]["IoU"][k] if name in found else math.nan for name in BRANCHES},
            }
            for k, label in enumerate(module.task.spec.classes)
        ]
        title = f"{module.task.spec.title} {module.stage}, step {trainer.global_step}"
        publish(trainer, module.stage, "context_gap", rows, draw(rows, mean, title))


def draw(rows: list[dict[str, Any]], mean: dict[str, float], title: str) -> Figure:
    """IoU of each class by each prediction; classes by what context brings, the most at the top."""
    from matplotlib.figure import Figure

    looks = {"coarse": ("s", OKABE_ITO[1]), "adapted": ("o", OKABE_ITO[0]), "oracle": ("^", OKABE_ITO[2])}
    there = [name for name in BRANCHES if not math.isnan(mean[name])]
    seen = [row for row in rows if known(row, there)]
    most = sorted(seen, key=lambda row: max(known(row, there)) - min(known(row, there)))[-MOST:]
    shown = sorted(most, key=gain)
    places = range(len(shown))
    figure = Figure(figsize=(7, 1.9 + 0.28 * max(len(shown), 1)), layout="constrained", dpi=150)
    axes = figure.add_subplot()
    ends = [known(row, there) for row in shown]
    axes.hlines(places, [min(values) for values in ends], [max(values) for values in ends], color="0.75", zorder=1)
    for name, lift in zip(there, ((0,), (0.14, -0.14), (0.2, 0, -0.2))[len(there) - 1] if there else (), strict=True):
        marker, colour = looks[name]
        note = " (reads the labels)" if name == "oracle" else ""
        axes.scatter(
            [100 * row[f"IoU_{name}"] for row in shown], [place + lift for place in places], s=26, marker=marker,
            color=colour, zorder=2, label=f"{name}{note}: mIoU {percent(mean[name])}",
        )  # fmt: skip
    axes.set_yticks(places, [row["class"] for row in shown], fontsize=9)
    axes.set_ylim(-0.7, max(len(shown), 1) - 0.3)
    axes.set_xlabel("IoU (%)")
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    part = f"; the {MOST} of {len(seen)} classes that differ most" if len(seen) > MOST else ""
    figure.suptitle(f"{title}{part}", fontsize=11)
    if there:
        figure.legend(loc="outside lower center", fontsize=9, frameon=False)
    return figure


def known(row: dict[str, Any], there: list[str]) -> list[float]:
    """IoU of a class by each prediction for which it counts, in percent."""
    return [100 * row[f"IoU_{name}"] for name in there if not math.isnan(row[f"IoU_{name}"])]


def gain(row: dict[str, Any]) -> float:
    """What the order of the classes is by; those that only one of the predictions has come last."""
    adapted, coarse = row["IoU_adapted"], row["IoU_coarse"]
    difference = adapted if math.isnan(coarse) else adapted - coarse
    return -math.inf if math.isnan(difference) else difference
