"""A sweep's figures, as matplotlib ``Figure`` objects (no pyplot, no display) or as PNG and SVG files.

In a notebook, after ``%matplotlib inline``: ``plots.swept(table)``. Each function says in a ConfigError when a table
has nothing for it to draw.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from seglab import figures
from seglab.errors import ConfigError
from seglab.report.plots.cost import costs, pareto
from seglab.report.plots.factors import MOST_SERIES, heatmap, numeric, series, swept, variants
from seglab.report.plots.runs import class_score, classes, curve_keys, curves, per_class, rival, stage_of
from seglab.runs import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from seglab.report.table import Table

__all__ = ["classes", "curves", "fitting", "heatmap", "make_all", "pareto", "save", "swept", "variants"]

DPI = 200
log = logging.getLogger(__name__)


def fitting(table: Table) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """The figures that a table's factors ask for: file name and what draws it."""
    numbers = [factor for factor in numeric(table) if len(series(table, factor)) <= MOST_SERIES]
    for factor in numbers:
        own = factor.replace("/", "_")  # a file beside the others, whatever the factor's name
        yield ("swept" if len(numbers) == 1 else f"swept_{own}"), lambda factor=factor: swept(table, factor)  # type: ignore[misc]
    if len(table.factors) == 2:
        yield "heatmap", lambda: heatmap(table)
    elif table.factors and not numbers:
        yield "variants", lambda: variants(table)
    row, score, stage = rival(table), class_score(table), stage_of(table.metric)
    if row is not None and score is not None and all(len(per_class(run, score, stage)) for run in row.runs):
        yield "classes", lambda: classes(table)
    if curve_keys(table.rows):
        yield "curves", lambda: curves(table)
    known = costs(table)[1]
    if len(set(known.values())) > 1:  # losses alone cost nothing at test time
        yield "pareto", lambda: pareto(table)


def make_all(table: Table, folder: Path) -> list[Path]:
    """Write every figure that fits as PNG (200 dpi) and SVG; the files, in the order of a report."""
    written: list[Path] = []
    for name, draw in fitting(table):
        try:
            figure = draw()
        except ConfigError as error:  # one figure does not take the others along
            log.warning("%s: not drawn: %s", name, error)
            continue
        written += save(figure, Path(folder) / name)
    return written


def save(figure: Figure, path: Path) -> list[Path]:
    """Write ``path`` with the suffixes .png and .svg, the same bytes for the same figure."""
    files = []
    with figures.house():
        for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
            target = path.with_name(path.name + suffix)  # with_suffix would cut "classifier.tau"
            with atomic.replacing(target) as file:
                figure.savefig(file, format=suffix[1:], dpi=DPI, metadata=metadata)
            files.append(target)
    return files
