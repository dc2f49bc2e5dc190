"""What a sweep's folder says: ``sweep.json`` (what was planned) and the state of every job's run folder.

::

    SWEEP/sweep.json     title, published rows, and the jobs: folder -> factors (what varies) and overrides
    SWEEP/<job>/         a run folder, named by its choices and a hash of its resolved configuration
    SWEEP/.failed/<job>-<time>/   what a failed job left, when it was run again

Nothing else is remembered: a job is done when its own folder says so, whoever ran it.

These files may be damaged, of another program or of another version. What cannot be understood of them is as if it were
not there; it is named when a table is made (:mod:`seglab.report.collect`) and when a plan is written over it.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from seglab.errors import ConfigError, DataError
from seglab.runs import atomic
from seglab.runs.lock import holder
from seglab.scores import Known, Score

log = logging.getLogger(__name__)

FILE = "sweep.json"
FORMAT = 1
WITHOUT_EFFECT = ("run_dir", "sweep", "resume", "overwrite", "allow_nonfinite", "logger", "regularizer")
"""Keys of a configuration that change where a run writes, not what it computes; what follows from ``regularizer`` (a
plan's file) stands resolved in other nodes."""
WITHOUT_EFFECT_ON_DATA = ("num_workers", "persistent_workers", "pin_memory", "prefetch_factor")
State = Literal["new", "running", "done", "failed", "stopped"]
"""``stopped`` was interrupted, preempted or killed, and goes on from its last checkpoint."""


class NewerPlan(DataError):
    """A ``sweep.json`` that a newer seglab wrote."""


def is_number(value: object) -> bool:
    """Whether it is a finite number that a float can hold; true and false are none."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def is_text(value: object) -> bool:
    """Whether it is text that can be written: JSON can hold half a character."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def is_scalar(value: object) -> bool:
    """Whether it can be the value of a factor."""
    return value is None or isinstance(value, bool) or is_text(value) or is_number(value)


def is_choice(value: object) -> bool:
    """Whether it is factors with their values."""
    return isinstance(value, dict) and all(is_text(key) and is_scalar(each) for key, each in value.items())


def is_texts(value: object) -> bool:
    """Whether it is a list of texts."""
    return isinstance(value, list) and all(map(is_text, value))


def is_published(value: object) -> bool:
    """Whether it is a paper's numbers by the values of a factor."""
    if not isinstance(value, dict) or not isinstance(values := value.get("values") or {}, dict):
        return False
    texts = (value.get(key) for key in ("source", "setting", "metric"))
    return all(number is None or is_number(number) for number in values.values()) and all(
        text is None or is_text(text) for text in texts
    )


ABOUT: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (is_scalar, "a text"),
    "title": (is_scalar, "a text"),
    "ablation": (is_scalar, "a text"),
    "started": (is_text, "a time"),
    "on_error": (lambda value: value in ("stop", "continue"), "stop or continue"),
    "parallel": (lambda value: is_number(value) and value >= 1, "a number of jobs"),
    "fixed": (is_texts, "a list of overrides"),
    "baseline": (is_choice, "factors and their values, {variant: NAME}"),
    "published": (is_published, "source, setting, metric and values, {values: {NAME: 42.0}}"),
}
"""What a plan says beside its jobs: how it looks, and how that is called. Each may be null."""


