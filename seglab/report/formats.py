"""A table as text: rich for a terminal, Markdown, LaTeX (booktabs), CSV and JSON.

The first three are read by people: percent with two decimals, the best mean bold. CSV and JSON are read by programs:
fractions at full precision, under names that say so.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from seglab.report import power
from seglab.report.collect import same
from seglab.report.plots import style
from seglab.report.table import said

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from seglab.report.table import Grid, Row, Table
    from seglab.scores import Score

Number = TypeVar("Number", int, float)

NONE = "–"
NOT_PUBLISHED = "not published"


@dataclass(frozen=True)
class Cells:
    """What people read, before a format's own signs."""

    headings: list[str]
    left: int
    """How many of the first columns are words, aligned to the left."""
    rows: list[list[str]]
    bold: tuple[int, int] | None
    """Row and column of the best value."""


def cells(table: Table) -> Cells:
    """One row a choice; columns of which nothing is known are left out."""
    score, top = table.score, style.best(table)
    columns: list[tuple[str, list[str]]] = [
        (factor, [style.written(row.choice[factor]) for row in table.rows]) for factor in table.factors
    ]
    left = len(columns)
    columns.append((style.heading(table.metric, score), [mean_sd(row, score) for row in table.rows]))
    columns.append(("n", [str(len(row.values)) for row in table.rows]))
    if any(row.difference is not None for row in table.rows):
        columns.append(("difference", [difference(row, score) for row in table.rows]))
    if any(row.p is not None for row in table.rows):
        columns.append(("p", [p_value(row.p) for row in table.rows]))
    if any(row.p_holm is not None for row in table.rows):
        columns.append(("p (Holm)", [p_value(row.p_holm) for row in table.rows]))
    if table.shows_published:
        columns.append(("published", [published(row, score) for row in table.rows]))
    if any(row.parameters is not None for row in table.rows):
        columns.append(
            ("parameters, M", [NONE if r.parameters is None else f"{r.parameters / 1e6:.2f}" for r in table.rows])
        )
    if any(row.cost is not None for row in table.rows):
        costs = [row.cost for row in table.rows]
        columns.append(("GFLOPs", [NONE if cost is None else f"{cost.gflops:.2f}" for cost in costs]))
        columns.append(("forward, ms", [NONE if cost is None else f"{1000 * cost.latency:.1f}" for cost in costs]))
    if any(row.seconds is not None for row in table.rows):
        columns.append(("time, s", [NONE if row.seconds is None else f"{row.seconds:.0f}" for row in table.rows]))
    best = next((k for k, row in enumerate(table.rows) if row is top), None) if len(table.rows) > 1 else None
    rows = [list(row) for row in zip(*(values for _, values in columns), strict=True)]
    return Cells([heading for heading, _ in columns], left, rows, None if best is None else (best, left))


def grid_cells(table: Table, grid: Grid) -> Cells:
    """Mean ± sd at every crossing; a number of runs stands where it is not everybody's."""
    top, counts = style.best(table), [len(row.values) for row in table.rows]
    usual = max(counts)
    rows, bold = [], None
    for i, (value, line) in enumerate(zip(grid.row_values, grid.cells, strict=True)):
        texts = [style.written(value)]
        for j, row in enumerate(line):
            few = f" (n={len(row.values)})" if row is not None and len(row.values) != usual else ""
            texts.append(NONE if row is None else mean_sd(row, table.score) + few)
            if row is not None and row is top and len(table.rows) > 1:
                bold = i, j + 1
        rows.append(texts)
    corner = f"{grid.rows} \\ {grid.columns}"
    return Cells([corner, *map(style.written, grid.column_values)], 1, rows, bold)


def mean_sd(row: Row, score: Score) -> str:
    """``61.23 ± 0.40``, ``0.4821 ± 0.0100 nats``; one run has no sd."""
    spread = "" if row.sd is None else f" ± {style.number(row.sd, score)}"
    return style.number(row.mean, score) + spread + style.unit(score)


def difference(row: Row, score: Score) -> str:
    """To the baseline, with its sign."""
    return NONE if row.difference is None else style.signed(row.difference, score) + style.unit(score)


def p_value(p: float | None) -> str:
    """Two digits that mean something."""
    if p is None:
        return NONE
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def published(row: Row, score: Score) -> str:
    """The paper's number, as the metric is shown."""
    return NOT_PUBLISHED if row.published is None else style.shown(row.published, score) + style.unit(score)


def caption(table: Table) -> str:
    """What the table is about, in a line."""
    return f"{table.sweep.title} ({table.sweep.dataset}, {style.heading(table.metric, table.score)})"


