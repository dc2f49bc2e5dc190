"""A sweep's folder as finished runs, unfinished jobs and named problems; nothing is averaged here.

What was varied stands in ``sweep.json`` where seglab planned the sweep. Any other multirun folder is read by its runs'
``overrides.txt``: a factor is a key that runs override with different values.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seglab.errors import ConfigError, DataError
from seglab.multirun import record
from seglab.multirun.record import is_number, shown
from seglab.report.files import Scalar, impossible, overrides, read_config, read_object, read_plan
from seglab.runs.lock import holder
from seglab.scores import EARLIER, FORMAT, Known, Score, recorded
from seglab.scores import FILE as SCORES

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
    variant: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What the data's files were read as, where published numbers differ in it."""
    known: Known = field(default=EARLIER, repr=False)
    """Direction and unit of its numbers."""

    def curve(self, key: str) -> tuple[list[int], list[float]]:
        """Steps and values of one column of ``metrics.csv``; empty where there is none."""
        steps, values = [], []
        try:
            with (self.folder / "metrics.csv").open(newline="") as file:
                for line in csv.DictReader(file):
                    if line.get("step") and line.get(key):
                        steps.append(int(float(line["step"])))
                        values.append(float(line[key]))
        except (OSError, ValueError, OverflowError, csv.Error):
            n = min(len(steps), len(values))  # what stands before a broken line
            return steps[:n], values[:n]
        return steps, values

    def classes(self) -> list[str]:
        """Names of the classes, from the newest table of the test split, else of val; empty without one."""
        for stage in ("test", "val"):
            for path in sorted((self.folder / "tables").glob(f"{stage}_*.csv"), reverse=True):
                try:
                    with path.open(newline="") as file:
                        names = [line.get("class") for line in csv.DictReader(file)]
                except (OSError, ValueError, csv.Error):
                    continue
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
    """As the metric is shown (percent of fractions), by the factor's value as text."""


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
    """Its name and, in brackets, the variant."""

    @property
    def headline(self) -> Score:
        """What its runs are about, all of them."""
        return self.runs[0].known.headline if self.runs else EARLIER.headline

    @property
    def metric(self) -> str:
        """The key of the headline where it was tested: ``test/mIoU``; evaluations say their split (``val/mIoU``)."""
        about = self.runs[0].metrics if self.runs else {}
        stage = about.get("split", "test")
        return f"{stage}{'-oracle' if about.get('uses_labels') else ''}/{self.headline.name}"

    def score(self, key: str) -> Score:
        """The score of a key of ``metrics.json``, as the runs know it."""
        found = (run.known.find(key) for run in self.runs)
        return next((score for score in found if score is not None), Score(key))


def collect(folder: str | Path) -> Sweep:
    """Read a multirun folder.

    Raises:
        ConfigError: no such folder, nothing of seglab's in it, or runs on different data sets.
        DataError: no finished run in it, or a ``sweep.json`` that cannot be read.
    """
    folder = Path(folder)
    plan, problems = read_plan(folder)
    jobs: dict[str, dict[str, Any]] = plan.get("jobs") or {}
    for job in jobs.values():
        job["factors"].pop("trial", None)  # a search's number of the run: it names it, it is no choice
    found = [path.name for path in children(folder) if is_run(path)]
    if not jobs and not found:
        raise ConfigError(nothing_in(folder))
    runs: list[Run] = []
    unfinished: list[tuple[str, str]] = []
    told = {problem.partition(": ")[0] for problem in problems}
    unknown = [name for name in found if jobs and name not in jobs and name not in told]
    problems += [f"{name}: not among the jobs of {record.FILE}: left out" for name in unknown]
    for name in jobs or found:
        try:
            why = unfinished_because(folder / name)
            if why is None:
                runs.append(read_run(folder / name, jobs[name]["factors"] if jobs else {}))
            else:
                unfinished.append((name, why))
        except DataError as error:
            problems.append(f"{name}: {error}: left out")
    if not runs:
        left_out = listed([*problems, *(f"{name}: {why}" for name, why in unfinished)])
        raise DataError(
            f"{folder}: no finished run among {len(jobs or found)} jobs — run the sweep's command again, it goes on "
            f"with them (and does one anew whose folder you delete):{left_out}"
        )
    refuse_mixed(folder, runs)
    refuse_mixed_headlines(folder, runs)
    factors = varied(job["factors"] for job in jobs.values()) if jobs else from_overrides(runs)
    problems += without_other_data(runs) + without_duplicates(runs)
    parts = [run.folder.name for run in runs if run.metrics.get("whole_split") is False]
    problems += [f"{name}: of a part of the split, which is no result" for name in parts]
    if any(run.variant != runs[0].variant for run in runs):
        problems.append(f"runs read the data in different ways, and their numbers differ in that too: {data_of(runs)}")
    published = read_published(plan.get("published"), next(iter(factors), None), runs[0].known.headline.name)
    title = str(plan.get("title") or plan.get("name") or folder.resolve().name)
    baseline = plan.get("baseline") or None
    return Sweep(folder, title, factors, runs, unfinished, problems, baseline, published, data_of(runs))


