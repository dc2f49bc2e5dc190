"""The figure of what accuracy costs."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from seglab import figures
from seglab.errors import ConfigError
from seglab.report.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

    from seglab.report.table import Row, Table

MOST_NAMES = 12
PLACES = (
    (6, 0, "left", "center"), (-6, 0, "right", "center"), (0, 6, "center", "bottom"), (0, -6, "center", "top"),
    (5, 5, "left", "bottom"), (-5, 5, "right", "bottom"), (5, -5, "left", "top"), (-5, -5, "right", "top"),
    (12, 12, "left", "bottom"), (-12, 12, "right", "bottom"), (12, -12, "left", "top"), (-12, -12, "right", "top"),
)  # fmt: skip
"""Where a label may stand by its point, the best first: offset in points, alignment."""


def costs(table: Table) -> tuple[str, dict[int, float]]:
    """What the rows cost, by their index: milliseconds of a forward pass where measured, else GFLOPs; and its name."""
    rows = [(k, row.cost) for k, row in enumerate(table.rows) if row.cost is not None]
    latency = {k: 1000 * cost.latency for k, cost in rows if cost.latency}
    if latency:
        return "forward pass (ms per image)", latency
    return "forward pass (GFLOPs)", {k: cost.gflops for k, cost in rows if cost.gflops}


def front(points: list[tuple[float, float]]) -> list[int]:
    """Which points (cost, gain) no other beats: none is as cheap with more gain; cheapest first."""
    chosen: list[int] = []
    for k in sorted(range(len(points)), key=lambda k: (points[k][0], -points[k][1])):
        if not chosen or points[k][1] > points[chosen[-1]][1]:
            chosen.append(k)
    return chosen


def pareto(table: Table) -> Figure:
    """The metric against the cost of a forward pass: the rows that no other beats are joined, the others are pale.

    Raises:
        ConfigError: fewer than two rows with a known cost.
    """
    label, known = costs(table)
    if len(known) < 2:
        raise ConfigError("a Pareto front needs the cost of two rows or more — leave --no-cost out")
    rows, times = [table.rows[k] for k in known], table.score.scale
    sign = -1 if table.score.lower else 1
    best = front([(x, sign * row.mean) for x, row in zip(known.values(), rows, strict=True)])
    with figures.house():
        figure = figures.figure(figures.COLUMN, 3.2)
        axes = figure.add_subplot()
        axes.grid()
        x, y = list(known.values()), [times * row.mean for row in rows]
        for k, row in enumerate(rows):
            colour = figures.BLUE if k in best else figures.GREY
            axes.errorbar(x[k], y[k], yerr=times * (row.sd or 0), fmt="none", ecolor=colour, elinewidth=0.9, zorder=2)
        rest = [k for k in range(len(rows)) if k not in best]
        axes.step([x[k] for k in best], [y[k] for k in best], where="post", color=figures.BLUE, linewidth=1, zorder=1)
        axes.plot([x[k] for k in best], [y[k] for k in best], "o", color=figures.BLUE, label="Pareto front")
        axes.plot([x[k] for k in rest], [y[k] for k in rest], "o", color=figures.GREY, markerfacecolor="white",
                  label="beaten" if rest else None)  # fmt: skip
        axes.set(xlabel=label, ylabel=f"{figures.label(table.metric, table.score)}, {style.seeds(rows)}")
        axes.margins(x=0.18, y=0.14)
        handles, labels = axes.get_legend_handles_labels()
        style.legend_below(figure, handles, labels)
        annotate(axes, table, rows, x, y, best)
        return figure


def annotate(axes: Axes, table: Table, rows: list[Row], x: list[float], y: list[float], best: list[int]) -> None:
    """Name the points, each where its name covers least of what is drawn; of many only the front and the baseline."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import Bbox

    canvas = FigureCanvasAgg(axes.figure)  # type: ignore[arg-type]
    canvas.draw()  # the layout is known after it
    centres = [tuple(point) for point in axes.transData.transform(list(zip(x, y, strict=True)))]
    reach = 4 * axes.figure.dpi / 72
    taken = [Bbox.from_extents(a - reach, b - reach, a + reach, b + reach) for a, b in centres]
    for row, a in zip(rows, x, strict=True):  # the error bars
        ends = [table.score.scale * (row.mean + sign * (row.sd or 0)) for sign in (-1, 1)]
        (c, low), (_, high) = axes.transData.transform([(a, end) for end in ends])
        taken.append(Bbox.from_extents(c - 2, low, c + 2, high))
    for (a, b), (c, d) in itertools.pairwise(centres[k] for k in best):  # the steps between front points
        taken += [Bbox.from_extents(a, b - 2, c, b + 2), Bbox.from_extents(c - 2, b, c + 2, d)]
    for k, row in enumerate(rows):
        if len(rows) > MOST_NAMES and k not in best and not style.is_baseline(table, row):
            continue
        text = axes.annotate(
            style.name(row, table.factors),
            (x[k], y[k]),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=7,
            zorder=5,
        )
        tried: list[tuple[float, int, Bbox]] = []
        for place, (dx, dy, ha, va) in enumerate(PLACES):
            text.set(position=(dx, dy), ha=ha, va=va)
            box = text.get_window_extent(canvas.get_renderer())
            outside = axes.bbox.count_contains(box.corners()) < 4
            covered = sum(area(box, other) for j, other in enumerate(taken) if j != k)
            tried.append((covered + 1e4 * outside, place, box))
        _, place, box = min(tried, key=lambda entry: entry[:2])
        dx, dy, ha, va = PLACES[place]
        text.set(position=(dx, dy), ha=ha, va=va, in_layout=False)
        taken.append(box)


def area(one: Bbox, other: Bbox) -> float:
    """Of the overlap of two boxes."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return width * height if width > 0 and height > 0 else 0.0
