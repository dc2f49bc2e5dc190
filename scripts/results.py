"""The tables and figures of docs/results.md, made of records of finished runs: no number in it is typed by hand.

    python scripts/results.py keep FOLDER STUDY      # add the finished runs of a folder to docs/results/STUDY
    python scripts/results.py write                  # docs/results.md, from results.md.j2 and the records
    python scripts/results.py check                  # exit code 1 where the page is not what write would make
    python scripts/results.py unpack STUDY FOLDER    # a folder for python -m seglab.report

Costs are what python -m seglab.benchmark --json wrote to docs/results/costs. A record is a JSON file of what a run
folder says (metrics, resolved configuration, provenance), without weights and images. FOLDER is a multirun's, or holds
run folders named ROW-SEED.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
import yaml
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parents[1]))

from seglab import figures
from seglab.multirun import record
from seglab.report import formats
from seglab.report import table as tables
from seglab.report.collect import Run, Sweep, collect, is_run, read_run, unfinished_because
from seglab.report.plots import style
from seglab.report.statistics import differences
from seglab.report.table import Row, Table

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "results"
PAGE = ROOT / "docs" / "results.md"
TEMPLATE = FOLDER / "results.md.j2"

WHERE = {
    "data.root", "run_dir", "data.num_workers", "resume", "hydra.run.dir", "launcher", "logger", "ckpt",
    "predictor.aux",
}  # fmt: skip
"""Overrides that say where and how a run was made, not what it computed."""
LATER: dict[str, dict[str, Any]] = {"seglab.classifiers.Linear": {"kernel": 1}}
"""Options that came after some of the records, with the value that stands for what was before them."""


# --- Records


def keep(folder: Path, study: str) -> list[Path]:
    """Write the records of a folder's finished runs that have none yet; gives those that are new."""
    new = []
    for path in sorted(each for each in folder.iterdir() if each.is_dir() and is_run(each)):
        if unfinished_because(path) is not None:
            continue
        factors = record.factors_of(path)
        seed = factors.pop("seed", None)
        row, _, last = path.name.rpartition("-")
        if seed is None:
            seed, name = int(last), row
        else:
            name = ", ".join(str(value) for value in factors.values()) or "run"
        target = FOLDER / study / f"{re.sub(r'[^A-Za-z0-9.+-]+', '_', name)}-{seed}.json"
        if target.exists():
            continue
        read_run(path, {})  # refuses one that is broken
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(written({"row": name, "seed": int(seed), "files": files(path)}))
        new.append(target)
    return new


def files(path: Path) -> dict[str, Any]:
    """What a run folder says, without the places on the machine that it was made on."""
    config = yaml.safe_load((path / "config.yaml").read_text())
    provenance = json.loads((path / "provenance.json").read_text())
    status = json.loads((path / "status.json").read_text())
    for key in ("run_dir", "sweep", "resume", "logger"):
        config.pop(key, None)
    if config["data"].get("root"):
        config["data"]["root"] = "ROOT"
    given = (path / "overrides.txt").read_text().splitlines()
    about = ("started", "seed", "data", "git", "versions", "platform", "machine")
    metrics = without_places(json.loads((path / "metrics.json").read_text()))
    metrics.pop("ckpt", None)  # of an evaluation
    found: dict[str, Any] = {
        "metrics.json": metrics,
        "config.yaml": without_places(config),
        "overrides.txt": [each for each in given if each.lstrip("+~").partition("=")[0] not in WHERE],
        "provenance.json": {key: provenance[key] for key in about if key in provenance},
        "status.json": {key: status[key] for key in ("status", "step", "max_steps", "seconds") if key in status},
    }
    if (path / "scores.json").exists():
        found["scores.json"] = json.loads((path / "scores.json").read_text())
    for each in [path / "metrics.csv", *sorted((path / "tables").glob("test_*.csv"))[-1:]]:
        if each.exists():
            found[str(each.relative_to(path))] = each.read_text()
    return found


