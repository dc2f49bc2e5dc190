"""The run folder: what was run, on what, how it went; one run at a time.

::

    config.yaml  overrides.txt  provenance.json  git.diff   what was asked for, and what it ran on
    status.json  train.log                                  running | done | failed | preempted | interrupted | pruned
    metrics.json  checkpoints/  pictures/  tables/          what came out
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import math
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal, Self

from seglab import __version__, atomic
from seglab.errors import ConfigError

log = logging.getLogger(__name__)

PACKAGES = (
    "torch", "lightning", "hydra-core", "omegaconf", "timm", "torchmetrics", "albumentations", "numpy", "pillow",
)  # fmt: skip


Command = Literal["train", "evaluate", "predict", "export"]
FOLDER_KEYS: dict[str, str] = {
    "train": "hydra.run.dir", "evaluate": "output", "predict": "output", "export": "output",
}  # fmt: skip
"""The key of each command that chooses the folder it writes to."""
RESULTS = ("checkpoints/last.ckpt", "checkpoints/best.ckpt", "metrics.csv", "metrics.json")
"""What a run has left if it came to anything."""


class Stopped(SystemExit):
    """A run that ends early and in order. Not an error: a sweep stops with it, and the process leaves with its code."""

    status = "stopped"
    exit_code = 1

    def __init__(self) -> None:
        # Only the main process speaks for the run: a launcher kills the others when one of them leaves with a code.
        super().__init__(self.exit_code if is_main_process() else 0)


class Preempted(Stopped):
    """SIGTERM or SIGUSR1: the machine is wanted for something else. ``resume=auto`` goes on."""

    status = "preempted"
    exit_code = 143


class TimeUp(Preempted):
    """SIGUSR2: submitit warns that the job's time is up or its machine is wanted, and will queue it again."""


class Interrupted(Stopped):
    """Ctrl-C."""

    status = "interrupted"
    exit_code = 130


class Pruned(Stopped):
    """A search has seen enough of this trial. It is not gone on with, and the search is."""

    status = "pruned"
    exit_code = 0


REASONS: dict[int, type[Stopped]] = {
    signal.SIGTERM: Preempted,
    signal.SIGUSR1: Preempted,
    signal.SIGUSR2: TimeUp,
    signal.SIGINT: Interrupted,
}
"""What a signal means."""


def is_main_process() -> bool:
    """Whether this is the one process of a (distributed) run that writes files."""
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


class RunFolder:
    """A folder that belongs to one run, as a context: the way the block ends is the status and the exit code.

    Args:
        command: whose run it is; what is logged inside also goes to ``COMMAND.log``.
        results: what happens to those that a run has left there: this one goes on with them (``keep``), is refused, or
            has the whole folder set aside.

    Raises (on entering):
        ConfigError: another run is using it, or has left results.
    """

    def __init__(
        self, path: str | Path, command: Command = "train", results: Literal["keep", "refuse", "set aside"] = "keep"
    ) -> None:
        self.path = Path(path)
        self.command = command
        self.results = results
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
        from seglab.loggers import close

        status, code = outcome(error)
        close(code)
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
            log.warning("%s: the data's file names or sizes have changed since this run was started", self.path)
        starts = [*earlier.pop("earlier", []), earlier] if earlier else []
        present = {
            "started": now(), "command": sys.argv, "folder": str(Path.cwd()), "seed": seed, "data": data,
            "git": state, "versions": versions(), "platform": platform.platform(), **whoami(), "earlier": starts,
        }  # fmt: skip
        atomic.write_json(target, jsonable(present))

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


def leave(number: int, frame: FrameType | None) -> None:
    """Signal handler: leave at once, through the ``with`` and ``finally`` blocks."""
    raise REASONS[number]


def shield(worker: int = 0) -> None:
    """For a DataLoader's ``worker_init_fn``: a signal to the whole process group is the main process's business.

    A worker that dies of it would take the batch in flight, and with it the checkpoint, along.
    """
    for number in REASONS:
        signal.signal(number, signal.SIG_IGN)