def parse(content: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What can be understood of a plan, and a line for each key and each job that cannot.

    Raises:
        NewerPlan: it is of a later format.
        DataError: it is none.
    """
    version: Any = content.get("format")
    jobs = content.get("jobs")
    if is_number(version) and version > FORMAT:
        raise NewerPlan(f"{FILE} has format {version} — this seglab reads {FORMAT}; upgrade with pip install -U seglab")
    if version is not None and (version != FORMAT or isinstance(version, bool)):
        raise DataError(f"{FILE} has format {shown(version)} — expected {FORMAT}")
    if jobs is not None and not (isinstance(jobs, dict) and all(isinstance(job, dict) for job in jobs.values())):
        raise DataError(f"{FILE} has no jobs by folder name")
    plan: dict[str, Any] = {"format": FORMAT}
    problems = []
    for key, (fits, expected) in ABOUT.items():
        value = content.get(key)
        if value is not None and not fits(value):
            problems.append(f"{FILE}: {key} is {shown(value)} — expected {expected}: not used")
        elif value is not None:
            plan[key] = value
    plan["jobs"] = {}
    for name, job in (jobs or {}).items():
        if not is_text(name) or not name or Path(name).name != name or name.startswith(".") or "\0" in name:
            problems.append(f"{shown(name)}: a job of {FILE} — expected the name of a folder beside it: left out")
        elif not is_choice(job.get("factors")):
            given = shown(job.get("factors"))
            problems.append(f"{name}: {FILE} has {given} as its factors — expected keys and their values: left out")
        else:
            texts = job.get("overrides")
            plan["jobs"][name] = {"factors": job["factors"], "overrides": texts if is_texts(texts) else []}
    return plan, problems


def shown(value: object, longest: int = 60) -> str:
    """A value as it stands in the file, not too long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= longest else f"{text[:longest]}…"


def read(folder: str | Path) -> dict[str, Any]:
    """What can be understood of a sweep's plan; empty where there is none."""
    content = atomic.read_json(Path(folder) / FILE)
    try:
        return parse(content)[0] if content else {}
    except DataError:
        return {}


def write(folder: str | Path, about: Mapping[str, Any], jobs: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the plan. Jobs of earlier commands stay in it, unless one of these has the same factors.

    Raises:
        ConfigError: what it is to say beside the jobs is of a wrong kind.
        NewerPlan: the plan that is there is a newer seglab's.
    """
    for key, value in about.items():
        fits, expected = ABOUT[key]
        if value is not None and not fits(value):
            raise ConfigError(f"sweep.{key}={shown(value)} — expected {expected}, or null")
    keep_foreign(Path(folder))
    new = [job["factors"] for job in jobs.values()]
    earlier = {
        name: job
        for name, job in read(folder).get("jobs", {}).items()
        if job["factors"] not in new and (Path(folder) / name).is_dir()
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    atomic.write_json(Path(folder) / FILE, {"format": FORMAT, **about, "jobs": {**earlier, **jobs}})


def keep_foreign(folder: Path) -> None:
    """Keep a copy, beside it, of a plan that writing would lose something of, and say what.

    Raises:
        NewerPlan: it is a newer seglab's.
    """
    path = folder / FILE
    if not os.path.lexists(path):
        return
    content = atomic.read_json(path)
    try:
        _, problems = parse(content) if content else ({}, [f"{FILE} cannot be read"])
    except NewerPlan as error:
        raise NewerPlan(f"{folder}: {error}, or choose another folder with hydra.sweep.dir=…") from None
    except DataError as error:
        problems = [str(error)]
    if problems:
        kept = path.with_name(f"{FILE}-{time.strftime('%Y%m%d-%H%M%S')}")
        if path.is_file():
            shutil.copyfile(path, kept)
        else:
            path.rename(kept)
        log.warning("%s: %s — kept as %s", folder, "; ".join(problems), kept.name)


def factors_of(run_dir: str | Path) -> dict[str, Any]:
    """What a run varies within its sweep, ``{"classifier.tau": 10, "seed": 0}``; empty for a run of its own."""
    path = Path(run_dir).resolve()
    return dict(read(path.parent).get("jobs", {}).get(path.name, {}).get("factors", {}))


STATUS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("status", "error", "started", "ended", "updated", "host"), lambda value: isinstance(value, str)),
    **dict.fromkeys(("step", "max_steps", "exit_code", "pid"), lambda value: is_number(value) and value == int(value)),
    "seconds": lambda value: is_number(value) and value >= 0,
    "best": lambda value: isinstance(value, dict) and all(isinstance(v, str) or is_number(v) for v in value.values()),
}
"""How the fields of ``status.json`` look."""


def status(run_dir: str | Path) -> dict[str, Any]:
    """What can be understood of ``status.json``; empty where there is none."""
    content = atomic.read_json(Path(run_dir) / "status.json")
    return {key: value for key, value in content.items() if key not in STATUS or STATUS[key](value)}


def state(run_dir: str | Path) -> State:
    """Where a job stands."""
    path = Path(run_dir)
    said = status(path).get("status")
    if holder(path):
        return "running"
    if said in ("done", "pruned"):
        return "done" if atomic.read_json(path / "metrics.json") else "failed"
    if said == "failed":
        return "failed"
    if said in ("running", "preempted", "interrupted") or (path / "checkpoints").is_dir():
        return "stopped"
    return "new"


def fraction_left(run_dir: Path) -> float:
    """The share of a job's steps that are still to be taken, 0 to 1."""
    said = status(run_dir)
    step, total = said.get("step") or 0, said.get("max_steps") or 0
    return 1 - min(step / total, 1) if total > 0 else 1.0


def seconds_left(folder: Path, names: list[str], parallel: int) -> float | None:
    """The time the named jobs still need, from the median of those that are done in ``folder``; None without any.

    Args:
        parallel: jobs that run at the same time.
    """
    taken = [
        status(folder / name).get("seconds") for name in read(folder).get("jobs", {}) if state(folder / name) == "done"
    ]
    known = [seconds for seconds in taken if seconds is not None]
    if not known:
        return None
    shares = [fraction_left(folder / n) if state(folder / n) in ("stopped", "running") else 1.0 for n in names]
    return statistics.median(known) * sum(shares) / max(1, min(parallel, len(names) or 1))


class Best(NamedTuple):
    """The best validation value of a sweep so far."""

    value: float
    job: str
    monitor: str
    score: Score


def best(folder: Path) -> Best | None:
    """The best among a sweep's jobs, unfinished ones included; None where they monitor different scores."""
    jobs = (monitored(folder, name) for name in read(folder).get("jobs", {}))
    found = [each for each in jobs if each is not None]
    if len({(each.monitor, each.score) for each in found}) != 1:
        return None
    pick = min if found[0].score.lower else max
    return pick(found, key=lambda each: each.value)


def monitored(folder: Path, name: str) -> Best | None:
    """What a job monitors and its best so far; None where it has none."""
    about = status(folder / name).get("best") or {}
    found = [(key, value) for key, value in about.items() if key != "step" and isinstance(value, int | float)]
    if not found:
        return None
    key, value = found[0]
    score = Score.of({"name": about.get("name"), "direction": about.get("mode"), "unit": about.get("unit")})
    if score is None:  # an earlier version's status
        score = Known.of_run(folder / name).find(key) or Score(key, "min" if about.get("mode") == "min" else "max")
    return Best(value, name, key, score)


def clock(seconds: float) -> str:
    """A duration as ``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def label(factors: Mapping[str, Any]) -> str:
    """Factors in one line: ``tau=10, seed=0`` (an override by its last part)."""
    return ", ".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in factors.items()) or "one job"
