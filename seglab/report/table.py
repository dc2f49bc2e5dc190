"""A sweep as rows: one for each choice, over its seeds, against a baseline and a paper's numbers."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seglab.errors import ConfigError
from seglab.multirun import record
from seglab.multirun.record import is_number, shown
from seglab.report import power
from seglab.report import statistics as over_seeds
from seglab.report.collect import Run, Scalar, Sweep, same, written
from seglab.report.cost import Cost
from seglab.scores import Score, name_of

NOT_MIXED = (*record.WITHOUT_EFFECT, "seed", "callbacks")
"""Keys in which a row's runs may differ."""


@dataclass(frozen=True)
class Row:
    """One choice."""

    choice: dict[str, Scalar]
    """The table's factors."""
    runs: tuple[Run, ...]
    """By seed; those that have the metric."""
    values: tuple[float, ...]
    """The metric of every run; fractions where it is shown in percent."""
    mean: float
    sd: float | None
    """Sample standard deviation; None for one run."""
    difference: float | None
    """To the baseline, at the seeds that both have (of the means where they share none); None for the baseline."""
    p: float | None
    """Two-sided, of the paired t test over the common seeds."""
    p_holm: float | None
    """p adjusted for the number of comparisons in the table; None where this row's is the only one."""
    difference_sd: float | None
    """Sample standard deviation of the differences at the common seeds; None for fewer than two."""
    pairs: int
    """Number of common seeds."""
    published: float | None
    """As the metric is shown: percent of a fraction, else a number in its unit."""
    parameters: int | None
    cost: Cost | None
    seconds: float | None
    """A whole run, median over the runs."""

    @property
    def seeds_needed(self) -> int | None:
        """Common seeds that would detect a true difference of the size seen; None without p or above MOST_SEEDS."""
        if self.p is None or self.difference is None or self.difference_sd is None:
            return None
        return power.seeds_needed(self.difference, self.difference_sd)

    @property
    def detectable_difference(self) -> float | None:
        """The smallest true difference that the present common seeds would detect, unsigned; None without p."""
        if self.p is None or self.difference_sd is None:
            return None
        return power.detectable_effect(self.pairs) * self.difference_sd


@dataclass(frozen=True)
class Table:
    """The rows of a sweep for one metric."""

    sweep: Sweep
    metric: str
    factors: tuple[str, ...]
    """What varies between the rows; all that was planned where there is only one row."""
    rows: tuple[Row, ...]
    baseline: Row | None
    """What the rows are compared with; the first, where each choice of other factors has its own."""
    compared: dict[str, Scalar]
    """The baseline's choices; a row is compared with the row that has these and is otherwise the same."""
    notes: tuple[str, ...] = ()
    """What a reader should know: runs left out, rows whose runs differ in more than the seed."""

    @property
    def score(self) -> Score:
        """Direction and unit of the metric."""
        return self.sweep.score(self.metric)

    @property
    def shows_published(self) -> bool:
        """Whether a paper's numbers are of this metric."""
        return self.sweep.published is not None and self.metric.rsplit("/", 1)[-1] == self.sweep.published.metric


@dataclass(frozen=True)
class Grid:
    """A table by two factors."""

    rows: str
    columns: str
    row_values: list[Scalar]
    column_values: list[Scalar]
    cells: list[list[Row | None]]
    """[row value][column value]; None where no run is finished."""


def make(
    sweep: Sweep,
    metric: str | None = None,
    baseline: Mapping[str, Scalar] | None = None,
    costs: Mapping[Path, Cost] | None = None,
    remarks: Sequence[str] = (),
) -> Table:
    """The table of a sweep.

    Args:
        metric: a key of ``metrics.json`` whose value is a number; None: the headline of the runs, tested.
        baseline: choices to compare with, by a factor's key or its last part; else the sweep's own, ``linear`` or
            ``baseline`` where a factor has it, the first row.
        costs: by run folder, from :func:`seglab.report.cost.measure`.
        remarks: what that function could not measure, to stand under the table.

    Raises:
        ConfigError: no run has the metric, the runs differ in its direction or unit, or no row is the baseline that
            was asked for.
    """
    metric = metric or sweep.metric
    having, notes = with_metric(sweep, metric)
    groups = list(grouped(sweep, having))
    varying = tuple(key for key in sweep.factors if any(not same(c.get(key), groups[0][0].get(key)) for c, _ in groups))
    factors = varying or tuple(sweep.factors)
    compared, more = choose_baseline(sweep, [choice for choice, _ in groups], baseline)
    rows, base = [], None
    for choice, runs in groups:
        values = tuple(float(run.metrics[metric]) for run in runs)
        row = Row(
            {key: choice.get(key) for key in factors}, runs, values, over_seeds.mean(values), over_seeds.sd(values),
            None, None, None, None, 0, published(sweep, metric, choice), parameters(runs),
            (costs or {}).get(runs[0].folder), median([run.seconds for run in runs]),
        )  # fmt: skip
        theirs = match(groups, {**choice, **compared}) if compared is not None else None
        if theirs is not None and theirs is not runs:
            row = against(row, theirs, metric)
        elif theirs is not None and base is None:
            base = row
        rows.append(row)
        notes += mixed(row)
    return Table(sweep, metric, factors, corrected(rows), base, compared or {}, (*more, *notes, *remarks))


