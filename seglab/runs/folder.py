"""The run folder: what was run, on what, how it went; one run at a time.

::

    config.yaml  overrides.txt  provenance.json  git.diff   what was asked for, and what it ran on
    status.json  train.log                                  running | done | failed | preempted | interrupted | pruned
    metrics.json  scores.json  checkpoints/  images/  tables/   what came out; direction and unit of its numbers
"""

from __future__ import annotations

import logging
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from seglab.errors import ConfigError
from seglab.runs import atomic
from seglab.runs.atomic import jsonable
from seglab.runs.lock import acquire, holder, in_use, release
from seglab.runs.provenance import git_state, machine, now, versions, whoami
from seglab.runs.signals import REASONS, is_main_process, leave, outcome
from seglab.scores import FILE as SCORES
from seglab.scores import FORMAT, Score

log = logging.getLogger(__name__)

Command = Literal["train", "evaluate", "predict", "export"]
FOLDER_KEYS: dict[str, str] = {
    "train": "hydra.run.dir", "evaluate": "output", "predict": "output", "export": "output", "hs3": "output",
}  # fmt: skip
"""The key of each command that chooses the folder it writes to."""
RESULTS = ("checkpoints/last.ckpt", "checkpoints/best.ckpt", "metrics.csv", "metrics.json")
"""What a run has left if it came to anything."""


class RunFolder:
    """A folder that belongs to one run, as a context: the way the block ends is the status and the exit code.

    Args:
        command: whose run it is; what is logged inside also goes to ``COMMAND.log``.
        results: what happens to those that a run has left there: this one goes on with them (``keep``), is refused, or
            has the whole folder set aside.
        at_end: called with the exit code when the block has ended (see :func:`seglab.loggers.close`).

    Raises (on entering):
        ConfigError: another run is using it, or has left results.
    """

    def __init__(
        self,
        path: str | Path,
        command: Command = "train",
        results: Literal["keep", "refuse", "set aside"] = "keep",
        at_end: Callable[[int], None] | None = None,
    ) -> None:
        self.path = Path(path)
        self.command = command
        self.results = results
        self.at_end = at_end
        self.checkpoints = self.path / "checkpoints"
        self.writes = is_main_process()
        self._log: logging.Handler | None = None
        self._handlers: dict[int, Any] = {}
        self._since = self._spent = 0.0

    def __enter__(self) -> Self:
        if self.writes:
            self.make_room()
            with atomic.refused(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                acquire(self.path, FOLDER_KEYS[self.command])
            atomic.sweep(self.path)
            atomic.sweep(self.checkpoints)
            self._since = time.monotonic()
            before = atomic.read_json(self.path / "status.json").get("seconds")
            self._spent = before if isinstance(before, int | float) else 0.0  # before an interruption
            fresh = {"started": now(), "ended": None, "exit_code": None, "error": None}
            update_status(self.path, status="running", **fresh, **whoami())
            self._log = log_to(self.path / f"{self.command}.log")
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, leave) for number in REASONS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status, code = outcome(error)
        if self.at_end is not None:
            self.at_end(code)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self.writes:
            about = f"{type(error).__name__}: {error}" if status == "failed" else None
            spent = self._spent + time.monotonic() - self._since
            update_status(self.path, status=status, exit_code=code, error=about, ended=now(), seconds=round(spent, 1))
            release(self.path)
        if self._log is not None:
            logging.getLogger().removeHandler(self._log)
            self._log.close()

    def make_room(self) -> None:
        """Refuse or set aside what another run has left, unless this one goes on with it.

        Raises:
            ConfigError: there are results, or the run is still on.
        """
        left = [name for name in RESULTS if (self.path / name).exists()]
        if self.results == "keep" or not left:
            return
        if other := holder(self.path):
            raise ConfigError(in_use(self.path, other, FOLDER_KEYS[self.command]))
        if self.results == "refuse":
            state = atomic.read_json(self.path / "status.json")
            step = f", step {state['step']}" if state.get("step") else ""
            raise ConfigError(
                f"{self.path} holds a run ({state.get('status', 'of unknown state')}{step}: {', '.join(left)}) — a "
                "second one would overwrite it: resume=auto goes on with it, overwrite=true sets it aside, "
                f"{FOLDER_KEYS[self.command]}=FOLDER chooses another folder"
            )
        log.warning("the run that was in %s is now in %s", self.path, set_aside(self.path, ".replaced"))

    def describe(self, config: Mapping[str, Any], overrides: Sequence[str], seed: int, data: Any = None) -> None:
        """Write what was asked for (configuration, overrides) and what it runs on (``data`` is a fingerprint)."""
        if not self.writes:
            return
        import yaml

        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        atomic.write_text(self.path / "config.yaml", text)
        atomic.write_text(self.path / "overrides.txt", "".join(f"{override}\n" for override in overrides))
        state, diff = git_state(Path.cwd())
        if diff:
            atomic.write_text(self.path / "git.diff", diff)
        target = self.path / "provenance.json"
        earlier = atomic.read_json(target)  # of a run that is resumed
        if earlier and earlier.get("data") != jsonable(data):
            log.warning(
                "%s: the data's file names, sizes or reading have changed since this run was started", self.path
            )
        starts = [*earlier.pop("earlier", []), earlier] if earlier else []
        present = {
            "started": now(), "command": sys.argv, "folder": str(Path.cwd()), "seed": seed, "data": data,
            "git": state, "versions": versions(), "platform": platform.platform(), "machine": machine(), **whoami(),
            "earlier": starts,
        }  # fmt: skip
        atomic.write_json(target, jsonable(present))

    def write_scores(self, headline: Score, scores: Mapping[str, Score]) -> None:
        """Add to ``scores.json``: what the run is about, and direction and unit of the numbers in ``metrics.json``."""
        if self.writes:
            target = self.path / SCORES
            known = dict(atomic.read_json(target).get("scores") or {})
            known |= {name: score.record() for name, score in scores.items()}
            atomic.write_json(target, {"format": FORMAT, "headline": headline.record(), "scores": known})

    def write_metrics(self, values: Mapping[str, Any]) -> None:
        """Add to ``metrics.json``: numbers and per-class lists under keys like ``test/mIoU``; NaN becomes null."""
        if self.writes:
            target = self.path / "metrics.json"
            atomic.write_json(target, {**atomic.read_json(target), **jsonable(values)})


def set_aside(path: Path, below: str) -> Path:
    """Move a run folder, whole, to ``PARENT/below/NAME-TIME``; gives the new place."""
    path = path.resolve()
    target = path.parent / below / f"{path.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    while target.exists():
        target = target.with_name(f"{target.name}x")
    target.parent.mkdir(exist_ok=True)
    path.rename(target)
    return target


def log_to(path: Path) -> logging.Handler:
    """Send what is logged to a file as well; gives the handler, to be removed again."""
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("[%(asctime)s][%(levelname)s] %(message)s"))
    logging.getLogger().addHandler(handler)
    return handler


def update_status(folder: Path, **fields: Any) -> None:
    """Change fields of ``status.json``."""
    target = Path(folder) / "status.json"
    atomic.write_json(target, {**atomic.read_json(target), **jsonable(fields), "updated": now()})
