"""How a report's figures name rows and write numbers; how they look is :mod:`seglab.figures`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from seglab.figures import INK
from seglab.report.collect import same, written
from seglab.scores import Score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from seglab.report.table import Row, Table


def short(key: str) -> str:
    """An override key by the part that says something: ``classifier.tau`` -> tau, ``loss.gt.weight`` -> gt.weight."""
    parts = key.split(".")
    return ".".join(parts[-2:]) if parts[-1] in ("weight", "name") and len(parts) > 1 else parts[-1]


def name(row: Row, factors: Sequence[str]) -> str:
    """A row in a line: names by themselves, numbers and switches with their key (``SEPA``; ``ssa, tau=5``)."""
    parts = []
    for factor in factors:
        value = row.choice.get(factor)
        parts.append(value if isinstance(value, str) else f"{short(factor)}={written(value)}")
    return ", ".join(parts) or "all runs"


def is_number(value: object) -> bool:
    """Whether a factor's value lies on an axis; true and false do not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def heading(metric: str, score: Score) -> str:
    """A column's heading: ``test mIoU (%)``, ``test NLL``, whose numbers have their unit behind them."""
    return metric.replace("/", " ") + (" (%)" if score.percent else "")


def number(value: float, score: Score) -> str:
    """A value as it is read: 61.23, 0.4821."""
    return f"{score.scale * value:.{2 if score.percent else 4}f}"


def signed(value: float, score: Score) -> str:
    """A difference, with its sign: +1.23, −0.40."""
    return f"{score.scale * value:+.{2 if score.percent else 4}f}".replace("-", "−")


def shown(value: float, score: Score) -> str:
    """A number that stands as it is read already, such as a paper's: 44.10, 0.4821."""
    return f"{value:.{2 if score.percent else 4}f}"


def unit(score: Score) -> str:
    """What stands behind a number in a column: nothing in percent, which its heading says."""
    return "" if score.percent or not score.unit else f" {score.unit}"


def best(table: Table, rows: Iterable[Row] | None = None) -> Row | None:
    """The row with the best mean, of the whole table unless told; None without any."""
    pick = min if table.score.lower else max
    return pick(table.rows if rows is None else rows, key=lambda row: row.mean, default=None)


def reference(table: Table, row: Row) -> Row | None:
    """The row that ``row`` is compared with: the baseline's choices, otherwise the same; None for a baseline itself."""
    wanted = {**row.choice, **{key: value for key, value in table.compared.items() if key in row.choice}}
    found = (other for other in table.rows if all(same(other.choice[key], value) for key, value in wanted.items()))
    other = next(found, None) if table.baseline is not None else None
    return None if other is row else other


def is_baseline(table: Table, row: Row) -> bool:
    """Whether other rows are compared with this one."""
    return table.baseline is not None and all(same(row.choice.get(k), v) for k, v in table.compared.items())


def seeds(rows: Iterable[Row]) -> str:
    """What an error bar is made of: ``mean ± sd, 3 seeds``."""
    counts = sorted({len(row.values) for row in rows})
    if not counts or counts[-1] == 1:
        return "one run each"
    many = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"mean ± sd, {many} seeds"


def source(table: Table) -> str:
    """Where the published values stand, and what they were measured on; empty without any."""
    about = table.sweep.published
    return ": ".join(filter(None, [about.source, about.setting])) if about is not None else ""


def legend_below(target: Figure, handles: Sequence[Any], labels: Sequence[str], columns: int = 4) -> None:
    """One legend under all axes."""
    if handles:
        target.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(handles)), handlelength=2.2)


def dots(axes: Axes, x: Sequence[float], y: Sequence[float], colour: str = INK, label: str | None = None) -> None:
    """The seeds behind a mean: faint, small, on top."""
    axes.scatter(x, y, s=9, color=colour, alpha=0.45, linewidths=0, zorder=4, label=label)
