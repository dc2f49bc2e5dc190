"""A table over runs: ``python scripts/summarise.py runs/sweeps/… [--metric test/mIoU] [--by classifier]``.

Reads every run folder below the given ones (config.yaml, metrics.json, status.json), groups them by a configuration
group's choice, and prints mean, sample standard deviation, number of runs and seconds a run as a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from datetime import datetime
from pathlib import Path

import yaml


def read_run(folder: Path, metric: str, by: str) -> tuple[str, float, float, int]:
    """Choice, metric, seconds and trained parameters of a finished run; ValueError where it is not one."""
    status = json.loads((folder / "status.json").read_text())
    if status.get("status") != "done":
        raise ValueError(f"is {status.get('status')}, not done")
    metrics = json.loads((folder / "metrics.json").read_text())
    if metrics.get(metric) is None:
        raise ValueError(f"has no {metric}; it has {', '.join(k for k in metrics if isinstance(metrics[k], float))}")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    choice = str(config[by]["_target_"]).rsplit(".", 1)[-1]
    start, end = (datetime.fromisoformat(status[key]) for key in ("started", "ended"))
    return choice, metrics[metric], (end - start).total_seconds(), metrics["parameters"]


def table(runs: dict[str, list[tuple[float, float, int]]], metric: str) -> str:
    """Markdown, best mean last."""
    lines = [f"| | {metric}, % | runs | parameters | median seconds |", "| --- | --- | --- | --- | --- |"]
    for choice, found in sorted(runs.items(), key=lambda item: statistics.mean(v for v, _, _ in item[1])):
        values = [100 * value for value, _, _ in found]
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        each = ", ".join(f"{value:.2f}" for value in values)
        seconds = statistics.median(s for _, s, _ in found)
        size = f"{found[0][2] / 1e6:.2f} M"
        mean = f"{statistics.mean(values):.2f}{spread}"
        lines.append(f"| {choice} | {mean} | {len(values)} ({each}) | {size} | {seconds:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--metric", default="test/mIoU")
    parser.add_argument("--by", default="classifier", help="configuration group")
    given = parser.parse_args()
    runs: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
    for path in sorted(p for folder in given.folders for p in folder.rglob("status.json")):
        try:
            choice, value, seconds, parameters = read_run(path.parent, given.metric, given.by)
            runs[choice].append((value, seconds, parameters))
        except (ValueError, KeyError, OSError) as error:
            print(f"left out: {path.parent}: {error}", file=sys.stderr)
    if not runs:
        sys.exit(f"no finished run below {', '.join(map(str, given.folders))}")
    print(table(runs, given.metric))


if __name__ == "__main__":
    main()
