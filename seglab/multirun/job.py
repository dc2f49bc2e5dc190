"""One job of a sweep: skipped when it is done, resumed when it was stopped, run again when it failed."""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from seglab.errors import UserError
from seglab.multirun import record
from seglab.runs import atomic
from seglab.runs.signals import Stopped, TimeUp
from seglab.scores import best_of

log = logging.getLogger(__name__)

Work = Callable[[dict[str, Any], Path, Sequence[str]], Mapping[str, Any]]
"""``(config, run_dir, overrides) -> results``: a training that goes on where it was, or an evaluation."""


def run(work: Work, config: dict[str, Any], run_dir: str | Path, overrides: Sequence[str], alone: bool) -> float | None:
    """Do what is left of a job; gives its best validation score, or None where it was left to others.

    Args:
        alone: the jobs of this process come one after another, and stopping this one stops them all. Otherwise the
            process is a worker beside others, which a stop reaches through the folder.
    """
    path = Path(run_dir)
    sweep = path.parent
    plan = record.read(sweep)
    state = record.state(path)
    if state == "done":
        log.info("%s: done already", path.name)
        return best_of(atomic.read_json(path / "metrics.json"))
    if state == "running":
        log.info("%s: another process has it", path.name)
        return None
    if reason := called_off(sweep, plan):
        log.info("%s: not started, %s", path.name, reason)
        return None
    log.info(headline(sweep, path.name))
    if not alone:
        usual_processes()
    try:
        results = work(config, path, overrides)
    except Stopped as reason:
        if alone:
            raise
        if isinstance(reason, TimeUp):
            requeue()
        return None
    except UserError as error:
        log.error("%s failed: %s", path.name, error)
        raise
    except Exception:
        log.exception("%s failed", path.name)
        raise
    return best_of(results)


def usual_processes() -> None:
    """Let data workers start as elsewhere: joblib's processes choose a way that DataLoaders cannot use."""
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)


def requeue() -> None:
    """Hand submitit's own signal back to it, now that the checkpoint is there: it requeues the job and leaves."""
    handler = signal.getsignal(signal.SIGUSR2)
    if callable(handler) and type(getattr(handler, "__self__", None)).__module__.startswith("submitit"):
        handler(signal.SIGUSR2, None)


def called_off(sweep: Path, plan: dict[str, Any]) -> str:
    """Why no more jobs of this sweep are to start: what happened to another one since it was launched; or nothing."""
    endings = {"interrupted"} if plan.get("parallel", 1) > 1 else set()
    if plan.get("on_error") == "stop":
        endings.add("failed")
    for name in plan.get("jobs", {}):
        said = record.status(sweep / name)
        if said.get("status") in endings and (said.get("ended") or "") > plan.get("started", ""):
            return f"{name} {said['status']}"
    return ""


def headline(sweep: Path, name: str) -> str:
    """Where the sweep stands as this job starts: ``job 5 of 27: tau=10, seed=0; 3 done, ...``."""
    jobs = record.read(sweep).get("jobs", {})
    if name not in jobs:
        return name
    number = list(jobs).index(name) + 1
    return f"job {number} of {len(jobs)}: {record.label(jobs[name]['factors'])}; {standing(sweep)}"


def standing(sweep: Path) -> str:
    """``3 done, 1 failed, 23 to go, best mIoU 35.20 % (tau=10, seed=1), about 43:10 left``."""
    plan = record.read(sweep)
    states = {name: record.state(sweep / name) for name in plan.get("jobs", {})}
    done = sum(state == "done" for state in states.values())
    failed = sum(state == "failed" for state in states.values())
    left = [name for name, state in states.items() if state in ("new", "stopped", "running")]
    said = [f"{done} done"] + ([f"{failed} failed"] if failed else []) + [f"{len(left)} to go"]
    if best := record.best(sweep):
        value = f"{best.score.name} {best.score.text(best.value)}"
        said.append(f"best {value} ({record.label(plan['jobs'][best.job]['factors'])})")
    seconds = record.seconds_left(sweep, left, plan.get("parallel", 1))
    if seconds and left:
        said.append(f"about {record.clock(seconds)} left")
    return ", ".join(said)