def with_metric(sweep: Sweep, metric: str) -> tuple[list[Run], list[str]]:
    """The runs that have a number under ``metric``, and a line for each that has not.

    Raises:
        ConfigError: none has, or the runs differ in what it is.
    """
    having = [run for run in sweep.runs if is_number(run.metrics.get(metric))]
    if not having:
        known = sorted({key for run in sweep.runs for key, value in run.metrics.items() if is_number(value)})
        raise ConfigError(
            f"{sweep.folder}: no run has a number under {metric!r} in its metrics.json — choose with --metric one of "
            f"{', '.join(known) or 'none: train the runs with test=last'}{instead(metric, known)}"
        )
    kinds = {score: run.folder.name for run in having if (score := run.known.find(metric)) is not None}
    if len(kinds) > 1:
        said = ", ".join(
            f"{'less' if score.lower else 'more'} is better, {score.unit or 'no unit'}: {name}"
            for score, name in kinds.items()
        )
        raise ConfigError(
            f"{sweep.folder}: {metric} is not the same score in all runs ({said}) — one table is about one; collect "
            "the runs of each kind from a folder of their own"
        )
    lacking = [run for run in sweep.runs if not is_number(run.metrics.get(metric))]
    return having, [f"{run.folder.name}: {without(run, metric)}: left out" for run in lacking]


def instead(metric: str, known: Sequence[str]) -> str:
    """The keys of the same score of another split or step."""
    found = [key for key in known if name_of(key) == name_of(metric)]
    return f"; of the same kind: --metric {' or --metric '.join(found)}" if found else ""


def without(run: Run, metric: str) -> str:
    """Why a run has no number of a metric."""
    value = run.metrics.get(metric)
    return f"has no {metric}" if value is None else f"metrics.json: {metric} is {shown(value)} — expected a number"


def grouped(sweep: Sweep, runs: Sequence[Run]) -> Iterator[tuple[dict[str, Scalar], tuple[Run, ...]]]:
    """Choices and their runs by seed, in the order of the factors' values, the first factor slowest."""

    def place(run: Run) -> tuple[int, ...]:
        return tuple(
            next((k for k, value in enumerate(values) if same(value, run.factors.get(key))), len(values))
            for key, values in sweep.factors.items()
        )

    found: dict[tuple[int, ...], list[Run]] = {}
    for run in sorted(runs, key=lambda run: (place(run), run.seed)):
        found.setdefault(place(run), []).append(run)
    for alike in found.values():
        yield dict(alike[0].factors), tuple(alike)


def match(
    groups: Sequence[tuple[dict[str, Scalar], tuple[Run, ...]]], choice: Mapping[str, Scalar]
) -> tuple[Run, ...] | None:
    """The runs of exactly these choices."""
    return next((runs for other, runs in groups if all(same(other.get(key), v) for key, v in choice.items())), None)


def choose_baseline(
    sweep: Sweep, choices: Sequence[dict[str, Scalar]], asked: Mapping[str, Scalar] | None
) -> tuple[dict[str, Scalar] | None, list[str]]:
    """What to compare with, and a line where the sweep's own baseline is not there.

    Raises:
        ConfigError: what was asked for is no row.
    """
    if asked:
        wanted = {full_key(sweep, key): value for key, value in asked.items()}
        if not any(all(same(choice.get(key), value) for key, value in wanted.items()) for choice in choices):
            has = "; ".join(f"{key}: {', '.join(map(written, values))}" for key, values in sweep.factors.items())
            raise ConfigError(
                f"{sweep.folder}: no finished run is {said(wanted)} — choose with --baseline among {has or 'nothing'}"
            )
        return wanted, []
    if sweep.baseline:
        own = {key: value for key, value in sweep.baseline.items() if key in sweep.factors}
        if own and any(all(same(choice.get(key), value) for key, value in own.items()) for choice in choices):
            return own, []
        return None, [f"the sweep's baseline {said(sweep.baseline)} has no finished run: no differences"]
    for name in ("linear", "baseline"):
        for choice in choices:
            for key, value in choice.items():
                if value == name:
                    return {key: value}, []
    return (dict(choices[0]) if len(choices) > 1 else None), []


