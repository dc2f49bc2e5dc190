"""Commands as a user types them: in this process, where starting one costs nothing, or in one of their own."""

from __future__ import annotations

import importlib
import io
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra.core.singleton import Singleton

from seglab.runs.signals import REASONS


@dataclass(frozen=True)
class Done:
    """How a command ended and what it said."""

    returncode: int
    stdout: str
    stderr: str


def run(
    *arguments: str, cwd: Path, module: str = "seglab.train", env: dict[str, str] | None = None, check: bool = True
):
    """``python -m module arguments`` in this process.

    Args:
        env: changes of the environment; a ``PYTHONPATH`` is searched.
        check: fail where the exit code is not 0.
    """
    out, err = io.StringIO(), io.StringIO()
    with as_it_was(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        patch.setattr(sys, "argv", [module, *arguments])
        patch.setenv("HYDRA_FULL_ERROR", "0")
        for name, value in (env or {}).items():
            patch.setenv(name, value)
            if name == "PYTHONPATH":
                patch.syspath_prepend(value)
        with redirect_stdout(out), redirect_stderr(err):
            try:
                importlib.import_module(f"{module}.__main__" if module == "seglab.report" else module).main()
                code = 0
            except SystemExit as left:
                code = int(left.code or 0)
    return checked(Done(code, out.getvalue(), err.getvalue()), check)


def run_apart(
    *arguments: str, cwd: Path, module: str = "seglab.train", env: dict[str, str] | None = None, check: bool = True
) -> Done:
    """The same in a process of its own, for what signals, other processes and the exit code itself are about."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True, text=True, cwd=cwd, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
    )  # fmt: skip
    return checked(Done(done.returncode, done.stdout, done.stderr), check)


def checked(done: Done, check: bool) -> Done:
    """The same, unless it failed and must not."""
    assert not check or done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


@contextmanager
def as_it_was() -> Iterator[None]:
    """What a command changes in its process is put back: Hydra's and logging's state, streams, signal handlers."""
    hydra, root = Singleton.get_state(), logging.getLogger()
    handlers, level, streams = root.handlers[:], root.level, (sys.stdout, sys.stderr)
    signals = {number: signal.getsignal(number) for number in REASONS}
    try:
        yield
    finally:
        Singleton.set_state(hydra)
        root.handlers[:], root.level = handlers, level
        sys.stdout, sys.stderr = streams
        for number, handler in signals.items():
            signal.signal(number, handler)
