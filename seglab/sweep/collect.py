"""A sweep's folder as finished runs, unfinished jobs and named problems; nothing is averaged here.

What was varied stands in ``sweep.json`` where seglab planned the sweep. Any other multirun folder is read by its runs'
``overrides.txt``: a factor is a key that runs override with different values.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from seglab import trust
from seglab.errors import CheckpointError, ConfigError, DataError
from seglab.multirun import record
from seglab.run import holder

Scalar: TypeAlias = str | int | float | bool | None

SEED = "seed"
NOT_FACTORS = (*record.WITHOUT_EFFECT, "hydra")
NOT_STARTED = "not started"


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    factors: dict[str, Scalar]
    """What it varies, without the seed."""
    seed: int
    status: str
    metrics: dict[str, Any] = field(repr=False)
    config: dict[str, Any] = field(repr=False)
    seconds: float | None
    """Of the whole run, summed over interruptions."""
    dataset: str
    fingerprint: str | None = field(default=None, repr=False)
    """Of the data's file names and sizes."""

    def curve(self, key: str) -> tuple[list[int], list[float]]:
        """Steps and values of one column of ``metrics.csv``; empty where there is none."""
        steps, values = [], []
        try:
            with (self.folder / "metrics.csv").open(newline="") as file:
                for line in csv.DictReader(file):
                    if line.get("step") and line.get(key):
                        steps.append(int(float(line["step"])))
                        values.append(float(line[key]))
        except (OSError, ValueError, csv.Error):
            n = min(len(steps), len(values))  # what stands before a broken line
            return steps[:n], values[:n]
        return steps, values

    def classes(self) -> list[str]:
        """Names of the classes, from the newest table of the test split, else of val; empty without one."""
        for stage in ("test", "val"):
            for path in sorted((self.folder / "tables").glob(f"{stage}_*.csv"), reverse=True):
                with path.open(newline="") as file:
                    names = [line.get("class") for line in csv.DictReader(file)]
                if names and all(names):
                    return [str(name) for name in names]
        return []


@dataclass(frozen=True)
class Published:
    """A paper's numbers for the same rows."""

    source: str
    setting: str | None
    """Model and data set."""
    metric: str
    factor: str | None
    """Whose values the numbers are for."""
    values: dict[str, float]
    """Percent, by the factor's value as text."""


@dataclass(frozen=True)
class Sweep:
    """What a folder holds."""

    folder: Path
    title: str
    factors: dict[str, list[Scalar]]
    """What was varied, seeds apart; as planned, numbers in their order."""
    runs: list[Run]
    unfinished: list[tuple[str, str]]
    """Folder name, and why it is not done."""
    problems: list[str]
    """What was left out, and why."""
    baseline: dict[str, Scalar] | None
    published: Published | None
    dataset: str


def collect(folder: str | Path) -> Sweep:
    """Read a multirun folder.

    Raises:
        ConfigError: no such folder, nothing of seglab's in it, or runs on different data sets.
        DataError: no finished run in it, or a ``sweep.json`` that cannot be read.
    """
    folder = Path(folder)
    plan = read_plan(folder)
    jobs: dict[str, dict[str, Any]] = plan.get("jobs") or {}
    for job in jobs.values():
        job.get("factors", {}).pop("trial", None)  # a search's number of the run: it names it, it is no choice
    found = [path.name for path in children(folder) if is_run(path)]
    if not jobs and not found:
        raise ConfigError(nothing_in(folder))
    runs: list[Run] = []
    unfinished: list[tuple[str, str]] = []
    problems = [f"{name}: not among the jobs of {record.FILE}: left out" for name in found if jobs and name not in jobs]
    for name in jobs or found:
        try:
            why = unfinished_because(folder / name)
            if why is None:
                runs.append(read_run(folder / name, jobs.get(name, {}).get("factors", {})))
            else:
                unfinished.append((name, why))
        except DataError as error:
            problems.append(f"{name}: {error}: left out")
    if not runs:
        raise DataError(
            f"{folder}: no finished run among {len(jobs or found)} jobs — run the sweep's command again, it goes on "
            f"with them:{listed([*problems, *(f'{name}: {why}' for name, why in unfinished)])}"
        )
    refuse_mixed(folder, runs)
    factors = varied(job.get("factors", {}) for job in jobs.values()) if jobs else from_overrides(runs)
    problems += without_duplicates(runs) + different_data(runs)
    published = read_published(plan.get("published"), next(iter(factors), None))
    title = str(plan.get("title") or plan.get("name") or folder.resolve().name)
    baseline = plan.get("baseline") or None
    return Sweep(folder, title, factors, runs, unfinished, problems, baseline, published, runs[0].dataset)


