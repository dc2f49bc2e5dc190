"""What a sweep's folder says: ``sweep.json`` (what was planned) and the state of every job's run folder.

::

    SWEEP/sweep.json     title, published rows, and the jobs: folder -> factors (what varies) and overrides
    SWEEP/<job>/         a run folder, named by its choices and a hash of its resolved configuration
    SWEEP/.failed/<job>-<time>/   what a failed job left, when it was run again

Nothing else is remembered: a job is done when its own folder says so, whoever ran it.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from seglab import atomic
from seglab.run import holder

FILE = "sweep.json"
WITHOUT_EFFECT = ("run_dir", "sweep", "resume", "overwrite", "allow_nonfinite", "logger")
"""Keys of a configuration that change where a run writes, not what it computes."""
WITHOUT_EFFECT_ON_DATA = ("num_workers", "persistent_workers", "pin_memory", "prefetch_factor")
State = Literal["new", "running", "done", "failed", "stopped"]
"""``stopped`` was interrupted, preempted or killed, and goes on from its last checkpoint."""


def read(folder: str | Path) -> dict[str, Any]:
    """A sweep's plan; empty where there is none, or none that can be read."""
    return atomic.read_json(Path(folder) / FILE)


def write(folder: str | Path, about: Mapping[str, Any], jobs: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the plan. Jobs of earlier commands stay in it, unless one of these has the same factors."""
    new = [job["factors"] for job in jobs.values()]
    earlier = {
        name: job
        for name, job in read(folder).get("jobs", {}).items()
        if job["factors"] not in new and (Path(folder) / name).is_dir()
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    atomic.write_json(Path(folder) / FILE, {"format": 1, **about, "jobs": {**earlier, **jobs}})


def factors_of(run_dir: str | Path) -> dict[str, Any]:
    """What a run varies within its sweep, ``{"classifier.tau": 10, "seed": 0}``; empty for a run of its own."""
    path = Path(run_dir).resolve()
    return dict(read(path.parent).get("jobs", {}).get(path.name, {}).get("factors", {}))


def status(run_dir: str | Path) -> dict[str, Any]:
    """The content of ``status.json``; empty where there is none, or none that can be read."""
    return atomic.read_json(Path(run_dir) / "status.json")


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
    known = [seconds for seconds in taken if isinstance(seconds, int | float)]
    if not known:
        return None
    shares = [fraction_left(folder / n) if state(folder / n) in ("stopped", "running") else 1.0 for n in names]
    return statistics.median(known) * sum(shares) / max(1, min(parallel, len(names) or 1))


class Best(NamedTuple):
    """The best validation value of a sweep so far."""

    value: float
    job: str
    monitor: str


def best(folder: Path) -> Best | None:
    """The best among a sweep's jobs, unfinished ones included; less is better where one of them takes it so."""
    found, modes = [], []
    for name in read(folder).get("jobs", {}):
        about = status(folder / name).get("best") or {}
        modes.append(about.get("mode", "max"))
        found += [
            Best(value, name, key)
            for key, value in about.items()
            if key not in ("step", "mode") and isinstance(value, int | float)
        ]
    pick = min if "min" in modes else max
    return pick(found, key=lambda each: each.value, default=None)


def clock(seconds: float) -> str:
    """A duration as ``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def label(factors: Mapping[str, Any]) -> str:
    """Factors in one line: ``tau=10, seed=0`` (an override by its last part)."""
    return ", ".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in factors.items()) or "one job"
