"""Reading and drawing what :class:`seglab.callbacks.prototype_report.PrototypeReport` leaves in a run folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seglab.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Report = dict[str, Any]

FOLDER = "insight"
SHOWN = ("static", "semantic", "spatial", "adapted", "oracle")
"""Kinds of prototypes that are drawn, in this order, where a report has them."""
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#E69F00", "#009E73", "#CC79A7"  # Okabe, Ito


def read(run: str | Path, stage: str = "val") -> tuple[Report, Report]:
    """A run's first and last report of one stage.

    Raises:
        ConfigError: no folder, no report, or one that cannot be read.
    """
    folder = Path(run)
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder — expected a run trained with callbacks=prototype_report")
    paths = sorted((folder / FOLDER).glob(f"prototypes_{stage}_*.json"), key=lambda path: (len(path.name), path.name))
    if not paths:
        raise ConfigError(
            f"{folder / FOLDER} has no prototypes_{stage}_*.json — expected a run trained with "
            "callbacks=prototype_report"
        )
    return load(paths[0]), load(paths[-1])


def load(path: Path) -> Report:
    """One report; ConfigError where the file is none."""
    try:
        report = json.loads(path.read_text())
        for kind in report["kinds"].values():
            kind["similarity"] = np.asarray(kind["similarity"], float)
            if kind["similarity"].shape != (len(report["classes"]),) * 2:
                raise ValueError("a matrix that does not fit the classes")
        int(report["step"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is no prototype report ({error!r}) — expected what callbacks=prototype_report writes; "
            "delete the file"
        ) from error
    return report


def off_diagonal(matrix: Any) -> Any:
    """The entries of a square matrix (tensor or array) between different classes."""
    return matrix[~np.eye(len(matrix), dtype=bool)]


def to_others(matrix: Any) -> np.ndarray:
    """Mean over the other classes, by class; NaN where there is none."""
    values = np.asarray(matrix, float)
    with np.errstate(invalid="ignore"):
        return (values.sum(1) - np.diag(values)) / np.float64(len(values) - 1)


def shared(*reports: Report) -> list[str]:
    """Kinds of prototypes that all reports have, of those that are drawn."""
    return [kind for kind in SHOWN if all(kind in report["kinds"] for report in reports)]


def comparison(a: Report, b: Report, names: tuple[str, str]) -> Figure:
    """A row for each kind of prototypes: A, B, B - A."""
    kinds = shared(a, b)
    figure, panels = sheet(len(kinds), 3, len(a["classes"]))
    for kind, row in zip(kinds, panels, strict=True):
        before, after = (report["kinds"][kind]["similarity"] for report in (a, b))
        limits = span([before, after])
        for matrix, name, report, axes in zip((before, after), names, (a, b), row[:2], strict=True):
            title = f"{kind}, {name} (step {report['step']})"
            shown = heat(axes, matrix, a["classes"], title, limits, last=kind == kinds[-1], first=axes is row[0])
        figure.colorbar(shown, ax=row[:2].tolist(), label="cosine", shrink=0.8, aspect=30, pad=0.01)
        difference = after - before
        bound = max(float(np.abs(off_diagonal(difference)).max(initial=0)), 1e-3)
        title = f"{kind}, {names[1]} − {names[0]}"
        shown = heat(axes := row[2], difference, a["classes"], title, (-bound, bound), kind == kinds[-1], False, "PuOr")
        figure.colorbar(shown, ax=axes, label="difference of cosines", shrink=0.8, aspect=30, pad=0.02)
    return figure


def overview(first: Report, last: Report) -> Figure:
    """Movement by class at the last report, where anything moves; beside it the similarities at the first and last."""
    rows = [first, last] if first["step"] < last["step"] else [last]
    kinds, moved = shared(*rows), "adapted" in last["kinds"]
    figure, panels = sheet(len(rows), len(kinds), len(last["classes"]), bars=moved)
    limits = span([report["kinds"][kind]["similarity"] for report in rows for kind in kinds])
    for report, row in zip(rows, panels, strict=True):
        for kind, axes in zip(kinds, row, strict=True):
            title = f"{kind}, {report['stage']} at step {report['step']}"
            shown = heat(
                axes,
                report["kinds"][kind]["similarity"],
                last["classes"],
                title,
                limits,
                report is last,
                axes is row[0],
            )
    label = "cosine between prototypes of two classes" + (", mean over images" if moved else "")
    figure.colorbar(shown, ax=panels.ravel().tolist(), label=label, shrink=0.7, aspect=35, pad=0.01)
    if moved:
        movement(figure, figure.axes[0], first if len(rows) > 1 else None, last)
    return figure


def movement(figure: Figure, axes: Axes, first: Report | None, last: Report) -> None:
    """Bars of 1 - cosine by class, the farthest on top, with the standard deviation over images."""
    seen = last["kinds"]["adapted"]["present"]
    far = numbers(seen["distance_mean"])
    order = [int(k) for k in np.argsort(far) if np.isfinite(far[k])]
    y = np.arange(len(order))
    deviation = np.nan_to_num(numbers(seen["distance_sd"]))
    axes.barh(
        y, far[order], xerr=deviation[order], color=BLUE, height=0.62, label="adapted, mean ± sd",
        error_kw={"ecolor": "black", "elinewidth": 0.9, "capsize": 2},
    )  # fmt: skip
    if first is not None:
        before = numbers(first["kinds"]["adapted"]["present"]["distance_mean"])
        axes.plot(
            before[order], y, "o", color="white", markeredgecolor="black", markersize=6,
            label=f"adapted at step {first['step']}",
        )  # fmt: skip
    markers = {"oracle": ("D", ORANGE), "semantic": ("^", GREEN), "spatial": ("s", PURPLE)}
    for kind, (marker, colour) in markers.items():
        if kind in last["kinds"]:
            values = numbers(last["kinds"][kind]["present"]["distance_mean"])
            name = f"{kind}, from its basis" if last["kinds"][kind]["reference"] == "basis" else kind
            axes.plot(
                values[order], y, marker, color=colour, markeredgecolor="black", markeredgewidth=0.6, markersize=5.5,
                label=name,
            )  # fmt: skip
    counts = seen["images"] if "images" in seen else seen["pictures"]  # "pictures": a report of an earlier version
    letters = font_size(0.8 * figure.get_figheight(), len(order))
    axes.set_yticks(y, [f"{last['classes'][k]} ({counts[k]})" for k in order], fontsize=letters)
    axes.set_ylim(-0.6, max(len(order), 1) - 0.4)
    axes.set_xlim(left=0)
    axes.set_xlabel("distance to the static prototype, 1 − cosine", fontsize=9)
    absent = len(far) - len(order)
    note = f"\n{absent} classes that do not occur are left out" if absent else ""
    title = f"{last['classifier']}, {last['stage']} at step {last['step']} (images with the class){note}"
    axes.set_title(title, fontsize=9)
    axes.grid(axis="x", color="0.85", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    bars_first = [len(handles) - 1, *range(len(handles) - 1)]
    figure.legend(
        [handles[i] for i in bars_first], [labels[i] for i in bars_first], loc="outside lower left", ncols=3,
        frameon=False,
    )  # fmt: skip


def numbers(values: Sequence[float | None]) -> np.ndarray:
    """A list of a report; null is NaN."""
    return np.asarray([np.nan if value is None else value for value in values], float)


def span(matrices: Sequence[np.ndarray]) -> tuple[float, float]:
    """Least and largest similarity between different classes."""
    values = np.concatenate([off_diagonal(matrix) for matrix in matrices])
    values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if len(values) else (-1.0, 1.0)


def panel(classes: int) -> float:
    """Side of a K x K matrix on paper, in inches."""
    return float(np.clip(0.23 * classes, 2.6, 9.0))


def font_size(inches: float, rows: int) -> float:
    """Points of text that fit as many rows into a height."""
    return float(np.clip(0.8 * 72 * inches / max(rows, 1), 3.0, 8.5))


def sheet(rows: int, columns: int, classes: int, bars: bool = False) -> tuple[Figure, np.ndarray]:
    """A figure with a grid of square panels for K x K matrices; with ``bars``, its first axes are a column for them."""
    from matplotlib.figure import Figure

    side = panel(classes)
    names, column = 1.3, 4.2
    width = columns * (side + 0.35) + names + 1.2 + (column + names) * bars
    height = rows * (side + 0.6) + names + 0.5 * bars
    figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
    grid = figure.add_gridspec(rows, columns + bars, width_ratios=[*([column] * bars), *([side] * columns)])
    if bars:
        figure.add_subplot(grid[:, 0])
    panels = [[figure.add_subplot(grid[row, bars + column]) for column in range(columns)] for row in range(rows)]
    return figure, np.array(panels, object)


def heat(
    axes: Axes,
    matrix: np.ndarray,
    classes: Sequence[str],
    title: str,
    limits: tuple[float, float],
    last: bool,
    first: bool,
    colours: str = "viridis",
) -> Any:
    """One matrix; the diagonal, which is always 1, is grey. Names stand at the ``first`` column and ``last`` row."""
    from matplotlib import colormaps

    hidden = np.ma.masked_array(matrix, np.eye(len(matrix), dtype=bool))
    shown = axes.imshow(hidden, cmap=colormaps[colours].with_extremes(bad="0.82"), vmin=limits[0], vmax=limits[1])
    letters = font_size(panel(len(matrix)), len(matrix))
    for axis, wanted in ((axes.yaxis, first), (axes.xaxis, last)):
        axis.set_ticks(range(len(classes)), classes if wanted else [], fontsize=letters)
        axis.set_tick_params(length=2 if wanted else 0)
    axes.tick_params(axis="x", rotation=90)
    axes.set_title(f"{title}\nmean {off_diagonal(matrix).mean():.3f}", fontsize=9)
    return shown