def read_published(about: Mapping[str, Any] | None, factor: str | None) -> Published | None:
    """The paper's rows of a plan; they belong to its first factor."""
    if not about:
        return None
    values = {str(key): float(value) for key, value in (about.get("values") or {}).items() if value is not None}
    source, setting = str(about.get("source") or "source not named"), about.get("setting")
    return Published(source, setting, str(about.get("metric") or "mIoU"), factor, values)


def read_plan(folder: Path) -> dict[str, Any]:
    """``sweep.json``; empty where there is none.

    Raises:
        ConfigError: no such folder.
        DataError: it cannot be read.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder — give the folder of a multirun, such as runs/sweeps/NAME")
    path = folder / record.FILE
    if not path.exists():
        return {}
    try:
        plan = read_object(path)
        jobs = plan.get("jobs") or {}
        if not isinstance(jobs, dict) or not all(isinstance(job, dict) for job in jobs.values()):
            raise DataError(f"{record.FILE} has no jobs by folder name")
    except DataError as error:
        raise DataError(
            f"{folder}: {error} — type the sweep's command again, which writes it anew, or delete {path} to have the "
            "factors read from the runs' overrides"
        ) from None
    return plan


def children(folder: Path) -> list[Path]:
    """Its folders that may be runs."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def is_run(path: Path) -> bool:
    """Whether a folder is a run of seglab, whatever its state."""
    return (path / "status.json").exists() or all((path / name).exists() for name in ("config.yaml", "overrides.txt"))


def nothing_in(folder: Path) -> str:
    """Why a folder is no sweep."""
    if is_run(folder):
        return f"{folder} is one run, not a sweep — give the folder above it: {folder.resolve().parent}"
    below = next((path for path in children(folder) if any(map(is_run, children(path)))), None)
    if below is not None:
        return f"{folder} holds sweeps, not runs — give one of them, such as {below}"
    what = "holds no run of seglab" if any(folder.iterdir()) else "is empty"
    return f"{folder} {what} — expected run folders with a status.json, as seglab.train -m writes them"


def unfinished_because(path: Path) -> str | None:
    """Why a job has no result yet; None for one that is done.

    Raises:
        DataError: its ``status.json`` cannot be read.
    """
    if not is_run(path):
        return NOT_STARTED
    status = read_object(path / "status.json")
    said = status.get("status")
    if said == "done":
        return None
    if said == "running" and not holder(path):
        said = "killed"
    elif said == "failed":
        said = f"failed: {str(status.get('error') or 'no reason written').splitlines()[0]}"
    if not isinstance(said, str):
        raise DataError("status.json does not say its status")
    step, total = status.get("step"), status.get("max_steps")
    return f"{said} (step {step} of {total})" if step and total and not said.startswith("failed") else said


def read_run(path: Path, factors: Mapping[str, Scalar]) -> Run:
    """A run that is done.

    Raises:
        DataError: a file that is missing or broken.
    """
    if not (path / "metrics.json").exists():
        raise DataError("done, but has no metrics.json")
    metrics = read_object(path / "metrics.json")
    config = read_config(path / "config.yaml")
    data = read_object(path / "provenance.json").get("data")
    if not isinstance(data, dict) or not data.get("dataset"):
        raise DataError("provenance.json does not name the data set")
    seed = factors.get(SEED, config.get(SEED))
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise DataError(f"its seed is {seed!r}, not a whole number")
    seconds = read_object(path / "status.json").get("seconds")
    return Run(
        path, {key: value for key, value in factors.items() if key != SEED}, seed, "done", metrics, config,
        float(seconds) if isinstance(seconds, int | float) else None, str(data["dataset"]), data.get("fingerprint"),
    )  # fmt: skip


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        DataError: missing or broken.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(f"no {path.name}") from None
    except (OSError, ValueError) as error:  # a UnicodeDecodeError is a ValueError
        raise DataError(f"{path.name} cannot be read ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict):
        raise DataError(f"{path.name} holds no JSON object")
    return content


def read_config(path: Path) -> dict[str, Any]:
    """A run's resolved configuration.

    Raises:
        DataError: missing or broken.
    """
    import yaml

    try:
        content = yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except FileNotFoundError:
        raise DataError(f"no {path.name}") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path.name} cannot be read ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict):
        raise DataError(f"{path.name} holds no configuration")
    try:
        trust.refuse_interpolations(content, path.name)
    except CheckpointError as error:
        raise DataError(str(error)) from None
    return content


