"""Figures of what was varied: along a number, by name, and two factors at once."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

from seglab import figures
from seglab.errors import ConfigError
from seglab.report.collect import written
from seglab.report.plots import style
from seglab.report.table import full_key, grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from seglab.report.table import Row, Table
    from seglab.scores import Score

MOST_SERIES = len(figures.COLOURS)


def numeric(table: Table) -> list[str]:
    """The factors that lie on an axis: numbers only, two or more."""
    found = []
    for factor in table.factors:
        values = {row.choice.get(factor) for row in table.rows}
        if len(values) > 1 and all(style.is_number(value) for value in values):
            found.append(factor)
    return found


def logarithmic(factor: str, values: list[float]) -> bool:
    """Whether a swept number is read by its ratio: a temperature, or anything that spans a decade."""
    positive = [value for value in values if value > 0]
    if not positive or min(values) < 0:
        return False
    return factor.rsplit(".", 1)[-1] == "tau" or max(positive) >= 10 * min(positive)


def series(table: Table, factor: str) -> dict[str, list[Row]]:
    """The rows along ``factor``, one series for each choice of the other factors, in the planned order."""
    found: dict[str, list[Row]] = {}
    for row in table.rows:
        key = style.name(row, [other for other in table.factors if other != factor])
        found.setdefault(key, []).append(row)
    return {key: sorted(rows, key=lambda row: place(row, factor)) for key, rows in found.items()}


def place(row: Row, factor: str) -> float:
    """Where a row lies along a factor of numbers."""
    return float(row.choice[factor])  # type: ignore[arg-type]


def swept(table: Table, factor: str | None = None) -> Figure:
    """The metric along a swept number: means with sd as bars, seeds as dots, the baseline and published values marked.

    Raises:
        ConfigError: no factor with numbers, or more series than can be told apart.
    """
    candidates = numeric(table)
    factor = factor or (candidates[0] if candidates else None)
    if factor is None or factor not in candidates:
        raise ConfigError(
            f"{factor or 'no factor'}: not swept over numbers — of {', '.join(table.factors) or 'nothing'}, "
            f"these are: {', '.join(candidates) or 'none'}; plots.variants draws names"
        )
    lines = series(table, factor)
    if len(lines) > MOST_SERIES:
        raise ConfigError(
            f"{len(lines)} lines along {factor} — at most {MOST_SERIES} can be told apart; plots.variants"
        )
    factors = sorted({place(row, factor) for rows in lines.values() for row in rows})
    with figures.house():
        figure = figures.figure(figures.COLUMN, 3.0)
        axes = figure.add_subplot()
        axes.grid(axis="y")
        for k, (name, rows) in enumerate(lines.items()):
            line(axes, table, factor, rows, k, name if len(lines) > 1 else f"ours ({style.seeds(rows)})")
        across(axes, factor, factors)
        axes.set(xlabel=factor, ylabel=figures.label(table.metric, table.score))
        handles, labels = axes.get_legend_handles_labels()
        if len(lines) == 1 and (paper := published(axes, table, factor)) is not None:
            handles, labels = [*handles, paper], [*labels, "published (right axis)"]
        default = table.baseline.choice.get(factor) if table.baseline else None
        if isinstance(default, int | float):
            axes.axvline(default, color=figures.GREY, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
            axes.annotate("baseline", (default, 1), xycoords=("data", "axes fraction"), xytext=(3, -2),
                          textcoords="offset points", va="top", fontsize=7, color=figures.GREY)  # fmt: skip
        style.legend_below(figure, handles, labels, columns=3)
        return figure


def line(axes: Axes, table: Table, factor: str, rows: list[Row], k: int, name: str) -> None:
    """One series."""
    times = table.score.scale
    x = [place(row, factor) for row in rows]
    for here, row in zip(x, rows, strict=True):
        if len(row.values) > 1:
            style.dots(axes, [here] * len(row.values), [times * v for v in row.values], figures.COLOURS[k])
    axes.errorbar(
        x, [times * row.mean for row in rows], [times * (row.sd or 0) for row in rows], capsize=2.5, elinewidth=1,
        color=figures.COLOURS[k], marker=figures.MARKERS[k], linestyle=figures.DASHES[k], markeredgecolor="white",
        markeredgewidth=0.6, markersize=6, zorder=3, label=name,
    )  # fmt: skip


def across(axes: Axes, factor: str, values: list[float]) -> None:
    """The axis of the swept number: ticks at what was tried, by ratio where it spans a decade."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    if logarithmic(factor, values):
        if min(values) > 0:
            axes.set_xscale("log")
        else:
            axes.set_xscale("symlog", linthresh=min(value for value in values if value > 0), linscale=0.5)
        axes.margins(x=0.08)
    if len(values) <= 10:
        axes.xaxis.set_major_locator(FixedLocator(values))
        axes.xaxis.set_major_formatter(FixedFormatter([f"{value:g}" for value in values]))
        axes.xaxis.set_minor_locator(NullLocator())


def published(axes: Axes, table: Table, factor: str) -> Any:
    """The paper's values on an axis of their own that spans as many points as ours; the line, or None."""
    known = [(place(row, factor), row.published) for row in table.rows if row.published is not None]
    about = table.sweep.published
    if not known or about is None or not table.shows_published:
        return None
    known.sort()
    right = axes.twinx()
    right.spines["right"].set(visible=True, color=figures.VERMILION)
    (drawn,) = right.plot(
        *zip(*known, strict=True),
        color=figures.VERMILION,
        linestyle="--",
        marker="D",
        markerfacecolor="white",
        zorder=2,
    )
    lines = [f"published {figures.label(about.metric, table.score)}", about.source, about.setting]
    right.set_ylabel("\n".join(filter(None, lines)), color=figures.VERMILION, fontsize=7)
    right.tick_params(axis="y", color=figures.VERMILION, labelcolor=figures.VERMILION)
    span = 1.05 * max(abs(high - low) for low, high in (axes.get_ylim(), right.get_ylim()))
    for side in (axes, right):
        middle = sum(side.get_ylim()) / 2
        side.set_ylim(middle - span / 2, middle + span / 2)
    return drawn


