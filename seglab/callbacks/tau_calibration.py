"""What the temperature changes in a trained network: the confidence of its predictions, and not the predictions.

With cosine logits r = tau cos(x, p), another temperature t makes them r t / tau. The order of the classes stays, hence
the argmax and mIoU; the probabilities do not. So this shows, of one checkpoint and without training, NLL and ECE
(:mod:`seglab.metrics.calibration`) against t: temperature scaling (Guo et al., ICML 2017), with tau for 1 / T. It does
NOT show how mIoU depends on tau: tau scales the gradients too, so every value needs a training of its own,
``ablation=cac_tau``. The temperature of the least NLL was chosen by the labels: on the test split it is no result.

Where classifiers have no temperature (linear, or similarity=dot), theirs is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import lightning as L

from seglab.callbacks.base import EvaluationObserver
from seglab.callbacks.insight import OKABE_ITO, publish
from seglab.checks import within
from seglab.classifiers.base import Classifier
from seglab.classifiers.similarity import Similarity
from seglab.errors import ConfigError
from seglab.metrics.calibration import Calibration
from seglab.models.segmenter import Segmenter

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from seglab.tasks.base import Task
    from seglab.types import Evaluated

LOGITS = "logits"
MULTIPLES = (1 / 8, 1 / 4, 1 / 2, 2 / 3, 1.0, 1.5, 2.0, 4.0, 8.0)
"""Of the trained temperature, where no list is given."""


class TauCalibration(EvaluationObserver):
    """Logs ``NLL/tau_T`` and ``ECE/tau_T`` of each temperature T and ``tau_NLL``, the one with the least NLL.

    Writes ``insight/tau_calibration_<stage>.csv`` and ``.png``. The network runs once; each temperature costs a resize
    and a softmax of its logits. The
    logits of every window and view are scaled, so it is exact under any protocol.

    Args:
        temperatures: to be tried, beside the trained one; null for multiples of that.
        bins: of the confidence, for ECE.

    Raises:
        ConfigError: no temperature, or one that is not above 0; no bin.
    """

    whole_network = True

    def __init__(self, temperatures: Sequence[float] | None = None, bins: int = 15) -> None:
        if temperatures is not None and not temperatures:
            raise ConfigError(
                "callbacks.tau_calibration.temperatures=[] — expected one or more numbers > 0, e.g. [5,15,50], or null"
            )
        key = "callbacks.tau_calibration.temperatures"
        self.temperatures = (
            None if temperatures is None else [within(key, float(t), 0, open_low=True) for t in temperatures]
        )
        self.bins = int(within("callbacks.tau_calibration.bins", bins, 1))
        self.tau = 1.0
        self.metrics: dict[float, Calibration] = {}

    def applies(self, task: Task, stage: str) -> bool:
        return isinstance(task.model, Segmenter)

    def observed(self, task: Task) -> frozenset[str]:
        return frozenset({LOGITS})

    def begin(self, trainer: L.Trainer, module: Any) -> None:
        self.tau = trained(module.task.model.classifier)
        listed = self.temperatures or [self.tau * multiple for multiple in MULTIPLES]
        new = {t: Calibration(module.task.spec.num_classes, self.bins) for t in sorted({*listed, self.tau})}
        self.metrics = {t: metric.to(module.device) for t, metric in new.items()}

    def observe(self, seen: Evaluated) -> None:
        for t, metric in self.metrics.items():
            metric.update(seen.of(lambda branches, factor=t / self.tau: factor * branches[LOGITS]))  # type: ignore[misc]

    def end(self, trainer: L.Trainer, module: Any) -> None:
        found = {t: metric.compute() for t, metric in self.metrics.items()}
        rows = [
            {"step": trainer.global_step, "tau": t, "NLL": v["NLL"], "ECE": v["ECE"], "trained": int(t == self.tau)}
            for t, v in found.items()
        ]
        for row in rows:
            module.results.add({f"{name}/tau_{row['tau']:g}": row[name] for name in ("NLL", "ECE")}, Calibration.scores)
        module.results.add({"tau_NLL": best(rows)["tau"]})
        if trainer.is_global_zero and not trainer.sanity_checking:
            named = has_tau(module.task.model.classifier)
            title = f"{module.task.spec.title} {module.stage}, step {trainer.global_step}"
            publish(trainer, module.stage, "tau_calibration", rows, draw(rows, title, named))


def has_tau(classifier: Classifier) -> bool:
    """Whether its logits are a multiple of a temperature."""
    similarity = getattr(classifier, "similarity", None)
    return isinstance(similarity, Similarity) and similarity.kind == "cosine"


def trained(classifier: Classifier) -> float:
    """The temperature of a classifier, 1 where it has none."""
    return float(classifier.similarity.tau) if has_tau(classifier) else 1.0  # type: ignore[union-attr, arg-type]


def best(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The row of the least NLL (any, where no pixel was labelled)."""
    return min(rows, key=lambda row: row["NLL"])


def draw(rows: list[dict[str, Any]], title: str, named: bool) -> Figure:
    """NLL and ECE against the temperature, the trained one and the least NLL marked."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    least, (own,) = best(rows), [row for row in rows if row["trained"]]
    taus = [row["tau"] for row in rows]
    open_end = ", at the end of the list" if least["tau"] in (taus[0], taus[-1]) and len(taus) > 1 else ""
    figure = Figure(figsize=(9, 3.9), layout="constrained", dpi=150)
    figure.suptitle(title, fontsize=11)
    panels = figure.subplots(1, 2)
    for axes, name, label, scale in zip(
        panels, ("NLL", "ECE"), ("NLL (nats per pixel)", "ECE (%)"), (1, 100), strict=True
    ):
        axes.plot(taus, [scale * row[name] for row in rows], "o-", color=OKABE_ITO[0], markersize=4)
        axes.axvline(
            own["tau"], color="0.35", linestyle="--", label=f"trained: {own['tau']:g} ({name} {text(own, name)})"
        )
        axes.plot(
            least["tau"], scale * least[name], "*", color=OKABE_ITO[5], markersize=14, zorder=3, clip_on=False,
            label=f"least NLL: {least['tau']:.4g} ({name} {text(least, name)}){open_end}",
        )  # fmt: skip
        axes.set_xscale("log")
        axes.set_xticks(taus, [f"{t:.3g}" for t in taus], rotation=45, fontsize=8)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlabel="temperature τ at test time" if named else "factor on the logits at test time", ylabel=label)
        axes.margins(y=0.15)
        axes.set_ylim(bottom=max(0, axes.get_ylim()[0]))
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.2), frameon=False)
    return figure


def text(row: dict[str, Any], name: str) -> str:
    """A value as it is written in the figure."""
    return f"{row[name]:.3f}" if name == "NLL" else f"{100 * row[name]:.1f} %"