def refuse_mixed(folder: Path, runs: Iterable[Run]) -> None:
    """A mean over data sets means nothing.

    Raises:
        ConfigError: the runs are on different ones.
    """
    by_dataset: dict[str, list[str]] = {}
    for run in runs:
        by_dataset.setdefault(run.dataset, []).append(run.folder.name)
    if len(by_dataset) > 1:
        said = "; ".join(f"{name}: {len(names)} runs, such as {names[0]}" for name, names in by_dataset.items())
        raise ConfigError(
            f"{folder}: runs on different data sets ({said}) — one table is about one; move each data set's runs to a "
            "folder of their own and collect the folders one by one"
        )


def varied(chosen: Iterable[Mapping[str, Scalar]]) -> dict[str, list[Scalar]]:
    """The factors and their values in the order of their appearance; numbers in theirs."""
    found: dict[str, list[Scalar]] = {}
    for factors in chosen:
        for key, value in factors.items():
            if key != SEED and not any(same(value, known) for known in found.setdefault(key, [])):
                found[key].append(value)
    for values in found.values():
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            values.sort(key=lambda value: float(value))  # type: ignore[arg-type]
    return found


def from_overrides(runs: list[Run]) -> dict[str, list[Scalar]]:
    """The factors of runs that nobody planned: keys whose values differ. They are written into the runs.

    A run that leaves a key alone has its configuration's value (a group's choice is not in there: None).
    """
    given = [overrides(run.folder) for run in runs]
    keys = list(dict.fromkeys(key for each in given for key in each))
    for key in keys:
        if key == SEED or key.split(".")[0] in NOT_FACTORS:
            continue
        values = [each.get(key, configured(run.config, key)) for each, run in zip(given, runs, strict=True)]
        if any(not same(value, values[0]) for value in values):
            for run, value in zip(runs, values, strict=True):
                run.factors[key] = value
    return varied(run.factors for run in runs)


def overrides(folder: Path) -> dict[str, Scalar]:
    """``overrides.txt`` as keys and values; lists and mappings stay text."""
    try:
        lines = (folder / "overrides.txt").read_text().splitlines()
    except (OSError, ValueError):
        return {}
    pairs = (line.strip().lstrip("+~").partition("=") for line in lines if line.strip())
    return {key: parse(value) for key, _, value in pairs}


def parse(text: str) -> Scalar:
    """A scalar as YAML reads it, also ``1e-3``; anything else stays text."""
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str):
        try:
            return float(value) if value[:1] in "+-.0123456789" else value
        except ValueError:
            return value
    return value if isinstance(value, int | float | bool | None) else text


def configured(config: Mapping[str, Any], key: str) -> Scalar:
    """A dotted key's value in a configuration; None where there is none."""
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node if isinstance(node, str | int | float | bool) else None


def same(a: Scalar, b: Scalar) -> bool:
    """Whether two values are the same choice: 15, 15.0 and "15" are, true and 1 are not."""
    if isinstance(a, bool) or isinstance(b, bool) or a is None or b is None:
        return written(a) == written(b)
    try:
        return float(a) == float(b)
    except ValueError:
        return str(a) == str(b)


def written(value: Scalar) -> str:
    """A value as it stands in YAML."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def without_duplicates(runs: list[Run]) -> list[str]:
    """Keep one run of the same choices and seed, the one started last; two of them would pass for two seeds."""
    kept: dict[str, Run] = {}
    said = []
    for run in sorted(
        runs, key=lambda run: str(record.atomic.read_json(run.folder / "provenance.json").get("started"))
    ):
        key = json.dumps([run.factors, run.seed], default=str)
        if key in kept:
            said.append(
                f"{kept[key].folder.name}: same choices and seed as {run.folder.name}, which is newer: left out"
            )
        kept[key] = run
    runs[:] = [run for run in runs if any(run is other for other in kept.values())]
    return said


def different_data(runs: Iterable[Run]) -> list[str]:
    """A line where the runs' data have one name and different files."""
    prints = {run.fingerprint for run in runs} - {None}
    return (
        [f"{len(prints)} different sets of files under one data set's name: the runs may not be comparable"]
        if len(prints) > 1
        else []
    )


def listed(lines: list[str], most: int = 10) -> str:
    """Lines to stand under a message, not too many."""
    more = [f"and {len(lines) - most} more"] if len(lines) > most else []
    return "".join(f"\n  {line}" for line in lines[:most] + more)