def without_places(node: Any) -> Any:
    """Containers with absolute paths, of networks for one, as their last two parts."""
    if isinstance(node, dict):
        return {key: without_places(value) for key, value in node.items()}
    if isinstance(node, list):
        return [without_places(value) for value in node]
    return "/".join(Path(node).parts[-2:]) if isinstance(node, str) and node.startswith("/") else node


def written(content: Mapping[str, Any]) -> str:
    """A record as text: one line for each file."""
    rest = {key: value for key, value in content.items() if key != "files"}
    lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in content["files"].items()]
    return json.dumps(rest)[:-1] + ', "files": {\n' + ",\n".join(lines) + "\n}}\n"


def completed(node: Any) -> Any:
    """A configuration with the options that came later."""
    if not isinstance(node, dict):
        return node
    later = LATER.get(str(node.get("_target_")), {})
    return later | {key: completed(value) for key, value in node.items()}


def unpack(studies: str, folder: Path) -> Path:
    """The records of a study (of several: joined by +) as a multirun's folder, whose factor is ``row``."""
    jobs = {}
    for study in studies.split("+"):
        for path in sorted((FOLDER / study).glob("*.json")):
            content = json.loads(path.read_text())
            name = f"{study}-{path.stem}"
            jobs[name] = {"factors": {"row": content["row"], "seed": content["seed"]}, "overrides": []}
            for file, value in content["files"].items():
                target = folder / name / file
                target.parent.mkdir(parents=True, exist_ok=True)
                if file.endswith(".yaml"):
                    value = yaml.dump(completed(value), Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper))
                elif file.endswith(".json"):
                    value = json.dumps(value)
                elif isinstance(value, list):
                    value = "\n".join(value) + "\n"
                target.write_text(value)
    if not jobs:
        raise SystemExit(f"{FOLDER / studies} holds no record — expected ROW-SEED.json files of `keep`")
    record.write(folder, {"title": studies}, jobs)
    return folder


# --- What the template asks for


def state(studies: str) -> tuple[tuple[str, int], ...]:
    """The records of studies, and when each was written."""
    paths = [path for study in studies.split("+") for path in sorted((FOLDER / study).glob("*.json"))]
    return tuple((str(path), path.stat().st_mtime_ns) for path in paths)


@lru_cache
def collected(studies: str, records: tuple[tuple[str, int], ...]) -> tuple[Sweep, list[str]]:
    """The runs of studies and the names of their classes; read once, for a page asks for most studies many times."""
    with tempfile.TemporaryDirectory() as place:
        sweep = collect(unpack(studies, Path(place)))
        return sweep, next(filter(None, (run.classes() for run in sweep.runs)), [])


