"""Checkpoints: written whole or not at all, read without running code, opened from the file alone.

A checkpoint is Lightning's, with one more key, plain data only::

    seglab: {format: 1, version, config: resolved configuration, spec: {name, classes, palette}}

An exported network is a folder with ``model.safetensors`` and the same record in ``config.json``. With weight
averaging, ``state_dict`` holds the averaged weights, so what is evaluated, opened and exported is the average.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric.plugins import CheckpointIO
from torch import Tensor, nn

from seglab import __version__, atomic
from seglab.data.spec import DatasetSpec
from seglab.errors import CheckpointError, ConfigError

log = logging.getLogger(__name__)

KEY = "seglab"
FORMAT = 1
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""Format n -> the function that makes a record of format n + 1 of one of format n."""

FIXED = ("backbone", "decoder", "classifier", "auxiliary", "optim._target_")
"""What a resumed run may not change: its stored tensors would not fit, or would mean something else."""
SILENT = ("run_dir", "resume", "init_from", "callbacks", "logger", "backbone.pretrained", "backbone.weights")
"""What a resumed run may change without a word: it does not touch what is learnt from there on."""


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's way to the disk: a kill or a full disk leaves the old file or the new one; loading runs no code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint; DiskFull where there is no room."""
        with atomic.replacing(Path(path)) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint as data, whatever the caller asks for."""
        return read(path, map_location or "cpu")

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint."""
        Path(path).unlink(missing_ok=True)


@dataclass(frozen=True)
class Description:
    """What a checkpoint says about itself."""

    path: Path
    config: dict[str, Any]
    spec: DatasetSpec
    version: str
    """The seglab that wrote it."""
    step: int
    """Optimiser steps taken."""
    checksum: str | None = None
    """Of the network's tensors, the same for a checkpoint and its export; None where they were not read."""


class Loaded(NamedTuple):
    """What became of the tensors when a network was initialised from another's."""

    kept: list[str]
    new: list[str]
    dropped: list[str]


def read(path: str | Path, device: Any = "cpu", mmap: bool = False) -> dict[str, Any]:
    """The content of a checkpoint, tensors and plain data only.

    Raises:
        CheckpointError: missing, empty, truncated, not a torch file, or holding objects that would have to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path} — expected a .ckpt file or an exported folder; check the path")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty — expected a checkpoint; take it from its source again")
    if not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path} is truncated or not a checkpoint ({path.stat().st_size} bytes) — expected a file that torch.save "
            "or seglab.train wrote; take it from its source again"
        )
    try:
        content = torch.load(path, map_location=device, weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        raise CheckpointError(
            f"{path} holds more than tensors and plain data ({named.group(1) if named else 'an unknown object'}), and "
            "loading it could run code: refused — expected a checkpoint written by seglab, or a plain state dict"
        ) from error
    except (RuntimeError, EOFError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({str(error).splitlines()[0][:200]}) — expected a whole checkpoint; take it from "
            "its source again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__} — expected a checkpoint's mapping")
    return content


def embed(checkpoint: dict[str, Any], config: Mapping[str, Any], spec: DatasetSpec) -> None:
    """Add to a checkpoint what is needed to open it alone."""
    checkpoint[KEY] = record(config, spec)


def record(config: Mapping[str, Any], spec: DatasetSpec) -> dict[str, Any]:
    """The self-description, as plain data."""
    described = {"name": spec.name, "classes": list(spec.classes), "palette": [list(c) for c in spec.palette]}
    return {"format": FORMAT, "version": __version__, "config": plain(config), "spec": described}


def plain(value: Any) -> Any:
    """Mappings, lists and scalars only: what YAML, JSON and a safe unpickler agree on."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def migrate(stored: Any, path: Path) -> dict[str, Any]:
    """A self-description of any known format, in the present one.

    Raises:
        CheckpointError: there is none, or a newer seglab wrote it.
    """
    if not isinstance(stored, dict) or not isinstance(stored.get("format"), int):
        raise CheckpointError(
            f"{path} does not describe its network (no '{KEY}' record) — expected a checkpoint of seglab.train or a "
            "folder of seglab.export; the weights alone can start a run with init_from="
        )
    if stored["format"] > FORMAT:
        raise CheckpointError(
            f"{path} has format {stored['format']}, written by seglab {stored.get('version')} — this is seglab "
            f"{__version__}, which reads up to format {FORMAT}; upgrade with pip install -U seglab"
        )
    while stored["format"] < FORMAT:
        stored = MIGRATIONS[stored["format"]](stored)
    return stored


