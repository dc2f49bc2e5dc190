"""One run at a time: a folder's lock is a file that names the process which uses it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from seglab.errors import ConfigError
from seglab.runs.provenance import now, whoami


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