def outcome(error: BaseException | None) -> tuple[str, int]:
    """Status and exit code of a run that ended with ``error``."""
    if error is None:
        return "done", 0
    if isinstance(error, Stopped):
        return error.status, error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return Interrupted.status, Interrupted.exit_code
    if isinstance(error, SystemExit):
        return ("failed", error.code if isinstance(error.code, int) else 1) if error.code else ("done", 0)
    return "failed", getattr(error, "exit_code", 1)


def update_status(folder: Path, **fields: Any) -> None:
    """Change fields of ``status.json``."""
    target = Path(folder) / "status.json"
    atomic.write_json(target, {**atomic.read_json(target), **jsonable(fields), "updated": now()})


def jsonable(value: Any) -> Any:
    """Plain JSON: tensors and arrays as numbers or lists, NaN and infinities as null."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)


def now() -> str:
    """Local time with its offset, fine enough to tell which of two jobs of a second came first."""
    return datetime.now().astimezone().isoformat(timespec="milliseconds")


def whoami() -> dict[str, Any]:
    """This process."""
    return {"host": socket.gethostname(), "pid": os.getpid()}


def versions() -> dict[str, str]:
    """Versions of Python, seglab and what it stands on."""
    found = {"python": platform.python_version(), "seglab": __version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_state(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """Commit, branch and cleanness of the repository around ``folder``, and its uncommitted changes; else None."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout

    try:
        changed = git("status", "--porcelain", "--untracked-files=no").strip() != ""
        branch = git("rev-parse", "--abbrev-ref", "HEAD").strip()
        state = {"commit": git("rev-parse", "HEAD").strip(), "branch": branch, "dirty": changed}
        return state, git("diff", "HEAD") if changed else ""
    except (OSError, subprocess.SubprocessError):  # no git, no repository, no commit yet
        return None, ""


def acquire(folder: Path, key: str = "hydra.run.dir") -> None:
    """Take the folder's lock: a file that names the process. One left by a dead process of this host is taken over.

    Raises:
        ConfigError: a living process, or one on another host, holds it.
    """
    with _locked(folder) as file:
        holder = _parsed(file.read())
        if holder and _alive(holder):
            raise ConfigError(in_use(folder, holder, key))
        file.seek(0)
        file.truncate()
        file.write(json.dumps({**whoami(), "born": born(os.getpid()), "since": now()}))


def in_use(folder: Path, holder: Mapping[str, Any], key: str) -> str:
    """Why a folder cannot be had."""
    return (
        f"another run is using {folder} (process {holder.get('pid')} on {holder.get('host')}, since "
        f"{holder.get('since')}) — a folder belongs to one run; choose another with {key}=…, or, if that process is "
        f"gone, delete {folder / '.lock'}"
    )


def release(folder: Path) -> None:
    """Give the lock back. The file stays, empty: removing it would let two processes hold two files of that name."""
    with _locked(folder) as file:
        file.truncate(0)


@contextmanager
def _locked(folder: Path) -> Iterator[Any]:
    """The lock file, with no other process of this host between reading and writing it."""
    with (Path(folder) / ".lock").open("a+") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        except (ImportError, OSError):  # no such call on this system or file system: the content alone must do
            pass
        file.seek(0)
        yield file


def _parsed(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def holder(folder: str | Path) -> dict[str, Any]:
    """The process that is using a run folder; empty if none is."""
    try:
        found = _parsed((Path(folder) / ".lock").read_text())
    except (OSError, ValueError):  # a lock's text is ASCII
        return {}
    return found if found and _alive(found) else {}


def _alive(holder: Mapping[str, Any]) -> bool:
    """Whether a lock's process may still run; a process number may have been given to another since."""
    if holder.get("host") != socket.gethostname():
        return True
    pid = holder.get("pid")
    if not isinstance(pid, int) or pid < 1:  # of no process
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return holder.get("born") == born(pid)


def born(pid: int) -> str | None:
    """When a living process started, in ticks since boot; None where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]