def _description(stored: Any, step: int, path: Path) -> Description:
    """The typed self-description; CheckpointError where it is incomplete."""
    stored = migrate(stored, path)
    try:
        spec = stored["spec"]
        palette = tuple((int(r), int(g), int(b)) for r, g, b in spec["palette"])
        described = DatasetSpec(str(spec["name"]), tuple(map(str, spec["classes"])), palette)
        return Description(path, dict(stored["config"]), described, str(stored["version"]), int(step))
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise CheckpointError(
            f"{path}: its '{KEY}' record is damaged ({error}) — expected config, spec and version; the weights alone "
            "can start a run with init_from="
        ) from error


def locate(path: str | Path) -> Path:
    """The file behind a path: itself, an exported folder's weights, or a run folder's best (else last) checkpoint."""
    path = Path(path)
    if path.is_dir():
        for inside in ("model.safetensors", "checkpoints/best.ckpt", "checkpoints/last.ckpt"):
            if (path / inside).is_file():
                return path / inside
        raise CheckpointError(
            f"{path} holds no network — expected model.safetensors (an exported folder) or checkpoints/ (a run folder)"
        )
    return path


def open_file(path: str | Path, device: Any = "cpu", mmap: bool = False) -> tuple[dict[str, Tensor], Description]:
    """A network's tensors under their own names, and its description."""
    path = locate(path)
    if path.suffix == ".safetensors":
        stored = atomic.read_json(path.with_name("config.json"))
        tensors, description = read_safetensors(path, device), _description(stored, stored.get("step", 0), path)
    else:
        content = read(path, device, mmap)
        tensors = network_tensors(content)
        description = _description(content.get(KEY), content.get("global_step", 0), path)
    return tensors, description if mmap else replace(description, checksum=checksum(tensors))


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors, as hex digits: of their names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_safetensors(path: Path, device: Any = "cpu") -> dict[str, Tensor]:
    """The tensors of a safetensors file; CheckpointError where it is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device=str(device))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}) — expected a whole safetensors file") from error


def network_tensors(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The network's tensors in a checkpoint, or in a plain state dict of another origin, without wrappers' prefixes."""
    state = content.get("state_dict", content.get("model", content))
    state = state if isinstance(state, Mapping) else {}
    named = {normalise(name): value for name, value in state.items() if isinstance(value, Tensor)}
    if KEY in content or "pytorch-lightning_version" in content:  # a training module's: the network is its `model`
        return {name.removeprefix("model."): value for name, value in named.items() if name.startswith("model.")}
    return named


def normalise(name: str) -> str:
    """A parameter's name without what torch.compile and DistributedDataParallel put into it."""
    return name.replace("_orig_mod.", "").removeprefix("module.")


def describe(path: str | Path) -> Description:
    """What a checkpoint, exported folder or run folder says about itself; the tensors stay on the disk."""
    return open_file(path, mmap=True)[1]