def variants(table: Table) -> Figure:
    """A line for each row, in the planned order: bar from its baseline to the mean, sd, seeds, difference."""
    rows, score = table.rows, table.score
    times = score.scale
    bases = [row for row in rows if style.is_baseline(table, row)]
    paper = any(row.published is not None for row in rows)
    with figures.house():
        names = [style.name(row, table.factors) for row in rows]
        width = 4.1 + 0.07 * max(map(len, names)) + 0.6 * paper
        figure = figures.figure(min(width, figures.PAGE), 0.95 + 0.27 * len(rows))
        axes = figure.add_subplot()
        axes.grid(axis="x")
        for y, row in enumerate(rows):
            colour = figures.GREY if row in bases else figures.BLUE
            base = style.reference(table, row)
            if base is not None:
                axes.barh(
                    y, times * (row.mean - base.mean), left=times * base.mean, height=0.56, color="#BFD9EC", zorder=2
                )
            axes.errorbar(
                times * row.mean, y, xerr=times * (row.sd or 0), fmt="o", capsize=2.5, elinewidth=1, color=colour,
                markersize=6, markeredgecolor="white", markeredgewidth=0.6, zorder=3,
            )  # fmt: skip
            if len(row.values) > 1:
                style.dots(axes, [times * value for value in row.values], [y] * len(row.values))
        if len(bases) == 1:
            axes.axvline(times * bases[0].mean, color=figures.GREY, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
        axes.set_yticks(range(len(rows)), names)
        axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel=f"{figures.label(table.metric, score)}, {style.seeds(rows)}")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        column(axes, 40, table.metric.rsplit("/", 1)[-1], [style.number(row.mean, score) for row in rows])
        if bases:
            column(axes, 78, "diff.", [difference(row, score) for row in rows])
        if paper:
            values = ["–" if row.published is None else style.shown(row.published, score) for row in rows]
            column(axes, 126 if bases else 88, "published", values, figures.VERMILION)
            figure.supxlabel("published: " + style.source(table), fontsize=6.5, color=figures.GREY)
        return figure


def difference(row: Row, score: Score) -> str:
    """To the row's baseline, as the table has it."""
    return "base" if row.difference is None else style.signed(row.difference, score)


def column(axes: Axes, x: int, heading: str, texts: list[str], colour: str = figures.INK) -> None:
    """Numbers beside the rows, as in a table: they end ``x`` points right of the axes."""
    axes.annotate(heading, (1, 1), xycoords="axes fraction", xytext=(x, 3), textcoords="offset points", ha="right",
                  fontsize=7, color=figures.GREY)  # fmt: skip
    for y, text in enumerate(texts):
        axes.annotate(text, (1, y), xycoords=("axes fraction", "data"), xytext=(x, 0), textcoords="offset points",
                      ha="right", va="center", fontsize=7.5, color=colour, annotation_clip=False)  # fmt: skip


def heatmap(table: Table, rows: str | None = None, columns: str | None = None) -> Figure:
    """Two factors against each other: colour and number are the mean, ± sd below it, best cell bold, baselines framed.

    Raises:
        ConfigError: there are no two such factors, or others vary as well.
    """
    if len(table.factors) < 2 and not (rows and columns):
        raise ConfigError(
            f"a heat map needs two factors, but what varies is {', '.join(table.factors) or 'nothing'} — "
            "plots.variants draws any sweep"
        )
    down = full_key(table.sweep, rows) if rows else next(f for f in table.factors if f != columns)
    along = columns or next(f for f in table.factors if f != down)
    view = grid(table, down, along)
    score, top = table.score, style.best(table)
    times = score.scale
    shades = [[math.nan if row is None else times * row.mean for row in line] for line in view.cells]
    with figures.house():
        figure = figures.figure(1.9 + 0.72 * len(view.column_values), 1.05 + 0.48 * len(view.row_values))
        axes = figure.add_subplot()
        shown = axes.imshow(shades, cmap="cividis_r" if score.lower else "cividis", aspect="auto")
        low, high = shown.get_clim()
        for (i, line), j in itertools.product(enumerate(view.cells), range(len(view.column_values))):
            row = line[j]
            if row is None:
                axes.text(j, i, "–", ha="center", va="center", color=figures.GREY)
                continue
            share = (times * row.mean - low) / ((high - low) or 1)  # the best is bright
            ink = "white" if (1 - share if score.lower else share) < 0.55 else "black"
            spread = f"\n± {style.number(row.sd, score)}" if row.sd is not None else ""
            axes.text(j, i, style.number(row.mean, score) + spread, ha="center", va="center", color=ink,
                      fontsize=7.5, weight="bold" if row is top else "normal", linespacing=1.15)  # fmt: skip
            if style.is_baseline(table, row):
                frame(axes, j, i, ink)
        axes.set_xticks(range(len(view.column_values)), [written(value) for value in view.column_values])
        axes.set_yticks(range(len(view.row_values)), [written(value) for value in view.row_values])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set(xlabel=view.columns, ylabel=view.rows)
        figure.colorbar(shown, label=figures.label(table.metric, score), aspect=18).outline.set_visible(False)
        return figure


def frame(axes: Axes, column: int, row: int, colour: str) -> None:
    """A thin line around a cell."""
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((column - 0.46, row - 0.44), 0.92, 0.88, fill=False, edgecolor=colour, linewidth=1))
