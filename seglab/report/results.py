"""The table of a sweep in its report's page."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from html import escape
from typing import TYPE_CHECKING

from seglab.multirun.record import clock
from seglab.report.collect import written
from seglab.report.formats import holm_note, power_note
from seglab.report.markup import Cell, note, number, render
from seglab.report.plots import style
from seglab.report.plots.factors import numeric

if TYPE_CHECKING:
    from seglab.report.table import Row, Table
    from seglab.scores import Score


def results(table: Table) -> str:
    """The table of the sweep; columns of which no row knows anything are left out."""
    score, best = table.score, style.best(table)
    ours = kind(score)
    name = style.heading(table.metric, score)
    columns: list[tuple[str, str, Callable[[Row], Cell]]] = []
    for factor in table.factors:
        sorted_as = "numeric" if factor in numeric(table) else ""
        columns.append((factor, sorted_as, partial(factor_cell, factor=factor)))
    optional: list[tuple[str, Callable[[Row], float | None], Callable[[float], str]]] = [
        ("difference", lambda row: row.difference, lambda v: style.signed(v, score) + escape(style.unit(score))),
        ("p", lambda row: row.p, p_text),
        ("p (Holm)", lambda row: row.p_holm, p_text),
        ("params (M)", lambda row: row.parameters / 1e6 if row.parameters else None, lambda v: f"{v:.2f}"),
        ("GFLOPs", lambda row: row.cost.gflops if row.cost else None, lambda v: f"{v:.1f}"),
        ("latency (ms)", lambda row: 1000 * row.cost.latency if row.cost else None, lambda v: f"{v:.1f}"),
        ("time", lambda row: row.seconds, clock),
    ]
    columns += [(name, ours, lambda row: mean_cell(row, score))]
    columns += [("seeds", "number", lambda row: Cell(str(len(row.values)), len(row.values), "number"))]
    if table.shows_published:
        columns += [(style.heading("published", score), ours, lambda row: published_cell(row, score))]
    for heading, value, text in optional:
        if any(value(row) is not None for row in table.rows):
            sorted_as = ours if heading == "difference" else "number"
            columns.append((heading, sorted_as, partial(number_cell, value=value, text=text)))
    rows = []
    for row in table.rows:
        cells = [cell(row) for _, _, cell in columns] if table.factors else []
        tags = [text for text, holds in (("best", row is best), ("baseline", style.is_baseline(table, row))) if holds]
        if cells:
            first = cells[0]
            cells[0] = Cell(
                first.html + "".join(f'<span class="tag">{t}</span>' for t in tags), first.value, first.kind
            )
        rows.append((" ".join(tags), cells))
    notes = [
        "± is the standard deviation over seeds; time is h:mm:ss of a whole run with validations and test, the median."
        if any(row.sd is not None for row in table.rows)
        else ""
    ]
    if any(row.p is not None for row in table.rows):
        notes += ["p: paired t test over the seeds that a row shares with its baseline, uncorrected."]
    if any(row.p_holm is not None for row in table.rows):
        notes += [holm_note(table)]
    notes += [power_note(table)]
    if source := style.source(table):
        notes += [f"Published: {source}{'' if table.shows_published else ' (of another metric)'}."]
    return render([column[:2] for column in columns], rows, "Results") + "".join(map(note, notes))


def kind(score: Score) -> str:
    """CSS classes of a heading with that score below it: where less is better, the smallest is sorted first."""
    return "number less" if score.lower else "number"


def p_text(p: float) -> str:
    """Two digits that mean something, as HTML."""
    return f"{p:.3f}" if p >= 0.001 else "&lt; 0.001"


def number_cell(row: Row, value: Callable[[Row], float | None], text: Callable[[float], str]) -> Cell:
    """A number of a row."""
    return number(value(row), text)


def factor_cell(row: Row, factor: str) -> Cell:
    """What a row chose."""
    text = written(row.choice.get(factor))
    return Cell(escape(text), text)


def published_cell(row: Row, score: Score) -> Cell:
    """The paper's number, or that it has none."""
    if row.published is None:
        return Cell('<span class="sd">not published</span>', None, "number")
    return Cell(style.shown(row.published, score) + escape(style.unit(score)), row.published, "number")


def mean_cell(row: Row, score: Score) -> Cell:
    """Mean and sd."""
    spread = f' <span class="sd">± {style.number(row.sd, score)}</span>' if row.sd is not None else ""
    return Cell(style.number(row.mean, score) + spread + escape(style.unit(score)), row.mean, "number value")
