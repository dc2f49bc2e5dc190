"""How a run is stopped in order: what a signal means, and what status and exit code follow."""

from __future__ import annotations

import os
import signal
from types import FrameType


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
