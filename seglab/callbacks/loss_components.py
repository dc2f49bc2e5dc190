"""How much each loss term pulls at the network, and which terms pull against each other.

With X the decoded feature (the decoder's output, what the classifier reads), L_i the terms and w_i their weights::

    g_i = dL_i / dX    norm_i = |w_i g_i|    share_i = norm_i / sum_j norm_j    cosine_ij = <g_i, g_j> / (|g_i| |g_j|)

X is where everything that the classifier's losses ask of backbone and decoder goes through. A term that does not reach
it (an auxiliary head's, which reads the backbone's maps; one that is constant) has an empty norm and share.

Cost of one measurement: a forward pass of backbone and decoder without a graph, one of the classifier with its losses,
and per term a backward pass through these two alone; memory for one gradient of the size of X per term. What it took of
the training time is logged at the end.

Nothing of the training is touched: the batch is measured before its step, under the random numbers that the step is
about to draw (so the values are those of its own ``train/<term>``); random state and buffers (running statistics) are
put back; gradients are returned, not accumulated. Of an accumulated step the first batch is measured, of several
processes the first one's.
"""

from __future__ import annotations

import csv
import io
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import lightning as L
import torch

from seglab import visualize
from seglab.callbacks.base import OfTraining
from seglab.callbacks.class_table import as_csv
from seglab.callbacks.insight import OKABE_ITO, folder
from seglab.errors import ConfigError
from seglab.loggers import log_image
from seglab.losses.base import seen_by
from seglab.runs import atomic
from seglab.types import FEATURE, Batch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

COLUMNS = ("step", "term", "value", "weighted", "norm", "share")
COSINE_COLUMNS = ("step", "a", "b", "cosine")


class Measured(NamedTuple):
    """One batch; None where a term does not reach the feature."""

    value: dict[str, float]
    weight: dict[str, float]
    norm: dict[str, float | None]
    """Of the weighted gradient."""
    cosine: dict[tuple[str, str], float | None]

    @property
    def share(self) -> dict[str, float | None]:
        """Of the sum of the norms."""
        total = sum(norm for norm in self.norm.values() if norm is not None)
        return {name: norm / total if norm is not None and total > 0 else None for name, norm in self.norm.items()}


class LossComponents(OfTraining):
    """Writes ``insight/loss_components.csv`` and ``insight/loss_components_cosine.csv`` as it goes, and at the end
    ``insight/loss_components.png``; logs ``grad_share/<term>`` and ``grad_cosine/<a>~<b>``. In training only.

    Args:
        every_n_steps: optimiser steps between measurements; the first step always is one.

    Raises:
        ConfigError: ``every_n_steps`` below 1.
    """

    whole_network = True

    def __init__(self, every_n_steps: int = 50) -> None:
        if every_n_steps < 1:
            raise ConfigError(f"callbacks.loss_components.every_n_steps={every_n_steps} — expected at least 1")
        self.every_n_steps = every_n_steps
        self.last = 0
        self.seconds = self.began = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.last = trainer.global_step
        self.seconds, self.began = 0.0, time.perf_counter()
        if trainer.is_global_zero:
            for path, columns in self.files(trainer).items():
                # The steps that a resumed run repeats are measured again; a fresh one begins anew.
                kept = [row for row in read(path) if int(row["step"]) <= trainer.global_step]
                atomic.write_text(path, as_csv(kept) if kept else ",".join(columns) + "\n")

    def files(self, trainer: L.Trainer) -> dict[Path, tuple[str, ...]]:
        """The two tables and their columns."""
        place = folder(trainer)
        return {place / "loss_components.csv": COLUMNS, place / "loss_components_cosine.csv": COSINE_COLUMNS}

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step + 1
        if step <= self.last or (step != 1 and step % self.every_n_steps):
            return
        self.last = step
        began = time.perf_counter()
        # On every rank: normalisation may confer (SyncBatchNorm), and nobody waits for one that measures alone.
        with untouched(pl_module):
            pl_module.on_train_batch_start(batch, batch_idx)  # seeds the step to come
            found = measure(trainer, pl_module, batch)
        if trainer.is_global_zero:
            self.record(trainer, step, found)
        self.seconds += time.perf_counter() - began

    def record(self, trainer: L.Trainer, step: int, found: Measured) -> None:
        """Add to the tables; send to the loggers."""
        terms = [
            {
                "step": step,
                "term": name,
                "value": value,
                "weighted": found.weight[name] * value,
                "norm": found.norm[name],
                "share": found.share[name],
            }
            for name, value in found.value.items()
        ]
        pairs = [{"step": step, "a": a, "b": b, "cosine": cosine} for (a, b), cosine in found.cosine.items()]
        for path, rows in zip(self.files(trainer), (terms, pairs), strict=True):
            append(path, rows)
        values = {f"grad_share/{name}": share for name, share in found.share.items()}
        values |= {f"grad_cosine/{a}~{b}": cosine for (a, b), cosine in found.cosine.items()}
        logged = {name: value for name, value in values.items() if value is not None}
        for logger in trainer.loggers:
            logger.log_metrics(logged, step)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        share = self.seconds / max(time.perf_counter() - self.began, 1e-9)
        log.info("loss_components took %.1f s, %.1f %% of the training", self.seconds, 100 * share)
        terms, pairs = (read(path) for path in self.files(trainer))
        if terms:
            image = visualize.pixels(draw(terms, pairs))
            visualize.save(image, folder(trainer) / "loss_components.png")
            log_image(trainer, "train/loss_components", image, trainer.global_step)