def footnotes(table: Table, content: Cells | None = None) -> list[str]:
    """How the shown numbers came about."""
    shown = (content or cells(table)).headings
    least = "; less is better" if table.score.lower else ""
    name = style.heading(table.metric, table.score)
    lines = [f"{name}: mean ± sample standard deviation over seeds; n runs{least}."]
    if len({len(row.values) for row in table.rows}) > 1:
        lines.append("The rows have different numbers of runs (n).")
    if "difference" in shown:
        rest = [factor for factor in table.factors if factor not in table.compared]
        within = f", at the same {' and '.join(rest)}" if rest else ""
        where = "mean of the differences at the seeds that both have"
        lines.append(f"difference: to {said(table.compared)}{within}; {where}.")
    if "p" in shown and any(row.p is not None for row in table.rows):  # a factor may be called p
        lines.append(
            "p: paired t test over the common seeds, two-sided, uncorrected; with three seeds it has little power, and "
            "a large p is no evidence that rows are equal."
        )
        if "p (Holm)" in shown:
            lines.append(holm_note(table))
        lines.append(power_note(table))
    paper = table.sweep.published
    if paper is not None and "published" in shown:
        about = ", ".join(filter(None, [paper.source, paper.setting or "model and data set not stated"]))
        known = any(row.published is not None for row in table.rows)
        ours = f"ours are on {table.sweep.dataset}: compare the order of the rows, not their size"
        lines.append(
            f"published: {paper.metric}{f' in {sign}' if (sign := table.score.sign) else ''}, {about}; "
            f"{ours if known else 'no numbers for these rows are known'}."
        )
    if "time, s" in shown:
        lines.append("time: of a whole run with its validations and test, median over the seeds.")
    settings = list(dict.fromkeys(row.cost.setting for row in table.rows if row.cost is not None and row.cost.setting))
    return lines + [f"GFLOPs and forward: {setting}." for setting in settings if "GFLOPs" in shown]


def holm_note(table: Table) -> str:
    """What the adjusted p is."""
    count = sum(row.p_holm is not None for row in table.rows)
    return (
        f"p (Holm): p corrected for the {count} comparisons of this table (Holm 1979); below 0.05, chance alone would "
        "give such a row in at most one table of twenty."
    )


def power_note(table: Table) -> str:
    """Which differences the present seeds detect, and how many seeds those seen would take; empty without any p."""
    tested = [row for row in table.rows if row.p is not None]
    if not tested:
        return ""
    score = table.score
    pairs = span([row.pairs for row in tested], str)
    least = span(
        [found for row in tested if (found := row.detectable_difference) is not None], lambda v: style.number(v, score)
    )
    needed = span(
        [row.seeds_needed or power.MOST_SEEDS + 1 for row in tested],
        lambda count: str(count) if count <= power.MOST_SEEDS else f"more than {power.MOST_SEEDS}",
    )
    unit = " points" if score.percent else style.unit(score)
    alone = " (before Holm's correction)" if any(row.p_holm is not None for row in tested) else ""
    by_row, seen = (", depending on the row", "differences") if len(tested) > 1 else ("", "a difference")
    return (
        f"power: with the {pairs} common seeds, a single comparison{alone} at level {power.ALPHA} detects with "
        f"probability {power.POWER} a true difference of at least {least}{unit}{by_row}; {seen} of the size seen would "
        f"take {needed} seeds. Both are estimates from these seeds: plan with the smallest difference that matters."
    )


def span(values: Sequence[Number], text: Callable[[Number], str]) -> str:
    """``3``, or ``3 to 12`` where the values are written differently."""
    return " to ".join(dict.fromkeys((text(min(values)), text(max(values)))))


def missing(table: Table) -> list[str]:
    """What is not in the numbers: problems, and jobs that are not done."""
    lines = [*table.sweep.problems, *table.notes]
    return lines + [f"{name}: {why}" for name, why in table.sweep.unfinished]


def markdown(table: Table, content: Cells | None = None) -> str:
    """A GitHub table with its footnotes."""
    content = content or cells(table)

    def line(values: Sequence[str]) -> str:
        return "| " + " | ".join(values) + " |"

    def safe(text: str) -> str:
        return re.sub(r"([|\\`*_<>\[\]])", r"\\\1", text).replace("\n", " ")

    rows = [[safe(value) for value in row] for row in content.rows]
    if content.bold:
        i, j = content.bold
        rows[i][j] = f"**{rows[i][j]}**"
    aligned = ["---"] * content.left + ["---:"] * (len(content.headings) - content.left)
    lines = [f"**{safe(caption(table))}**", "", line([safe(h) for h in content.headings]), line(aligned)]
    lines += [line(row) for row in rows]
    lines += ["", *(f"- {safe(note)}" for note in footnotes(table, content))]
    if left_out := missing(table):
        lines += ["", "Not in the table:", "", *(f"- {safe(note)}" for note in left_out)]
    return "\n".join(lines) + "\n"


LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "±": r"$\pm$", "−": "$-$", "–": "--", '"': "''", "\n": " ",
})  # fmt: skip


def latex(table: Table, content: Cells | None = None) -> str:
    r"""A ``table`` for a paper; it needs ``\usepackage{booktabs}``, and more only for names that are not ASCII."""
    content = content or cells(table)
    rows = [[value.translate(LATEX) for value in row] for row in content.rows]
    if content.bold:
        i, j = content.bold
        rows[i][j] = rf"\textbf{{{rows[i][j]}}}"
    notes = " ".join(note.translate(LATEX) for note in footnotes(table, content))
    comments = [f"% not in the table: {' '.join(line.split())}" for line in missing(table)]
    return "\n".join([
        r"% needs \usepackage{booktabs}", *comments,
        r"\begin{table}", r"\centering", rf"\caption{{{caption(table).translate(LATEX)}. {notes}}}",
        rf"\begin{{tabular}}{{{'l' * content.left}{'r' * (len(content.headings) - content.left)}}}", r"\toprule",
        " & ".join(heading.translate(LATEX) for heading in content.headings) + r" \\", r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule", r"\end{tabular}", r"\end{table}",
    ]) + "\n"  # fmt: skip


def rich(table: Table, content: Cells | None = None) -> RichTable:
    """For a terminal."""
    from rich.table import Table as RichTable
    from rich.text import Text

    content = content or cells(table)
    shown = RichTable()
    for k, heading in enumerate(content.headings):
        # A unit goes below its name: tables with every column are to fit a width of 120.
        broken = heading.replace(", ", ",\n").replace(" (", "\n(")
        shown.add_column(Text(broken), justify="left" if k < content.left else "right", no_wrap=k >= content.left)
    for i, row in enumerate(content.rows):
        shown.add_row(*(Text(value, "bold" if (i, j) == content.bold else "") for j, value in enumerate(row)))
    return shown


def records(table: Table) -> list[dict[str, Any]]:
    """The rows for programs: fractions, seconds, counts; None where something is not known."""
    found, score = [], table.score
    for row in table.rows:
        cost = row.cost
        found.append({
            **row.choice, "metric": table.metric, "direction": score.direction, "unit": score.unit,
            "mean": row.mean, "sd": row.sd, "n": len(row.values),
            "seeds": [run.seed for run in row.runs], "values": list(row.values), "is_baseline": is_baseline(table, row),
            "difference": row.difference, "p": row.p, "p_holm": row.p_holm, "pairs": row.pairs,
            "difference_sd": row.difference_sd, "detectable_difference": row.detectable_difference,
            "seeds_needed": row.seeds_needed, "published": row.published,
            "published_percent": row.published if score.percent else None,
            "parameters": row.parameters, "gflops": cost and cost.gflops, "forward_seconds": cost and cost.latency,
            "run_seconds": row.seconds, "folders": [run.folder.name for run in row.runs],
        })  # fmt: skip
    return found


def is_baseline(table: Table, row: Row) -> bool:
    """Whether other rows are compared with this one."""
    return bool(table.compared) and all(same(row.choice.get(k, v), v) for k, v in table.compared.items())


def csv_text(table: Table) -> str:
    """One line a row; lists are joined by semicolons, and what is not known is empty."""
    lines = records(table)
    file = io.StringIO()
    writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    for line in lines:
        writer.writerow({key: ";".join(map(str, v)) if isinstance(v, list) else v for key, v in line.items()})
    return file.getvalue()


def json_text(table: Table) -> str:
    """The rows and everything around them."""
    sweep, paper = table.sweep, table.sweep.published
    settings = dict.fromkeys(row.cost.setting for row in table.rows if row.cost is not None)
    rows = [{"choice": row.choice} | {k: v for k, v in line.items() if k not in row.choice}
            for row, line in zip(table.rows, records(table), strict=True)]  # fmt: skip
    content = {
        "format": 1, "title": sweep.title, "dataset": sweep.dataset, "metric": table.metric, "factors": table.factors,
        "score": table.score.record(),
        "compared_with": table.compared or None, "rows": rows,
        "test": {
            "name": "paired t, two-sided", "correction": "Holm",
            "comparisons": sum(row.p is not None for row in table.rows),
            "alpha": power.ALPHA, "power": power.POWER, "most_seeds": power.MOST_SEEDS,
        },
        "published": paper and {"source": paper.source, "setting": paper.setting, "metric": paper.metric},
        "cost_setting": list(settings), "unfinished": [{"folder": n, "why": why} for n, why in sweep.unfinished],
        "problems": [*sweep.problems, *table.notes],
    }  # fmt: skip
    return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
