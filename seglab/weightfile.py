"""The one reader of files of tensors, ours and other people's; nothing in them is run."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seglab.errors import CheckpointError

CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Where training codes keep the tensors in a file, best first: averaged weights are what was published."""


def read(path: str | Path, device: Any = "cpu", mmap: bool = False) -> dict[str, Any]:
    """The content of a file that ``torch.save`` wrote: tensors and plain data only.

    Args:
        mmap: leave the tensors on the disk (files of the zip format only).

    Raises:
        CheckpointError: missing, empty, truncated, not a torch file, or holding objects that would have to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path} — expected a .ckpt file or an exported folder; check the path")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty — expected a checkpoint; take it from its source again")
    whole = zipfile.is_zipfile(path)
    try:
        content = torch.load(path, map_location=device, weights_only=True, mmap=mmap and whole)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        if not whole and named is None:
            raise truncated(path) from error
        raise CheckpointError(
            f"{path} holds more than tensors and plain data ({named.group(1) if named else 'an unknown object'}), and "
            "loading it could run code: refused — expected a checkpoint written by seglab, or a plain state dict"
        ) from error
    except (RuntimeError, EOFError, KeyError, ValueError, OSError, AttributeError, IndexError, TypeError) as error:
        if not whole:
            raise truncated(path) from error
        raise CheckpointError(
            f"{path} cannot be read ({str(error).splitlines()[0][:200]}) — expected a whole checkpoint; take it from "
            "its source again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__} — expected a checkpoint's mapping")
    return content


def truncated(path: Path) -> CheckpointError:
    """The error to raise for what is no torch file of any format."""
    return CheckpointError(
        f"{path} is truncated or not a checkpoint ({path.stat().st_size} bytes) — expected a file that torch.save or "
        "seglab.train wrote; take it from its source again"
    )


def read_safetensors(path: str | Path, device: Any = "cpu") -> dict[str, Tensor]:
    """The tensors of a safetensors file; CheckpointError where there is none, or a damaged one."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device=str(device))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}) — expected a whole safetensors file") from error


def state_of(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a network in what a file holds: those of its container, else those at its top level."""
    inner = next((content[name] for name in CONTAINERS if isinstance(content.get(name), Mapping)), content)
    return {str(name): value for name, value in inner.items() if isinstance(value, Tensor)}