@contextmanager
def untouched(module: L.LightningModule) -> Iterator[None]:
    """Put random state and buffers back as they were."""
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    devices = [module.device] if module.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def measure(trainer: L.Trainer, module: Any, batch: Batch) -> Measured:
    """The terms of a batch and their gradients at the decoded feature, as the training step would have them."""
    task, step = module.task, trainer.global_step
    named = task.criterion.named()
    with trainer.precision_plugin.forward_context():
        output = task.output(batch, frozenset({FEATURE}), compiled=False)
        feature = output.extra[FEATURE]
        values = {name: term(output, seen_by(term, output, batch)) for name, term in named}
    # In half precision, small gradients would vanish without the factor that training has.
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    scale = float(scaler.get_scale()) if scaler is not None else 1.0
    gradients = {}
    for name, value in values.items():
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(scale * value, feature, retain_graph=True, allow_unused=True)
            if gradient is not None:
                gradients[name] = gradient.float().flatten() / scale
    weights = {name: float(term.weight_at(step)) for name, term in named}
    sizes = {name: float(torch.linalg.vector_norm(gradient)) for name, gradient in gradients.items()}

    def cosine(a: str, b: str) -> float | None:
        if not (sizes.get(a) and sizes.get(b)):
            return None
        return float(torch.dot(gradients[a] / sizes[a], gradients[b] / sizes[b]))

    return Measured(
        value={name: float(value.detach()) for name, value in values.items()},
        weight=weights,
        norm={name: weights[name] * sizes[name] if name in sizes else None for name in values},
        cosine={(a, b): cosine(a, b) for a, b in combinations(values, 2)},
    )


def read(path: Path) -> list[dict[str, str]]:
    """The whole rows of a table (a killed run may leave half a line), none where there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if None not in row.values() and row["step"].isdigit()]


def append(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Add rows to a table that has its header."""
    if rows:
        text = io.StringIO(newline="")
        csv.DictWriter(text, list(rows[0])).writerows(rows)
        with path.open("a", newline="") as file:
            file.write(text.getvalue())


def draw(terms: list[dict[str, str]], pairs: list[dict[str, str]]) -> Figure:
    """Shares over the steps, one on the other, and the mean cosine of each pair of terms."""
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    steps = sorted({int(row["step"]) for row in terms})
    share = {(int(row["step"]), row["term"]): float(row["share"]) for row in terms if row["share"]}
    names = list(dict.fromkeys(row["term"] for row in terms))
    reached = [name for name in names if any((step, name) in share for step in steps)]
    absent = [name for name in names if name not in reached]

    n = len(reached)
    figure = Figure(figsize=(6.4 + max(3.6, 0.62 * n + 1.6), max(4.2, 0.5 * n + 1.6)), layout="constrained", dpi=150)
    left, right = figure.subplots(1, 2, width_ratios=(6.4, max(3.6, 0.62 * n + 1.6)))
    shares = np.array([[100 * share.get((step, name), 0.0) for step in steps] for name in reached]).reshape(n, -1)
    places = np.array(steps, float)
    if len(steps) == 1:  # an area needs two
        places, shares = np.array([steps[0] - 0.5, steps[0] + 0.5]), shares.repeat(2, 1)
    below = np.zeros(len(places))
    for k, name in enumerate(reached):
        hatch = "///" if k >= len(OKABE_ITO) else None
        colour, above = OKABE_ITO[k % len(OKABE_ITO)], below + shares[k]
        left.fill_between(places, below, above, color=colour, hatch=hatch, edgecolor="white", linewidth=0.6, label=name)
        below = above
    left.set(xlim=(places[0], places[-1]), ylim=(0, 100), xlabel="optimiser step")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_ylabel("share of the weighted gradient norm\nat the decoded feature (%)")
    note = f"\nnot at the decoded feature: {', '.join(absent)}" if absent else ""
    left.set_title(f"Which term pulls how much{note}", fontsize=10)
    if n:
        handles, labels = left.get_legend_handles_labels()
        left.legend(handles[::-1], labels[::-1], loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=9, frameon=False)

    sums = np.full((n, n), np.nan)
    for i, j in combinations(range(n), 2):
        found = [
            float(row["cosine"]) for row in pairs if (row["a"], row["b"]) == (reached[i], reached[j]) and row["cosine"]
        ]
        if found:
            sums[i, j] = sums[j, i] = np.mean(found)
    np.fill_diagonal(sums, 1)
    shown = right.imshow(sums, cmap="PuOr_r", vmin=-1, vmax=1)
    for (i, j), value in np.ndenumerate(sums):
        text = "–" if np.isnan(value) else f"{round(value, 2) + 0.0:.2f}".replace("-", "−")  # no minus at zero
        right.text(j, i, text, ha="center", va="center", fontsize=9, color="white" if abs(value) > 0.65 else "black")
    right.set_xticks(range(n), reached, rotation=45, ha="right", fontsize=9)
    right.set_yticks(range(n), reached, fontsize=9)
    right.set_title(
        f"Cosine between the gradients\n(mean of {len(steps)} measurement{'s' * (len(steps) > 1)})", fontsize=10
    )
    figure.colorbar(shown, ax=right, shrink=0.7, label="−1: against each other, 1: together")
    return figure
