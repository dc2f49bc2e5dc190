"""What a run stands on: time, host and process, versions, the state of the repository."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import socket
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

from seglab.version import __version__

PACKAGES = (
    "torch", "lightning", "hydra-core", "omegaconf", "timm", "torchmetrics", "albumentations", "numpy", "pillow",
)  # fmt: skip


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


def machine() -> dict[str, Any]:
    """What it computes on: the processor's name, the cores that this process may use, accelerators by name."""
    import torch

    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # Linux says more than `uname`
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    return {"processor": name, "cores": cores, "threads": torch.get_num_threads(), "gpus": gpus}


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