def full_key(sweep: Sweep, key: str) -> str:
    """A factor by its key or the end of it: ``tau`` is ``classifier.tau``.

    Raises:
        ConfigError: none, or several.
    """
    found = [factor for factor in sweep.factors if factor == key or factor.endswith(f".{key}")]
    if key in found:
        return key
    if len(found) != 1:
        what = f"{' and '.join(found)} end in it" if found else "nothing varies by that name"
        raise ConfigError(f"{key!r}: {what} — expected one of {', '.join(sweep.factors) or 'none: only seeds vary'}")
    return found[0]


def said(choice: Mapping[str, Scalar]) -> str:
    """Choices in a line."""
    return ", ".join(f"{key}={written(value)}" for key, value in choice.items()) or "all runs"


def against(row: Row, theirs: Sequence[Run], metric: str) -> Row:
    """The row with its difference to other runs."""
    base = {run.seed: float(run.metrics[metric]) for run in theirs}
    ours = {run.seed: value for run, value in zip(row.runs, row.values, strict=True)}
    found = over_seeds.differences(ours, base)
    difference = over_seeds.mean(found) if found else row.mean - over_seeds.mean(list(base.values()))
    return replace(
        row, difference=difference, p=over_seeds.paired_p(found), difference_sd=over_seeds.sd(found), pairs=len(found)
    )


def corrected(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The rows with p adjusted for the number of comparisons, where there are several."""
    adjusted = over_seeds.holm([row.p for row in rows])
    if sum(p is not None for p in adjusted) < 2:
        return tuple(rows)
    return tuple(replace(row, p_holm=p) for row, p in zip(rows, adjusted, strict=True))


def published(sweep: Sweep, metric: str, choice: Mapping[str, Scalar]) -> float | None:
    """The paper's number for a row, as the metric is shown; None where it has none."""
    paper = sweep.published
    if paper is None or paper.factor is None or metric.rsplit("/", 1)[-1] != paper.metric:
        return None
    return next((number for key, number in paper.values.items() if same(key, choice.get(paper.factor))), None)


def parameters(runs: Sequence[Run]) -> int | None:
    """Of the network, as its runs counted."""
    counts = [run.metrics["parameters"] for run in runs if is_number(run.metrics.get("parameters"))]
    return int(counts[0]) if counts else None


def median(values: Sequence[float | None]) -> float | None:
    """Of those that are known."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def mixed(row: Row) -> list[str]:
    """A line where a row's runs differ in more than their seed."""
    flat = [flatten(run.config) for run in row.runs]
    keys = list(dict.fromkeys(key for each in flat for key in each))
    other = [key for key in keys if any(each.get(key) != flat[0].get(key) for each in flat)]
    return [f"{said(row.choice)}: its runs differ also in {', '.join(other[:5])}"] if other else []


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration's leaves that change what a run computes, by dotted key."""

    def walk(node: Any, path: str) -> Iterator[tuple[str, Any]]:
        if isinstance(node, Mapping):
            for key, value in node.items():
                yield from walk(value, f"{path}.{key}" if path else str(key))
        else:
            yield path, node

    return {
        key: value
        for key, value in walk(config, "")
        if key.split(".")[0] not in NOT_MIXED
        and not (key.startswith("data.") and key.split(".")[1] in record.WITHOUT_EFFECT_ON_DATA)
    }


def best_first(table: Table) -> Table:
    """The same table with the best row on top."""
    return replace(table, rows=tuple(sorted(table.rows, key=lambda row: row.mean, reverse=not table.score.lower)))


def grid(table: Table, rows: str, columns: str) -> Grid:
    """A table by two factors, named by their keys or the ends of them.

    Raises:
        ConfigError: no such factor, the same twice, or a third one varies, whose runs would have to be averaged.
    """
    keys = full_key(table.sweep, rows), full_key(table.sweep, columns)
    if keys[0] == keys[1]:
        raise ConfigError(f"rows and columns are both {keys[0]} — choose two of {', '.join(table.sweep.factors)}")
    third = [factor for factor in table.factors if factor not in keys]
    if third:
        raise ConfigError(
            f"a grid of {keys[0]} by {keys[1]} would average over {', '.join(third)} — leave --rows and --columns out, "
            "or collect a folder in which only these two vary"
        )
    downs, alongs = (table.sweep.factors[key] for key in keys)

    def cell(down: Scalar, along: Scalar) -> Row | None:
        wanted = {key: v for key, v in zip(keys, (down, along), strict=True) if key in table.factors}
        return next((r for r in table.rows if all(same(r.choice[k], v) for k, v in wanted.items())), None)

    return Grid(*keys, downs, alongs, [[cell(down, along) for along in alongs] for down in downs])