class Study:
    """The records of a study, for the template.

    Args:
        name: its folder in docs/results; several: joined by +.
        rows: in this order, under these names; None: all, by name.
        baseline: the row that the others are compared with.
    """

    def __init__(self, name: str, rows: Sequence[str] | Mapping[str, str] | None = None, baseline: str | None = None):
        sweep, self.classes_of = collected(name, state(name))
        self.sweep = replace(sweep, runs=[replace(run, factors=dict(run.factors)) for run in sweep.runs])
        known = sorted({str(run.factors["row"]) for run in self.sweep.runs})
        order = list(rows or known)
        if missing := [row for row in order if row not in known]:
            raise SystemExit(f"{name}: no record of {', '.join(missing)} — there are {', '.join(known)}")
        names = dict(rows) if isinstance(rows, Mapping) else dict(zip(order, order, strict=True))
        runs = [run for run in self.sweep.runs if run.factors["row"] in names]
        for run in runs:
            run.factors["row"] = names[str(run.factors["row"])]
        self.kept_as = {shown: row for row, shown in names.items()}
        self.name, self.rows, self.baseline = name, [names[row] for row in order], baseline
        self.sweep = Sweep(
            self.sweep.folder, name, {"row": list(self.rows)}, runs, [], [], None, None, self.sweep.dataset
        )  # fmt: skip

    def table(self, metric: str = "test/mIoU") -> Table:
        """The report's table of a metric; without a baseline nothing is compared."""
        if self.baseline:
            return tables.make(self.sweep, metric, {"row": self.baseline})
        made = tables.make(self.sweep, metric)
        rows = [replace(row, difference=None, p=None, p_holm=None, difference_sd=None, pairs=0) for row in made.rows]
        return replace(made, baseline=None, compared={}, rows=tuple(rows))

    def row(self, name: str, metric: str = "test/mIoU") -> Row:
        """A row of it."""
        return next(row for row in self.table(metric).rows if row.choice["row"] == name)

    def runs(self, name: str) -> list[Run]:
        """The runs of a row, by seed."""
        return sorted((run for run in self.sweep.runs if run.factors["row"] == name), key=lambda run: run.seed)

    def markdown(self, metric: str = "test/mIoU") -> str:
        """The report's table as Markdown; of its notes only the one on power, the others being the same everywhere."""
        _, _, text = formats.markdown(self.table(metric)).partition("\n\n")
        table, heading, left_out = text.partition("\nNot in the table:")
        kept = [line for line in table.split("\n") if not line.startswith("- ") or line.startswith("- power")]
        return "\n".join(kept) + heading + left_out

    def spread(self, name: str, metric: str = "test/mIoU") -> str:
        """``49.61 ± 0.52``."""
        return formats.mean_sd(self.row(name, metric), self.sweep.score(metric))

    def gain(self, name: str, to: str | None = None) -> str:
        """``+3.16``: a row's mean difference to the baseline (or to another row) at the seeds that both have."""
        compared = Study(
            self.name, {self.kept_as[each]: each for each in (to or str(self.baseline), name)}, to or self.baseline
        )
        return signed(statistics.fmean(gaps(compared, name)))

    def ratios(self, name: str, metric: str) -> str:
        """``0.47, 0.45``: a row's value over the baseline's, at each seed that both have."""
        theirs = {run.seed: float(run.metrics[metric]) for run in self.runs(str(self.baseline))}
        found = [float(run.metrics[metric]) / theirs[run.seed] for run in self.runs(name) if run.seed in theirs]
        return ", ".join(f"{ratio:.2f}" for ratio in found)

    def measures(self, metrics: Mapping[str, str]) -> str:
        """Several metrics side by side, each as mean ± sd; columns by heading."""
        head = ["", *metrics]
        lines = []
        for name in self.rows:
            lines.append([name, *(self.spread(name, metric) for metric in metrics.values())])
        return grid(head, lines)

    def classes(self, metric: str = "test/IoU") -> str:
        """A metric of every class: mean over seeds of each row, and what each gains over the baseline."""
        names = self.classes_of
        values = {row: [class_values(run, metric) for run in self.runs(row)] for row in self.rows}
        lines = []
        others = [row for row in self.rows if row != self.baseline]
        for k, name in enumerate(names):
            means = {row: statistics.fmean(run[k] for run in values[row]) for row in self.rows}
            cells = [f"{100 * means[row]:.1f}" for row in self.rows]
            if self.baseline:
                cells += [signed(means[row] - means[self.baseline], 1) for row in others]
            lines.append([name, *cells])
        return grid(["class", *self.rows, *(f"{row} − {self.baseline}" for row in others if self.baseline)], lines)

    def overrides(self, name: str) -> list[str]:
        """What the command of a row chose, but for the seed."""
        for path in (each for study in self.name.split("+") for each in sorted((FOLDER / study).glob("*.json"))):
            content = json.loads(path.read_text())
            if content["row"] == self.kept_as[name]:
                return [each for each in content["files"]["overrides.txt"] if not each.startswith("seed=")]
        return []

    def commands(self) -> str:
        """The table of the rows' overrides that not all of them share, and the shared ones before it."""
        chosen = {name: self.overrides(name) for name in self.rows}
        shared = [each for each in chosen[self.rows[0]] if all(each in other for other in chosen.values())]
        lines = [[name, f"`{' '.join(e for e in own if e not in shared)}`"] for name, own in chosen.items()]
        return f"All: `{' '.join(shared)}`.\n\n" + grid(["row", "overrides"], lines, "---")

    def minutes(self) -> str:
        """``6.4 to 7.8``: the wall time of the quickest and of the slowest run."""
        taken = [run.seconds / 60 for run in self.sweep.runs if run.seconds]
        return f"{min(taken):.1f} to {max(taken):.1f}"