def read_published(about: Mapping[str, Any] | None, factor: str | None, headline: str) -> Published | None:
    """The paper's rows of a plan; they belong to its first factor, and are of the headline unless told otherwise."""
    if not about:
        return None
    values = {str(key): float(value) for key, value in (about.get("values") or {}).items() if value is not None}
    source, setting = str(about.get("source") or "source not named"), about.get("setting")
    return Published(source, setting, str(about.get("metric") or headline), factor, values)


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
    if (path / SCORES).exists() and recorded(path) is None:
        raise DataError(f"{SCORES} cannot be read — expected format {FORMAT} with a headline and the scores by name")
    known = Known.of_run(path, config)
    if wrong := impossible(metrics, known):
        raise DataError(f"metrics.json: {wrong}")
    data = read_object(path / "provenance.json").get("data")
    if not isinstance(data, dict) or not isinstance(data.get("dataset"), str) or not data["dataset"]:
        raise DataError("provenance.json does not name the data set")
    fingerprint = data.get("fingerprint")
    if fingerprint is not None and not isinstance(fingerprint, str):
        raise DataError(f"provenance.json: the data's fingerprint is {shown(fingerprint)} — expected a text")
    variant = data.get("variant") or {}
    if not isinstance(variant, dict) or not all(isinstance(value, str) for value in variant.values()):
        raise DataError(f"provenance.json: the data's variant is {shown(variant)} — expected texts by name")
    seed = factors.get(SEED, config.get(SEED))
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise DataError(f"its seed is {seed!r}, not a whole number")
    seconds = read_object(path / "status.json").get("seconds")
    if seconds is not None and not (is_number(seconds) and seconds >= 0):
        raise DataError(f"status.json: seconds is {shown(seconds)} — expected a number, 0 or more")
    return Run(
        path, {key: value for key, value in factors.items() if key != SEED}, seed, "done", metrics, config,
        None if seconds is None else float(seconds), data["dataset"], fingerprint, variant, known,
    )  # fmt: skip


def data_of(runs: Sequence[Run]) -> str:
    """The data set's name with its variant in brackets; where runs differ in that, with the values of all."""
    names = dict.fromkeys(run.dataset for run in runs)
    said: dict[str, dict[str, None]] = {}
    for run in runs:
        for key, value in run.variant.items():
            said.setdefault(key, {})[value] = None
    variant = ", ".join(f"{key} {' / '.join(values)}" for key, values in said.items())
    return ", ".join(names) + (f" ({variant})" if variant else "")


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


def refuse_mixed_headlines(folder: Path, runs: Iterable[Run]) -> None:
    """A table is about one score.

    Raises:
        ConfigError: the runs' headlines differ.
    """
    by_headline: dict[Score, list[str]] = {}
    for run in runs:
        by_headline.setdefault(run.known.headline, []).append(run.folder.name)
    if len(by_headline) > 1:
        said = "; ".join(
            f"{score.name} ({'less' if score.lower else 'more'} is better): {len(names)} runs, such as {names[0]}"
            for score, names in by_headline.items()
        )
        raise ConfigError(
            f"{folder}: runs about different scores ({said}) — one table is about one; move the runs of each to a "
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


def configured(config: Mapping[str, Any], key: str) -> Scalar:
    """A dotted key's value in a configuration; None where there is none."""
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node if record.is_scalar(node) else None


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
    for run in sorted(runs, key=started):
        key = json.dumps([run.factors, run.seed], default=str)
        if key in kept:
            said.append(
                f"{kept[key].folder.name}: same choices and seed as {run.folder.name}, which is newer: left out"
            )
        kept[key] = run
    runs[:] = [run for run in runs if any(run is other for other in kept.values())]
    return said


def started(run: Run) -> str:
    """When it was started, as text that sorts by time; empty where nobody knows."""
    found = record.atomic.read_json(run.folder / "provenance.json").get("started")
    return found if isinstance(found, str) else ""


def without_other_data(runs: list[Run]) -> list[str]:
    """Keep the runs on the files that most of them saw (of as many, those of the newest run), where files have changed.

    A mean over runs on different files means nothing. Runs that do not say which files they saw stay, and are named.
    """
    prints = Counter(run.fingerprint for run in runs if run.fingerprint)
    unsaid = [run.folder.name for run in runs if not run.fingerprint]
    said = []
    if prints and unsaid:
        said.append(f"{', '.join(unsaid)}: does not say which files it saw; taken for those of the others")
    if len(prints) < 2:
        return said
    most = max(prints.values())
    kept = max((run for run in runs if prints.get(run.fingerprint or "") == most), key=started).fingerprint
    said.append(
        f"{len(prints)} different sets of files under the data set's name {runs[0].dataset}: the table is of the one "
        f"that {most} of {len(runs)} runs saw (fingerprint {kept})"
    )
    for run in runs:
        if run.fingerprint and run.fingerprint != kept:
            said.append(f"{run.folder.name}: saw other files (fingerprint {run.fingerprint}): left out")
    runs[:] = [run for run in runs if not run.fingerprint or run.fingerprint == kept]
    return said


def listed(lines: list[str], most: int = 10) -> str:
    """Lines to stand under a message, not too many."""
    more = [f"and {len(lines) - most} more"] if len(lines) > most else []
    return "".join(f"\n  {line}" for line in lines[:most] + more)