def untrained(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with a backbone that does not fetch weights which are about to be replaced."""
    backbone = config["backbone"]
    changed = {key: value for key, value in {"pretrained": False, "weights": None}.items() if key in backbone}
    return {**config, "backbone": {**backbone, **changed}}


def fill(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load all tensors, and refuse any that is missing, unknown or of another shape."""
    own = model.state_dict()
    shapes = [
        f"{name} {list(tensors[name].shape)} here {list(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    missing, unknown = own.keys() - tensors.keys(), tensors.keys() - own.keys()
    problems = {"missing": missing, "unknown": unknown, "of another shape": shapes}
    if any(problems.values()):
        listed = "; ".join(f"{len(names)} {kind}: {grouped(names)}" for kind, names in problems.items() if names)
        raise CheckpointError(
            f"{path} does not fit the network: {listed} — expected the tensors of this very configuration; "
            "init_from= loads what fits"
        )
    model.load_state_dict(tensors)


def grouped(names: Any) -> str:
    """Names counted by their module, for messages: ``decoder.fuse (4), backbone (2)``."""
    names = sorted(names)
    if len(names) <= 4:
        return ", ".join(names)
    modules: dict[str, int] = {}
    for name in names:
        module = ".".join(name.split(" ")[0].split(".")[:2])
        modules[module] = modules.get(module, 0) + 1
    return ", ".join(f"{module} ({count})" for module, count in modules.items())


def init_from(model: nn.Module, path: str | Path) -> Loaded:
    """Start from another network's weights: tensors of the same name and shape are loaded, and all are accounted for.

    Raises:
        CheckpointError: not a single tensor fits.
    """
    path = locate(path)
    tensors = read_safetensors(path) if path.suffix == ".safetensors" else network_tensors(read(path))
    own = model.state_dict()
    fitting = {name: value for name, value in tensors.items() if name in own and value.shape == own[name].shape}
    if not fitting:
        raise CheckpointError(
            f"{path}: none of its {len(tensors)} tensors fits the network — found names such as "
            f"{', '.join(list(tensors)[:2]) or 'none'}, expected {', '.join(list(own)[:2])}; check backbone=, decoder= "
            "and classifier="
        )
    model.load_state_dict(fitting, strict=False)
    loaded = Loaded(sorted(fitting), sorted(own.keys() - fitting.keys()), sorted(tensors.keys() - fitting.keys()))
    log.info("started from %s: %d tensors kept", path, len(loaded.kept))
    for kind, names in (("new (random)", loaded.new), ("dropped", loaded.dropped)):
        if names:
            log.info("  %d %s: %s", len(names), kind, grouped(names))
    return loaded


def check_resume(old: Description, config: Mapping[str, Any], spec: DatasetSpec) -> list[str]:
    """What a resumed run changes, one line each, which are also logged.

    Raises:
        CheckpointError: other classes, network or optimiser: that is another run.
    """
    instead = f"init_from={old.path} starts a new run from what fits"
    if old.spec.classes != spec.classes:
        raise CheckpointError(
            f"{old.path} was trained on {old.spec.num_classes} classes ({old.spec.name}); now there are "
            f"{spec.num_classes} ({spec.name}) — a run is resumed with its own classes; {instead}"
        )
    changes = {
        key: f"{key}: {before!r} -> {after!r}"
        for key, before, after in difference(old.config, plain(config))
        if not within(key, SILENT)
    }
    refused = [line for key, line in changes.items() if within(key, FIXED)]
    if refused:
        raise CheckpointError(
            f"{old.path} cannot be resumed with another network or optimiser: {'; '.join(refused)} — set it back, or "
            f"{instead}"
        )
    for line in changes.values():
        log.info("resumed with a change: %s", line)
    return list(changes.values())


def within(key: str, prefixes: tuple[str, ...]) -> bool:
    """Whether a dotted key lies at or below one of the prefixes."""
    return any(key == prefix or key.startswith(prefix + ".") for prefix in prefixes)


def difference(before: Any, after: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted keys whose values differ, with both; absent is None."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(name for name in after if name not in before)]:
            yield from difference(before.get(name), after.get(name), f"{key}.{name}" if key else name)
    elif before != after:
        yield key, before, after


def find_resume(run_dir: str | Path) -> Path | None:
    """The checkpoint that ``resume=auto`` goes on from: the one with most steps among those that can be read.

    Raises:
        CheckpointError: there are checkpoints, and none can be read (starting over would overwrite them).
    """
    good: list[tuple[int, bool, Path]] = []
    broken: list[str] = []
    for path in sorted((Path(run_dir) / "checkpoints").glob("*.ckpt")):
        try:
            good.append((describe(path).step, path.stem == "last", path))
        except CheckpointError as error:
            broken.append(str(error))
    if broken and not good:
        raise CheckpointError(f"{broken[0]} — no other checkpoint to fall back to; start over with resume=null")
    if not good:
        return None
    step, _, chosen = max(good)
    for message in broken:
        log.warning("%s — falling back to %s (step %d)", message, chosen, step)
    return chosen


def export_safetensors(model: nn.Module, description: Description, folder: str | Path) -> Path:
    """Write ``model.safetensors`` and ``config.json``: weights any framework reads, and how to build the network."""
    from safetensors.torch import save

    folder = Path(folder)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    config = untrained(description.config)
    with atomic.replacing(folder / "model.safetensors") as file:
        file.write(save(tensors, metadata={"format": "pt"}))
    atomic.write_json(folder / "config.json", {**record(config, description.spec), "step": description.step})
    return folder