def signed(difference: float, digits: int = 2) -> str:
    """A difference of fractions in points, with its sign."""
    return f"{100 * difference:+.{digits}f}".replace("-", "−")


def class_values(run: Run, metric: str) -> list[float]:
    """A metric's values of every class; NaN where there is none."""
    return [float("nan") if value is None else float(value) for value in run.metrics[metric]]


def grid(head: Sequence[str], rows: Sequence[Sequence[str]], aligned: str = "---:") -> str:
    """A Markdown table; all but the first column are aligned to the right, or as ``aligned`` says."""
    lines = [head, ["---", *[aligned] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


Point = tuple[float, Study, str]
"""Where it lies on the axis, and the row of a study whose difference to the study's baseline is drawn."""


def gaps(study: Study, name: str, metric: str = "test/mIoU") -> list[float]:
    """A row's differences to the baseline at the seeds that both have."""
    ours, theirs = (
        {run.seed: float(run.metrics[metric]) for run in study.runs(row)} for row in (name, str(study.baseline))
    )
    return differences(ours, theirs)


def draw_gains(file: str, series: Mapping[str, Sequence[Point]], label: str, ticks: Sequence[str] | None = None) -> str:
    """Draw mean ± sd of differences to the baseline along an axis; gives the Markdown of the figure.

    Args:
        series: by the name of what is compared.
        label: of the axis.
        ticks: texts of 0, 1, 2, …, where the axis has no numbers.
    """
    with figures.house():
        figure = figures.figure(figures.PAGE if ticks and len(ticks) > 6 else figures.COLUMN, 2.8)
        axes = figure.subplots()
        axes.axhline(0, color=figures.GREY, linewidth=0.8)
        axes.grid(axis="y")
        for k, (name, points) in enumerate(series.items()):
            found = [(x, [100 * gap for gap in gaps(study, row)]) for x, study, row in points]
            x = [place + 0.12 * (k - (len(series) - 1) / 2) * bool(ticks) for place, _ in found]
            means = [statistics.fmean(values) for _, values in found]
            sd = [statistics.stdev(values) if len(values) > 1 else 0.0 for _, values in found]
            look: dict[str, Any] = {
                "color": figures.COLOURS[k],
                "marker": figures.MARKERS[k],
                "linestyle": "" if ticks else "-",
            }
            axes.errorbar(x, means, sd, label=name, capsize=2, **look)
            style.dots(axes, [place for place, (_, v) in zip(x, found, strict=True) for _ in v],
                       [value for _, values in found for value in values], figures.COLOURS[k])  # fmt: skip
        axes.set_ylabel("gain over linear, points of mIoU")
        axes.set_xlabel(label)
        places = sorted({x for points in series.values() for x, _, _ in points})
        if not ticks:
            axes.set_xscale("log" if places[0] > 0 else "linear")
            axes.set_xticks(places, [f"{x:g}" for x in places])
            axes.minorticks_off()
        if ticks:
            axes.set_xticks(range(len(ticks)), ticks, rotation=45, ha="right")
        style.legend_below(figure, *axes.get_legend_handles_labels())
        FIGURES[file] = figure
    return f"![{label}: gain over linear]({FOLDER.name}/{file})"


def along(study: str, values: Sequence[Any], others: Mapping[str, str], base: str = "linear") -> dict[str, list[Point]]:
    """Series for :func:`draw_gains` of a study whose rows are called ROW_VALUE, without spaces.

    Args:
        values: numbers, or texts that are drawn side by side.
        others: names to show by the rows that are compared with ``base`` at the same value.
    """
    found: dict[str, list[Point]] = {}
    for row, shown in others.items():
        for k, value in enumerate(values):
            ours, theirs = (f"{name}_{value}".replace(" ", "_") for name in (row, base))
            place = float(k if isinstance(value, str) else value)
            found.setdefault(shown, []).append((place, Study(study, [theirs, ours], baseline=theirs), ours))
    return found


def grid_along(heading: str, values: Sequence[Any], series: Mapping[str, Sequence[Point]]) -> str:
    """The same as a table: means of the baseline, and of each row with its gain ± sd over the common seeds."""
    lines = []
    for k, value in enumerate(values):
        points = [(name, *series[name][k][1:]) for name in series]
        cells = [str(value), points[0][1].spread(str(points[0][1].baseline))]
        for _, study, row in points:
            gap = gaps(study, row)
            sd = f" ± {100 * statistics.stdev(gap):.2f}" if len(gap) > 1 else ""
            cells += [study.spread(row), signed(statistics.fmean(gap)) + sd]
        lines.append(cells)
    return grid([heading, "linear", *(text for name in series for text in (name, "gain"))], lines)


def costs(name: str) -> str:
    """The table of a file that ``python -m seglab.benchmark --json`` wrote to docs/results/costs, after its command."""
    kept = json.loads((FOLDER / "costs" / f"{name}.json").read_text())
    columns = {key: heading for key, heading in COSTS.items() if key in kept["variants"][0]}
    lines = [
        [each["variant"], *(f"{each[key] / (1e6 if key == 'parameters' else 1):.2f}" for key in columns)]
        for each in kept["variants"]
    ]
    table = grid(["", *columns.values()], lines)
    reduced = kept.get("overhead_reduction")
    more = (
        "\nOverhead of adapting main over that of AuxAdapt: {overhead_gflops:.1f} (FLOPs), {overhead_ms:.1f} (time).\n"
    )
    text = f"```bash\n{kept['command']}\n```\n\n{kept['setting']}.\n\n{table}"
    return text + (more.format(**reduced) if reduced else "")


def sheet(name: str, columns: Mapping[str, str]) -> str:
    """The table of a CSV file in docs/results: its first column, and others in percent, by heading."""
    head, *rows = list(csv.reader((FOLDER / f"{name}.csv").read_text().splitlines(), delimiter=";"))
    places = [head.index(column) for column in columns.values()]
    lines = [[row[0], *(f"{100 * float(row[place]):.2f}".replace("nan", "–") for place in places)] for row in rows]
    return grid([head[0], *columns], lines)


COSTS = {
    "parameters": "parameters, M", "gflops": "GFLOPs an image", "latency_ms": "latency, ms", "latency_ratio": "ratio",
    "step_ms": "training step, ms", "step_ratio": "its ratio", "frame_ms": "frame, ms", "frame_ratio": "ratio",
    "overhead_gflops": "overhead, GFLOPs", "overhead_ms": "overhead, ms",
}  # fmt: skip
"""What :func:`costs` shows of a variant, under which heading."""


FIGURES: dict[str, Figure] = {}
"""What the page shows, by file name."""


def has(studies: str, *names: str) -> bool:
    """Whether studies (joined by +) have records, of each of these rows."""
    paths = [path for study in studies.split("+") for path in (FOLDER / study).glob("*.json")]
    kept = {json.loads(path.read_text())["row"] for path in paths}
    return bool(kept) and kept.issuperset(names)


def page() -> str:
    """docs/results.md."""
    found = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    head = "<!-- Made by scripts/results.py from docs/results: change results.md.j2 there, not this file. -->\n"
    return head + found.from_string(TEMPLATE.read_text()).render(
        Study=Study, has=has, costs=costs, sheet=sheet, draw_gains=draw_gains, along=along, grid_along=grid_along
    )


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, arguments in {
        "keep": ("folder", "study"),
        "write": (),
        "check": (),
        "unpack": ("study", "folder"),
    }.items():
        one = commands.add_parser(name)
        for argument in arguments:
            one.add_argument(argument, type=Path if argument == "folder" else str)
    given = parser.parse_args()
    if given.command == "keep":
        for path in keep(given.folder, given.study):
            print(path)
    elif given.command == "unpack":
        print(unpack(given.study, given.folder))
    elif given.command == "write":
        PAGE.write_text(page())
        for file, figure in FIGURES.items():
            with figures.house():
                figure.savefig(FOLDER / file, dpi=150, metadata={"Software": None})
    elif page() != PAGE.read_text():
        sys.exit("docs/results.md is not what the records say — run python scripts/results.py write")


if __name__ == "__main__":
    main()
