"""Figures of the runs behind the table: what each class gained, and how training went."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from seglab import figures
from seglab.errors import ConfigError
from seglab.report.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from seglab.report.collect import Run
    from seglab.report.table import Row, Table
    from seglab.scores import Score

MOST_CLASSES = 40
SMOOTH_FROM = 60  # points of a curve


def stage_of(metric: str) -> str:
    """``val`` of val/mIoU; ``test`` of a key without a stage."""
    return metric.split("/", 1)[0] if "/" in metric else "test"


def class_score(table: Table) -> Score | None:
    """The first score that the runs have for every single class: IoU, accuracy, ...; None where they have none."""
    for run in (run for row in table.rows for run in row.runs):
        for stage in (stage_of(table.metric), "test", "val"):
            for key, value in run.metrics.items():
                if key.startswith(f"{stage}/") and isinstance(value, list) and value:
                    score = run.known.find(key)
                    if score is not None:
                        return score
    return None


def per_class(run: Run, score: Score, stage: str) -> np.ndarray:
    """A score of each class of a run [K], NaN where a class does not occur; empty where the run has none."""
    lists = (run.metrics.get(f"{each}/{score.name}") for each in (stage, "test", "val"))
    found = next((value for value in lists if isinstance(value, list) and value), [])
    return np.array([math.nan if value is None else float(value) for value in found])


def class_differences(row: Row, baseline: Row, score: Score, stage: str) -> np.ndarray:
    """Score of ``row`` minus that of ``baseline``, per seed that both have [S, K]; over all means [1, K] where none is.

    Raises:
        ConfigError: runs without per-class numbers, or with other classes.
    """
    ours = {run.seed: per_class(run, score, stage) for run in row.runs}
    theirs = {run.seed: per_class(run, score, stage) for run in baseline.runs}
    lengths = {len(values) for values in [*ours.values(), *theirs.values()]}
    if len(lengths) != 1 or lengths == {0}:
        raise ConfigError(
            f"per-class {score.name}: not every run has it, or not for the same classes — expected in metrics.json"
        )
    both = sorted(ours.keys() & theirs.keys())
    if both:
        return np.stack([ours[seed] - theirs[seed] for seed in both])
    return (np.mean(list(ours.values()), 0) - np.mean(list(theirs.values()), 0))[None]


def classes(table: Table, row: Row | None = None, baseline: Row | None = None) -> Figure:
    """Each class's difference to the baseline, sorted, sd and dots over seeds; the best row and its baseline
    unless others are given. Of more than 40 classes, the 40 that changed most.

    Raises:
        ConfigError: no baseline, nothing but the baseline, or runs without per-class numbers.
    """
    row = row or rival(table)
    baseline = baseline or (style.reference(table, row) if row is not None else None)
    if row is None or baseline is None or row is baseline:
        raise ConfigError("differences per class need a baseline and another row — --baseline tau=15 names one")
    score = class_score(table)
    if score is None:
        raise ConfigError("differences per class: no run has a score of each class — expected lists in metrics.json")
    better = -1 if score.lower else 1
    differences = score.scale * class_differences(row, baseline, score, stage_of(table.metric))
    known = [k for k in range(differences.shape[1]) if np.isfinite(differences[:, k]).any()]
    mean = {k: float(np.nanmean(differences[:, k])) for k in known}
    chosen = sorted(known, key=lambda k: -abs(mean[k]))[:MOST_CLASSES]
    chosen.sort(key=lambda k: -better * mean[k])
    names = row.runs[0].classes() or [str(k) for k in range(differences.shape[1])]
    with figures.house():
        figure = figures.figure(figures.COLUMN, 1.0 + 0.19 * len(chosen))
        axes = figure.add_subplot()
        axes.grid(axis="x")
        for y, k in enumerate(chosen):
            values = differences[:, k][np.isfinite(differences[:, k])]
            sd = float(values.std(ddof=1)) if len(values) > 1 else None
            colour = figures.BLUE if better * mean[k] >= 0 else figures.VERMILION
            axes.barh(y, mean[k], height=0.62, color=colour, alpha=0.75, zorder=2)
            if sd is not None:
                axes.errorbar(mean[k], y, xerr=sd, fmt="none", ecolor=figures.INK, elinewidth=0.8, capsize=2, zorder=3)
                style.dots(axes, values.tolist(), [y] * len(values))
        unit = " (points)" if score.percent else f" ({score.unit})" if score.unit else ""
        axes.axvline(0, color=figures.GREY, linewidth=0.8, zorder=3)
        axes.set_yticks(range(len(chosen)), [names[k] for k in chosen])
        axes.set(ylim=(len(chosen) - 0.4, -0.6), xlabel=f"{score.name} difference{unit}, {over(differences)}")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        left_out = f" ({len(chosen)} of {len(known)} classes)" if len(chosen) < len(known) else ""
        axes.set_title(f"{style.name(row, table.factors)} − {style.name(baseline, table.factors)}{left_out}")
        return figure


def rival(table: Table) -> Row | None:
    """The best row that is compared with another."""
    return style.best(table, [row for row in table.rows if style.reference(table, row) is not None])


def pair(table: Table) -> list[Row]:
    """The best row and what it is compared with."""
    row = rival(table) or style.best(table)
    return [other for other in (row, style.reference(table, row) if row is not None else None) if other is not None]


def over(differences: np.ndarray) -> str:
    """What the bars mean."""
    return f"mean ± sd, {len(differences)} seeds paired" if len(differences) > 1 else "one run each"


def shared_curve(runs: Sequence[Run], key: str) -> tuple[np.ndarray, np.ndarray] | None:
    """The runs' curves of ``key`` on the steps that all have: steps [T], values [S, T]; None if a run has none."""
    curves = [run.curve(key) for run in runs]
    if not curves or any(not steps for steps, _ in curves):
        return None
    low, high = max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves)
    grid = np.array(sorted({step for steps, _ in curves for step in steps if low <= step <= high}))
    if not len(grid):
        return None
    return grid, np.stack([np.interp(grid, steps, values) for steps, values in curves])


def smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Running mean of [S, T] over ``width`` points, over fewer at the ends; NaN spreads."""
    if width < 2:
        return values
    kernel = np.ones(width)
    count = np.convolve(np.ones(values.shape[1]), kernel, "same")
    return np.stack([np.convolve(row, kernel, "same") / count for row in values])


def curves(table: Table, keys: Sequence[str] | None = None, rows: Sequence[Row] | None = None) -> Figure:
    """Learning curves, a panel for each key (the training loss and the validation metric unless told): mean over seeds
    with a band of ± sd. With more than seven rows, best and baseline in colour, the others grey.

    Raises:
        ConfigError: no run has such a curve.
    """
    shown = [row for row in (table.rows if rows is None else rows) if row.runs]
    wanted = list(keys) if keys else curve_keys(shown)
    panels = {
        key: [(row, found) for row in shown if (found := shared_curve(row.runs, key)) is not None] for key in wanted
    }
    panels = {key: lines for key, lines in panels.items() if lines}
    if not panels:
        raise ConfigError(
            f"no run has a curve of {' or '.join(wanted) or 'a loss or metric'} — expected in metrics.csv"
        )
    coloured = shown if len(shown) <= len(figures.COLOURS) else pair(table)
    with figures.house():
        figure = figures.figure(figures.PAGE if len(panels) > 1 else figures.COLUMN, 2.9)
        for axes, (key, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
            draw(axes, table, key, lines, coloured)
        named = {text: h for axes in figure.axes for h, text in zip(*axes.get_legend_handles_labels(), strict=True)}
        style.legend_below(figure, list(named.values()), list(named), columns=4 if len(panels) > 1 else 3)
        return figure


def curve_keys(rows: Sequence[Row]) -> list[str]:
    """What there is to show of training and of validation."""

    def has(key: str) -> bool:
        return any(len(run.curve(key)[0]) > 1 for row in rows for run in row.runs)  # one point is no curve

    headline = next((run.known.headline.name for row in rows for run in row.runs), "")
    validation = next((key for key in (f"val/{headline}", "val/loss") if has(key)), None)
    return [key for key in ("train/loss" if has("train/loss") else None, validation) if key]


def draw(
    axes: Axes, table: Table, key: str, lines: list[tuple[Row, tuple[np.ndarray, np.ndarray]]], coloured: list[Row]
) -> None:
    """One panel."""
    axes.grid(axis="y")
    score, width = table.sweep.score(key), 1
    for row, (steps, values) in lines:
        width = len(steps) // 25 if len(steps) >= SMOOTH_FROM else 1
        values = score.scale * smooth(values, width)
        mean = values.mean(0)
        if row not in coloured:
            axes.plot(steps, mean, color=figures.PALE, linewidth=0.8, zorder=1, label="other rows")
            continue
        k = coloured.index(row)
        marker = figures.MARKERS[k] if len(steps) <= 12 else None
        axes.plot(steps, mean, color=figures.COLOURS[k], linestyle=figures.DASHES[k], marker=marker, markersize=3.5,
                  zorder=3, label=style.name(row, table.factors))  # fmt: skip
        if len(values) > 1:
            sd = values.std(0, ddof=1)
            axes.fill_between(steps, mean - sd, mean + sd, color=figures.COLOURS[k], alpha=0.15, linewidth=0, zorder=2)
    axes.set(xlabel="step", ylabel=figures.label(key, score))
    axes.margins(x=0.02)
    notes = [f"running mean of {width}"] if width > 1 else []
    notes += ["band: ± sd over seeds"] if any(len(values) > 1 for _, (_, values) in lines) else []
    axes.set_title(", ".join(notes), fontsize=7, color=figures.GREY)
